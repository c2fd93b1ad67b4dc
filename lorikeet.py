"""Lorikeet's front door: one `lorikeet` command that mounts each package's own sub-commands.

Exit codes: 0 done, 1 failed (the error says what, and how to mend it), 2 wrong usage, 130 Ctrl-C.
"""

from typing import TYPE_CHECKING, Annotated

import typer

import deploy.certify
import registry.cli
import registry.finetuning.cli
import registry.keys_cli
import serve.cli
import serve.top.cli
import train.cli
import train.data.cli
import train.evaluation.cli
import train.handoff.cli
import train.planner.cli
import train.runs.cli
import train.worker.cli
from registry.terminal import clear_errors

if TYPE_CHECKING:
    from serve.settings import ServeSettings

app = typer.Typer(
    name="lorikeet",
    help="One base model, one accelerator, many fine-tuned adapters: train, publish, serve.",
    epilog="Start with:  lorikeet train --help   lorikeet serve --help   lorikeet ask --help",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="train")(train.cli.train)
app.command(name="plan")(train.planner.cli.plan)
app.add_typer(train.runs.cli.app, name="runs")
app.add_typer(train.data.cli.app, name="data")
app.command(name="eval")(train.evaluation.cli.evaluate)
registry.cli.app.command(name="certify")(deploy.certify.certify)
registry.cli.app.command(name="export")(train.handoff.cli.export)
app.add_typer(registry.cli.app, name="adapters")
app.add_typer(registry.keys_cli.app, name="keys")
app.add_typer(registry.finetuning.cli.app, name="jobs")
app.command(name="serve")(serve.cli.serve)
app.command(name="worker")(train.worker.cli.worker)
app.command(name="ask")(serve.cli.ask)
app.command(name="top")(serve.top.cli.top)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"lorikeet {version('lorikeet')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = _serve_replicas


def _serve_replicas(settings: "ServeSettings") -> None:
    """What `lorikeet serve --replicas` calls: `serve` itself knows nothing of `deploy`."""
    from deploy.replicas.machine import serve_replicas

    serve_replicas(settings)


def main() -> None:
    """Run the command line; every expected failure is one clear error, never a traceback."""
    with clear_errors():
        app()


if __name__ == "__main__":
    main()
