"""Whether a run of load kept its service-level objectives: exit code 1 where it did not.

python -m loadtests.check results/load-steady-…/report.json --slo loadtests/slo.yaml
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.reports.slo import SLO
from loadtests.reports.summary import read_summary
from loadtests.verdict import Verdict
from registry.terminal import run_command


def check(
    report: Annotated[Path, typer.Argument(help="The report.json of a run.")],
    slo: Annotated[Path, typer.Option(help="YAML file with the objectives.")],
) -> None:
    """Judge each objective, print the table, and fail if one was missed or not measured."""
    judged = SLO.read(slo).judge(read_summary(report))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(objectives_table(judged))
    if not all(verdict.kept for verdict in judged):
        sys.exit(1)


def objectives_table(judged: Sequence[Verdict]) -> Table:
    """For a terminal."""
    shown = Table(title="Objectives")
    shown.add_column("objective")
    for heading in ("goal", "measured", ""):
        shown.add_column(heading, justify="right" if heading else "left")
    for verdict in judged:
        word = "[green]kept[/]" if verdict.kept else "[red]missed[/]"
        value = "not measured" if math.isnan(verdict.value) else f"{verdict.value:.4g}"
        sign = "≤" if verdict.at_most else "≥"
        shown.add_row(escape(verdict.promise), f"{sign} {verdict.goal:g}", value, word)
    return shown


def main() -> None:
    """The command line; every expected failure is one clear error."""
    run_command(check)


if __name__ == "__main__":
    main()
