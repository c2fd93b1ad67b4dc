"""The options of `lorikeet serve` that spread one engine over several GPUs."""

from typing import Annotated, Literal

import typer

PANEL = "Several GPUs"

TensorParallel = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel-size",
        help="GPUs that each layer is cut over. [dim]1[/]",
        rich_help_panel=PANEL,
    ),
]
PipelineParallel = Annotated[
    int | None,
    typer.Option(
        "--pipeline-parallel-size",
        help="Stages that the layers are shared out to. [dim]1[/]",
        rich_help_panel=PANEL,
    ),
]
ExecutorBackend = Annotated[
    Literal["auto", "mp", "ray"] | None,
    typer.Option(
        "--distributed-executor-backend",
        help="mp: on one machine; ray: on several. [dim]auto: mp[/]",
        rich_help_panel=PANEL,
    ),
]
FullySharded = Annotated[
    bool | None,
    typer.Option(
        "--fully-sharded-loras",
        help="Cut both halves of every adapter over the GPUs, not one.",
        rich_help_panel=PANEL,
    ),
]
