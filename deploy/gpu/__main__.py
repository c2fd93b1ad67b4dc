"""The command: `make gpu-check`, or `python -m deploy.gpu`."""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.gpu.checks import CHECKS, Check
from deploy.gpu.child import make
from deploy.gpu.facilities import Facilities, ask
from deploy.gpu.report import PAGE, Report
from deploy.gpu.row import Row

_SHORTEST_SECONDS = 15
"""With less time left a check is not begun."""


def gpu_check(
    only: Annotated[
        str | None, typer.Option(help=f"Some, of {', '.join(check.name for check in CHECKS)}.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="For all together; what does not fit in is skipped.")
    ] = 8,
    output: Annotated[Path, typer.Option(help="Folder that the results go to, as JSON.")] = Path(
        "results"
    ),
    record: Annotated[
        bool, typer.Option("--record", help="Put the table into docs/gpu.md.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Show results of another machine, run none."),
    ] = None,
) -> None:
    """Try on this machine's GPU what Lorikeet promises: training, parity, serving, memory, speed.

    A check that cannot be made here is skipped, with the reason: no CUDA GPU, no vLLM, …

    [bold]Examples[/]

      make gpu-check

      python -m deploy.gpu --only train-nf4,peak --minutes 3

      python -m deploy.gpu --from results/gpu-check-2026-12-01T101500Z.json --record

    Exit codes: 0 nothing failed, 1 a check failed, 2 wrong usage.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    chosen = _chosen(only)
    if results is not None:
        report = _read(results)
    else:
        machine = ask()
        report = Report(machine, list(_rows(chosen, machine, minutes * 60, console)))
        path = output / f"gpu-check-{machine.date.replace(':', '')}.json"
        report.write(path)
    console.print(report.table())
    if results is None:
        console.print(f"Written to {path}.", soft_wrap=True)
    if record:
        if not report.machine.card:
            raise typer.BadParameter("there is no GPU in these results", param_hint="--record")
        report.record()
        console.print(f"{PAGE.name} has the table now.")
    if report.failed:
        raise typer.Exit(1)


def _rows(
    chosen: list[Check], machine: Facilities, seconds: float, console: Console
) -> Iterator[Row]:
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="gpu-check-home-") as home:
        for check in chosen:
            left = end - time.monotonic()
            reason = machine.reason(check.needs)
            if reason is None and left < _SHORTEST_SECONDS:
                reason = "no time left for it (--minutes)"
            if reason is not None:
                yield Row(check.name, check.what, "skipped", reason=reason)
                continue
            with console.status(f"{check.name}: {check.what}"):
                yield make(check, Path(home), min(check.seconds, left))


def _chosen(only: str | None) -> list[Check]:
    if only is None:
        return list(CHECKS)
    names = {name.strip() for name in only.split(",")}
    if unknown := names - {check.name for check in CHECKS}:
        known = ", ".join(check.name for check in CHECKS)
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose of {known}")
    return [check for check in CHECKS if check.name in names]


def _read(path: Path) -> Report:
    try:
        return Report.read(path)
    except (OSError, ValueError, TypeError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--from") from error


if __name__ == "__main__":
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command()(gpu_check)
    app()
