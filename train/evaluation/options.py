"""Options that the commands about a published version share: which rows, and where the base is."""

from pathlib import Path
from typing import Annotated

import typer

HeldOut = Annotated[
    Path | None,
    typer.Option(help="Held-out rows; default: those of the run that made the version."),
]
BasePlace = Annotated[
    str | None,
    typer.Option(help="Where the base model is: its name, a Hugging Face id or a folder."),
]
