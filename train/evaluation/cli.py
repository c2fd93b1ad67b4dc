"""`lorikeet eval`: is a published version better than its base, and than a few-shot prompt?"""

from pathlib import Path
from typing import Annotated

import typer

from registry.cli import AsJson, Which
from registry.terminal import print_json
from train.evaluation.options import BasePlace, HeldOut


def evaluate(
    reference: Which,
    data: HeldOut = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Training rows to show in the few-shot prompt; default: those of the run."
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=0, max=64, help="Examples in the few-shot prompt; 0: none. [dim]as in the run[/]"
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Ask so many held-out rows only, drawn by seed.")
    ] = None,
    base: BasePlace = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask this running server, not the model in memory.", metavar="URL"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="A key of that server.", envvar="OPENAI_API_KEY")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Record the result on the version.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Ask held-out rows of a version, of its base, and of the base with examples in the prompt.

    The table has the share of right answers, token F1, the held-out loss, each
    with its 95 % interval, and what a row costs; for labels also who was taken
    for whom. It is kept on the version: `lorikeet adapters promote` reads it.

    \b
    Examples:
      lorikeet eval titulares
      lorikeet eval titulares@3 --data held-out.jsonl --shots 8
      lorikeet eval titulares@3 --url http://127.0.0.1:8000 --no-save --json

    Exit codes: 0 evaluated, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    from rich.console import Console

    from registry import PROD
    from registry.details import evaluation_tables
    from registry.gate import objections
    from train.hardware import yield_idle_cores
    from train.progress import reporting

    yield_idle_cores()
    from train.evaluation.evaluate_version import EvalRequest, evaluate_version
    from train.evaluation.subject import Rows

    request = EvalRequest(reference, Rows(data, examples, shots, rows), base, url, api_key, save)
    with reporting(Console(stderr=True)) as reporter:
        version, evaluation = evaluate_version(request, reporter)
    if as_json:
        print_json({"reference": version.reference, "evaluation": evaluation})
        return
    console = Console()
    for table in evaluation_tables(evaluation):
        console.print(table)
    judged = version.manifest.model_copy(update={"evaluation": evaluation})
    against = [why for why, _ in objections(judged, PROD, require_certificate=False)]
    console.print(
        f"{version.reference}: {'; '.join(against) or 'better than both baselines'}",
        highlight=False,
        markup=False,
        style="bold",
    )
