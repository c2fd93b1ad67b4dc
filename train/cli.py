"""`lorikeet train`: from a file of rows to a published adapter version."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry import UsageError
from registry.details import evaluation_tables

if TYPE_CHECKING:
    from rich.console import Console

    from train.progress import Reporter
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
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Rows to train on: .jsonl, .json, .csv, .tsv or .parquet, a `datasets` folder or "
            "a Hub id.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the adapter; a new version of it is made.")
    ] = None,
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
    resumed: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with a run that was stopped, by its id or folder; its settings hold.",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            help="Train with so many workers of a Ray cluster; without one, on this machine.",
            min=1,
        ),
    ] = None,
    accelerate_config: Annotated[
        Path | None,
        typer.Option(
            help="For Ray's workers: what `accelerate launch --config_file` takes (FSDP).",
        ),
    ] = None,
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
    Parquet. Only the answers are trained. Nothing is published unless all went well; a run that was
    stopped, by Ctrl-C or a crash, can be resumed.

    \b
    Examples:
      lorikeet train --data rows.jsonl --name support
      lorikeet train --data rows.csv --name support --set epochs=5 --set rank=8
      lorikeet train --data rows.jsonl --name support --base org/model --no-publish --json
      lorikeet train --data rows.jsonl --eval-data held-out.jsonl --name support \\
        --config recipe.yaml
      lorikeet train --resume support-20261124-150103
      accelerate launch -m lorikeet train --data rows.jsonl --name support
      lorikeet train --data rows.jsonl --name support --ray-workers 4

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    from rich.console import Console

    from train.hardware import yield_idle_cores
    from train.processes import launched
    from train.progress import SilentReporter, reporting
    from train.settings_file import load_settings

    if resumed is not None:
        _refuse_beside_resume(context)
    elif data is None or name is None:
        raise UsageError(
            "--data and --name are needed", remedy="or --resume RUN, to go on with a run"
        )
    if accelerate_config is not None and ray_workers is None:
        raise UsageError(
            "--accelerate-config is for --ray-workers",
            remedy="give it to accelerate launch: --config_file",
        )
    settings = load_settings(config, overrides or [])
    yield_idle_cores()
    from registry import RegistrySettings
    from train.run import TrainRequest, resume, run

    places = RegistrySettings()

    def start(reporter: "Reporter") -> "TrainResult":
        if resumed is not None:
            return resume(resumed, places, reporter)
        assert data is not None
        assert name is not None
        request = TrainRequest(
            data=data,
            name=name,
            base=base,
            settings=settings,
            eval_data=eval_data,
            publish=publish,
            registry_settings=places,
        )
        return run(request, reporter)

    if ray_workers is not None:
        from train.ray_train import train_on_ray

        result = train_on_ray(start, ray_workers, places, accelerate_config)
    elif not launched().is_first:
        start(SilentReporter())
        return
    else:
        with reporting(Console(stderr=True)) as reporter:
            result = start(reporter)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
    else:
        _show(Console(), result)


def _refuse_beside_resume(context: typer.Context) -> None:
    """Raise UsageError where options are given that a resumed run has already."""
    given = [
        "--" + parameter.replace("_", "-")
        for parameter in ("data", "name", "base", "config", "eval_data", "publish")
        if _was_given(context, parameter)
    ]
    if _was_given(context, "overrides"):
        given.append("--set")
    if given:
        raise UsageError(
            f"{', '.join(given)}: a resumed run has its own",
            remedy="give --resume alone, or start a new run without it",
        )


def _was_given(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _show(console: "Console", result: "TrainResult") -> None:
    record = result.training
    console.print(
        f"{record['steps']} steps in {record['seconds']:.0f} s, "
        f"{record['tokens_per_second']:.0f} tokens/s, "
        f"loss {record['first_loss']:.3f} → {record['last_loss']:.3f}",
        highlight=False,
    )
    if result.evaluation is not None:
        for table in evaluation_tables(result.evaluation.as_dict()):
            console.print(table)
    if result.version is None:
        console.print("not published (--no-publish)", highlight=False)
        console.print(f"  run:       {result.run}", highlight=False, soft_wrap=True)
    else:
        console.print(f"published {result.version.reference}", highlight=False, style="bold")
        console.print(f"  serve it:  lorikeet serve --base {result.base}", highlight=False)
        console.print(f'  ask it:    lorikeet ask {result.name} "…"', highlight=False)
        console.print(f"  run:       {result.run}", highlight=False, soft_wrap=True)
