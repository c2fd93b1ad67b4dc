"""`lorikeet adapters export`: a version as a folder for elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from registry.cli import AsJson, Which
from registry.terminal import print_json
from train.evaluation.options import BasePlace


def export(
    reference: Which,
    out: Annotated[Path, typer.Argument(help="A new or an empty folder.", metavar="OUT")],
    kind: Annotated[
        Literal["peft", "merged"],
        typer.Option(
            "--format",
            help="peft: the adapter's files; merged: a whole model with the adapter in it.",
        ),
    ] = "peft",
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(help="Of merged weights; default: the base's own."),
    ] = None,
    base: BasePlace = None,
    as_json: AsJson = False,
) -> None:
    """Write a version to a folder that Hugging Face's tools read, with a model card.

    A merged model is the base as the adapter knows it, which is the quantised one, de-quantised,
    plus the adapter. It is read again and compared with the adapter on its base before the folder
    gets its name. What goes wrong leaves nothing behind.

    \b
    Examples:
      lorikeet adapters export titulares@3 out/titulares
      lorikeet adapters export titulares out/merged --format merged --dtype bfloat16
      lorikeet serve --base out/merged

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    from rich.console import Console

    from train.hardware import yield_idle_cores
    from train.progress import reporting

    yield_idle_cores()
    from train.handoff.export import ExportRequest, export_version

    request = ExportRequest(reference, out, kind, dtype, base)
    with reporting(Console(stderr=True)) as reporter:
        exported = export_version(request, reporter)
    if as_json:
        print_json(exported.as_dict())
        return
    console = Console()
    console.print(
        f"{exported.version.reference} is in {exported.folder}", highlight=False, style="bold"
    )
    if exported.agreement is not None:
        found = exported.agreement
        console.print(
            f"  checked: log-probabilities differ by {found.max:.2g} at most, {found.mean:.2g} on "
            f"average; likeliest token the same in {found.top1:.1%} of {found.tokens} places",
            highlight=False,
        )
        console.print(f"  serve it: lorikeet serve --base {exported.folder}", highlight=False)
