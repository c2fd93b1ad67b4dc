"""`lorikeet runs`: the training runs that are in the data folder."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.terminal import print_json

if TYPE_CHECKING:
    from train.runs.folder import RunFolder

app = typer.Typer(
    help="See training runs: how they went, and how to go on with one.", no_args_is_help=True
)
_DAMAGED = {"status": "damaged", "started_at": "", "steps": 0, "loss": None, "version": None}
_Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


@app.command(name="list")
def list_all(as_json: _Json = False) -> None:
    """All runs, the newest first.

    \b
    Examples:
      lorikeet runs list
      lorikeet runs list --json
    """
    from rich.console import Console
    from rich.table import Table

    from registry import RegistrySettings
    from train.errors import RunDamaged
    from train.runs.folder import list_runs

    settings = RegistrySettings()
    found = []
    for folder in list_runs(settings):
        try:
            found.append(_summary(folder))
        except RunDamaged:
            found.append({**_DAMAGED, "id": folder.id, "path": str(folder.path)})
    if as_json:
        print_json(found)
        return
    if not found:
        Console().print(f"no runs in {settings.runs}", highlight=False, soft_wrap=True)
        return
    table = Table("run", "status", "started (UTC)", "steps", "loss", "version", box=None)
    for run in found:
        loss = "" if run["loss"] is None else f"{run['loss']:.3f}"
        table.add_row(
            run["id"],
            run["status"],
            run["started_at"].replace("T", " ").removesuffix("Z"),
            str(run["steps"]),
            loss,
            run["version"] or "",
        )
    Console().print(table, markup=False)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, or its folder.")], as_json: _Json = False
) -> None:
    """One run: how it stands, what it trained on, where its files are.

    \b
    Examples:
      lorikeet runs show support-20261124-150103
    """
    from rich.console import Console
    from rich.table import Table

    from registry import RegistrySettings
    from train.runs.folder import RunFolder

    folder = RunFolder.open(RegistrySettings(), run)
    summary = _summary(folder)
    data = json.loads(folder.data_file.read_text()) if folder.data_file.is_file() else {}
    if as_json:
        print_json({**summary, "inputs": data})
        return
    table = Table.grid(padding=(0, 2))
    for key, value in _rows(folder, summary, data):
        table.add_row(key, value)
    Console().print(table, markup=False)


def _summary(folder: "RunFolder") -> dict[str, Any]:
    """run.json with the last step and loss; a run whose process died is `killed`."""
    from registry import RegistrySettings
    from train.runs.checkpoints import Checkpoints
    from train.runs.lock import is_under_way
    from train.runs.metrics import Metrics

    record = folder.record
    steps = [line for line in Metrics(folder.metrics).lines() if "loss" in line]
    status: str = record.status
    if status == "running" and not is_under_way(RegistrySettings(), record.held_as, folder.id):
        status = "killed"
    checkpoint = Checkpoints(folder.checkpoints).latest()
    return {
        **asdict(record),
        "status": status,
        "path": str(folder.path),
        "steps": steps[-1]["step"] if steps else 0,
        "loss": steps[-1]["loss"] if steps else None,
        "checkpoint": checkpoint.step if checkpoint else None,
    }


def _rows(
    folder: "RunFolder", summary: dict[str, Any], data: dict[str, Any]
) -> list[tuple[str, str]]:
    rows = [("run", summary["id"]), ("status", summary["status"])]
    if summary["error"]:
        rows.append(("error", summary["error"]))
    if summary["status"] in ("killed", "stopped", "failed"):
        at = f"after step {summary['checkpoint']}" if summary["checkpoint"] else "from the start"
        rows.append(("go on", f"lorikeet train --resume {summary['id']}   ({at})"))
    rows += [("base", summary["base"]), ("data", summary["data"])]
    if part := data.get("data"):
        trained = f"{part['trained_tokens']:,} of {part['tokens']:,} tokens in the loss"
        rows.append(("", f"{part['rows']} rows, {trained}"))
    rows.append(("steps", str(summary["steps"])))
    if summary["loss"] is not None:
        rows.append(("loss", f"{summary['loss']:.4f}"))
    if summary["version"]:
        rows.append(("version", summary["version"]))
    rows.append(("started", summary["started_at"]))
    if summary["finished_at"]:
        rows.append(("finished", summary["finished_at"]))
    if summary["resumed"]:
        rows.append(("resumed", f"{summary['resumed']} times"))
    if folder.report.is_file():
        rows.append(("report", str(folder.report)))
    rows.append(("folder", summary["path"]))
    return rows
