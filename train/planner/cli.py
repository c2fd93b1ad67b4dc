"""`lorikeet plan`: what a model takes to train and to serve, before anything is downloaded."""

import json
from typing import Annotated, Literal

import typer

from registry import UsageError

_CARDS = {
    "l4": 24,
    "a10g": 24,
    "rtx3090": 24,
    "rtx4090": 24,
    "l40s": 48,
    "a6000": 48,
    "a100": 80,
    "h100": 80,
    "h200": 141,
}


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="The default base, a config.json, a model's folder or a Hugging Face id (of which "
            "only the config is fetched).",
            metavar="MODEL",
        ),
    ],
    seq: Annotated[int, typer.Option(help="Tokens of a training row.", min=8)] = 1024,
    batch: Annotated[int, typer.Option(help="Rows of a forward pass.", min=1)] = 8,
    rank: Annotated[int, typer.Option(help="LoRA rank.", min=1, max=64)] = 16,
    optimizer: Annotated[
        Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"],
        typer.Option(help="AdamW in 32 or 8 bits; auto: 8 bits on a GPU, 32 on a CPU."),
    ] = "auto",
    trained: Annotated[
        int | None,
        typer.Option(help="Tokens of a row that are trained, its answer; default: all.", min=1),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            help="A card, by its memory in GiB or its name (L4, L40S, A100, H100 …); may be "
            "repeated. Default: 24, 48 and 80.",
        ),
    ] = None,
    gpus: Annotated[
        int, typer.Option(help="So many GPUs of a kind, in one machine or joined.", min=1, max=1024)
    ] = 1,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(help="GPUs that serving cuts each layer over; default: most.", min=1),
    ] = None,
    pipeline_parallel_size: Annotated[
        int, typer.Option(help="Stages that serving shares the layers out to.", min=1)
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON, sizes in bytes, for programs.")
    ] = False,
) -> None:
    """Say how much memory a model takes to train and to serve, from its config alone.

    \b
    Examples:
      lorikeet plan smollm2-135m-instruct
      lorikeet plan mistralai/Mistral-7B-Instruct-v0.2 --seq 2048 --batch 4 --gpu 24
      lorikeet plan ./my-model/config.json --rank 32 --gpu H100 --json
      lorikeet plan meta-llama/Llama-2-70b-hf --gpus 4 --gpu L40S --tensor-parallel-size 4

    Exit codes: 0 done, 1 no such model or one not covered, 2 wrong usage.
    """
    from rich.console import Console

    from registry import RegistrySettings
    from train.planner.plan import CARDS, Plan
    from train.planner.source import read_config
    from train.progress import reporting
    from train.settings import TrainSettings

    cards = sorted({_card(name) for name in gpu}) if gpu else CARDS
    settings = TrainSettings(max_length=seq, batch_size=batch, rank=rank, optimizer=optimizer)
    with reporting(Console(stderr=True)) as reporter:
        config = read_config(model, RegistrySettings(), reporter.making)
    planned = Plan.of(
        config,
        settings,
        cards,
        trained,
        gpus=gpus,
        tensor=tensor_parallel_size,
        pipeline=pipeline_parallel_size,
    )
    if as_json:
        typer.echo(json.dumps(planned.as_dict(), indent=2))
        return
    from train.planner.tables import show

    show(Console(), model, planned)


def _card(name: str) -> int:
    text = name.lower().removesuffix("gib").removesuffix("gb").strip()
    named = _CARDS.get(text.replace(" ", "").replace("-", ""))
    size = named or (int(text) if text.isdecimal() else 0)
    if not 1 <= size <= 4096:
        raise UsageError(
            f"--gpu {name} is no card that is known",
            remedy=f"give its memory in GiB, or one of {', '.join(_CARDS)}",
        )
    return size
