"""`lorikeet data check`: what a run would make of a data file, before it is started."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    pass


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A file of rows, a folder that `datasets` saved, or a hub id (org/name\\[@rev]).",
        ),
    ],
    base: Annotated[
        str, typer.Option(help="Base model: the default, a Hugging Face id or a local folder.")
    ] = "smollm2-135m-instruct",
    eval_data: Annotated[Path | None, typer.Option(help="Held-out rows.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, as `lorikeet train` takes it.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated."),
    ] = None,
    row: Annotated[
        int | None, typer.Option(metavar="LINE", help="The row to show, by its line.", min=1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON; progress goes to stderr.")] = False,
) -> None:
    """Check rows as training would read them: faults, tokens, what is in the loss, time and memory.

    Every faulty row is counted. One row is shown as the model sees it, the trained part marked.

    \b
    Examples:
      lorikeet data check rows.jsonl
      lorikeet data check rows.csv --base org/model --eval-data held-out.csv
      lorikeet data check rows.jsonl --row 17 --set max_length=2048
      lorikeet data check org/data-set@main --json

    Exit codes: 0 can be trained on, 1 training would refuse it, 2 wrong usage.
    """
    from rich.console import Console

    from registry import RegistrySettings, resolve_base
    from registry.terminal import print_json
    from train.data.check import check_data
    from train.data.report import print_report
    from train.hardware import yield_idle_cores
    from train.progress import reporting
    from train.settings_file import load_settings

    settings = load_settings(config, overrides or [])
    yield_idle_cores()
    with reporting(Console(stderr=True)) as reporter:
        resolved = resolve_base(base, RegistrySettings(), reporter.making)
        report = check_data(file, eval_data, settings, resolved, reporter, row=row)
    if as_json:
        print_json(report.as_dict())
    else:
        print_report(Console(), report, settings)
    if report.refusals:
        raise typer.Exit(1)
