"""`lorikeet train`: from a file of rows to a published adapter version."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from train.evaluation.scores import Score
    from train.run import TrainResult


def _list_settings(wanted: bool) -> None:
    if not wanted:
        return
    from rich.console import Console
    from rich.table import Table

    from train.settings import TrainSettings

    table = Table("setting", "default", "what it is", box=None, pad_edge=False)
    for name, setting in TrainSettings.model_fields.items():
        table.add_row(name, str(setting.default), setting.description)
    Console().print(table, markup=False)
    raise typer.Exit


def train(
    data: Annotated[
        Path, typer.Option(help="Rows to train on: .jsonl, .json, .csv, .tsv or .parquet.")
    ],
    name: Annotated[str, typer.Option(help="Name of the adapter; a new version of it is made.")],
    base: Annotated[
        str, typer.Option(help="Base model: the default, a Hugging Face id or a local folder.")
    ] = "smollm2-135m-instruct",
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, one `key: value` a line.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated."),
    ] = None,
    eval_data: Annotated[
        Path | None,
        typer.Option(help="Held-out rows; without it a share of the rows is held out."),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish/--no-publish", help="Publish the adapter in the registry.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the result as JSON, progress to stderr.")
    ] = False,
    _settings: Annotated[
        bool,
        typer.Option(
            "--settings",
            help="List the settings and their defaults.",
            callback=_list_settings,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Train a QLoRA adapter on your rows, evaluate it on held-out ones, publish a version.

    Rows are prompt and completion, messages, or Llama-2's text with \\[INST], in JSON lines, CSV or
    Parquet. Only the answers are trained. Nothing is published unless all went well.

    \b
    Examples:
      lorikeet train --data rows.jsonl --name support
      lorikeet train --data rows.csv --name support --set epochs=5 --set rank=8
      lorikeet train --data rows.jsonl --name support --base org/model --no-publish --json
      lorikeet train --data rows.jsonl --eval-data held-out.jsonl --name support \\
        --config recipe.yaml

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    from rich.console import Console

    from train.hardware import yield_idle_cores
    from train.progress import reporting
    from train.settings_file import load_settings

    settings = load_settings(config, overrides or [])
    yield_idle_cores()
    from train.run import TrainRequest, run

    request = TrainRequest(
        data=data,
        name=name,
        base=base,
        settings=settings,
        eval_data=eval_data,
        publish=publish,
    )
    with reporting(Console(stderr=True)) as reporter:
        result = run(request, reporter)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
    else:
        _show(Console(), result)


def _show(console: "Console", result: "TrainResult") -> None:
    record = result.training
    console.print(
        f"{record['steps']} steps in {record['seconds']:.0f} s, "
        f"{record['tokens_per_second']:.0f} tokens/s, "
        f"loss {record['first_loss']:.3f} → {record['last_loss']:.3f}",
        highlight=False,
    )
    if result.evaluation is not None:
        _show_scores(console, result)
    if result.version is None:
        console.print("not published (--no-publish)", highlight=False)
    else:
        console.print(f"published {result.version.reference}", highlight=False, style="bold")
        console.print(f"  serve it:  lorikeet serve --base {result.base}", highlight=False)
        console.print(f'  ask it:    lorikeet ask {result.name} "…"', highlight=False)


def _show_scores(console: "Console", result: "TrainResult") -> None:
    from rich.table import Table

    evaluation = result.evaluation
    assert evaluation is not None
    table = Table(box=None, pad_edge=False)
    for column in ("held-out rows", "right", "accuracy", "95 % interval", "token F1", "loss"):
        table.add_column(column, justify="left" if column == "held-out rows" else "right")

    def add(who: str, score: "Score") -> None:
        table.add_row(
            who,
            f"{score.correct}/{score.rows}",
            f"{score.accuracy:.1%}",
            f"{score.low:.1%} to {score.high:.1%}",
            f"{score.token_f1:.2f}",
            "" if score.loss is None else f"{score.loss:.3f}",
        )

    if evaluation.base is not None:
        add("base", evaluation.base)
    if evaluation.few_shot is not None:
        add(f"base, {evaluation.few_shot_examples} examples in the prompt", evaluation.few_shot)
    add(f"adapter {result.name}", evaluation.adapter)
    console.print(table)
