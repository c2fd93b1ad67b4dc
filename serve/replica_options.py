"""The options of `lorikeet serve` for several servers behind one address."""

from typing import Annotated

import typer

PANEL = "Replicas"

Replicas = Annotated[
    int | None,
    typer.Option(
        "--replicas",
        help="Servers behind one address, each with an engine (a GPU) of its own. [dim]1[/]",
        rich_help_panel=PANEL,
    ),
]
MaxReplicas = Annotated[
    int | None,
    typer.Option(
        "--max-replicas",
        help="As many as requests need, from --replicas to this. [dim]--replicas[/]",
        rich_help_panel=PANEL,
    ),
]
