"""`python -m deploy.monitoring`: write the dashboards and the rules.

    python -m deploy.monitoring --out /etc/lorikeet --first-token-seconds 1 \\
        --runbook https://git.example.com/lorikeet/docs/runbook.md
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.monitoring.files import RUNBOOK, monitoring_files
from deploy.monitoring.objectives import Objectives
from registry.terminal import run_command

DEPLOY = Path(__file__).parents[1]
PROMISED = Objectives()


def main(
    out: Annotated[
        Path, typer.Option(help="Folder that gets `grafana/` and `prometheus/`.")
    ] = DEPLOY,
    availability: Annotated[
        float, typer.Option(help="Share of requests that must not fail.")
    ] = PROMISED.availability,
    first_token: Annotated[
        float, typer.Option(help="Share of requests whose first token must come in time.")
    ] = PROMISED.first_token,
    first_token_seconds: Annotated[
        float, typer.Option(help="That time in seconds, one of the histogram's bounds.")
    ] = PROMISED.first_token_seconds,
    runbook: Annotated[
        str, typer.Option(help="Where docs/runbook.md is read, for the alerts' links.")
    ] = RUNBOOK,
) -> None:
    """Write the dashboards and the rules for these objectives."""
    objectives = Objectives(availability, first_token, first_token_seconds)
    for name, text in monitoring_files(objectives, runbook).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        Console().print(f"wrote {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_command(main)
