"""How many replicas, slots and places adapters need: a simulation on measured times.

    python -m loadtests.simulate                                  # 10 to 10,000 adapters
    python -m loadtests.simulate --adapters 500 --replicas 4      # what four replicas give
    python -m loadtests.simulate --trace day.jsonl --goal 0.5     # your own traffic

It plays the server's own admission and routing (serve.round_robin, serve.affinity) in simulated
time. The engine is a model: a step takes what was measured for so many sequences of so many
adapters (python -m loadtests.replicas measures). docs/scaling.md reads its tables.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtests.lengths import DEFAULT_LENGTHS, Lengths
from loadtests.simulation.fleet import POLICIES, Figures, fewest_replicas, figures, simulate
from loadtests.simulation.replica import Capacity
from loadtests.simulation.timing import Timing
from loadtests.simulation.trace import Request, drawn, read_trace
from registry import UsageError
from registry.terminal import run_command

TIMING = Path(__file__).parents[1] / "docs" / "benchmarks" / "replicas.json"


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy needs, or gives, for one trace; `replicas` None: the most are not enough."""

    adapters: int
    rate: float
    policy: str
    replicas: int | None
    figures: Figures

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def run(
    adapters: Annotated[
        str, typer.Option(help="How many, most used first; several are rows of the table.")
    ] = "10,100,1000,10000",
    trace: Annotated[
        Path | None,
        typer.Option(help="JSONL of requests, or a server's log, in place of drawn ones."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests/s, however many adapters there are.")
    ] = 4.0,
    rate_per_adapter: Annotated[
        float, typer.Option(min=0, help="Requests/s more for each adapter, on average.")
    ] = 0.0,
    zipf: Annotated[float, typer.Option(min=0, help="Exponent of the adapters' popularity.")] = 1.0,
    lengths: Annotated[
        Path, typer.Option(help="File of prompt and answer lengths, JSON or CSV.")
    ] = DEFAULT_LENGTHS,
    seconds: Annotated[float, typer.Option(min=1, help="Simulated, for each row.")] = 300.0,
    warm_up: Annotated[
        float, typer.Option(min=0, help="Seconds of these that do not count.")
    ] = 0.0,
    replicas: Annotated[
        int, typer.Option(min=0, help="So many. [dim]0: as few as keep the goal[/]")
    ] = 0,
    most: Annotated[int, typer.Option(min=1, help="Replicas to try at most.")] = 64,
    goal: Annotated[float, typer.Option(min=0, help="p99 TTFT to keep, in seconds.")] = 2.0,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Seats of a replica.")] = 32,
    max_loras: Annotated[int, typer.Option(min=1, help="Slots of a replica.")] = 8,
    max_loaded: Annotated[int, typer.Option(min=1, help="Places of a replica.")] = 64,
    policies: Annotated[str, typer.Option(help="Ways to route.")] = ",".join(POLICIES),
    timing: Annotated[Path, typer.Option(help="Results that have measured times.")] = TIMING,
    seed: Annotated[int, typer.Option(help="Of arrivals, adapters and lengths.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the rows as JSON too.")] = None,
) -> None:
    """Simulate replicas of the server, and print what each way of routing needs or gives.

    A row has the warm rate (requests whose adapter was loaded), the time to first token and the
    output of the fewest replicas that keep the goal, or of --replicas.
    """
    unknown = [name for name in policies.split(",") if name not in POLICIES]
    if unknown:
        raise typer.BadParameter(f"choose of {', '.join(POLICIES)}", param_hint="--policies")
    capacity = Capacity(max_num_seqs, max_loras, max_loaded)
    times, mix, console = Timing.read(timing), Lengths.read(lengths), _console()
    if trace is not None:
        found = read_trace(trace)
        played = {len({it.adapter for it in found if it.adapter is not None}): found}
    else:
        played = {
            count: drawn(
                [f"adapter-{number:05}" for number in range(1, count + 1)],
                rate=rate + rate_per_adapter * count,
                seconds=seconds,
                zipf=zipf,
                lengths=mix,
                seed=seed,
            )
            for count in _counts(adapters)
        }
    rows: list[Row] = []
    for count, requests in played.items():
        with console.status(f"{len(requests):,} requests"):
            rows += [
                _row(count, requests, name, capacity, times, replicas, goal, most, warm_up)
                for name in policies.split(",")
            ]
    console.print(table(rows))
    if output is not None:
        document = {"goal": goal, "capacity": asdict(capacity), "zipf": zipf}
        document |= {"seconds": seconds, "warm_up": warm_up, "timing": times.measured.model_dump()}
        document["rows"] = [row.to_json() for row in rows]
        output.write_text(json.dumps(document, indent=2) + "\n")


def _row(
    adapters: int,
    requests: Sequence[Request],
    name: str,
    capacity: Capacity,
    timing: Timing,
    replicas: int,
    goal: float,
    most: int,
    since: float,
) -> Row:
    policy = POLICIES[name]
    found = replicas or fewest_replicas(
        requests, capacity, timing, policy, goal=goal, most=most, since=since
    )
    served = simulate(requests, found or most, capacity, timing, policy)
    rate = len(requests) / max(1e-9, requests[-1].at) if requests else 0.0
    return Row(adapters, rate, name, found, figures(served, since))


def table(rows: Sequence[Row]) -> Table:
    """For a terminal."""
    shown = Table(title="Simulated")
    for heading in ("adapters", "requests/s"):
        shown.add_column(heading, justify="right")
    shown.add_column("routing")
    for heading in ("replicas", "warm", "TTFT p50", "TTFT p99", "tokens/s", "refused"):
        shown.add_column(heading, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row.adapters):
            shown.add_section()
        it, first = row.figures, row.adapters != previous
        shown.add_row(
            f"{row.adapters:,}" if first else "",
            f"{row.rate:.1f}" if first else "",
            row.policy,
            "too many" if row.replicas is None else str(row.replicas),
            f"{it.warm_rate:.0%}",
            f"{it.ttft_p50:.2f} s",
            f"{it.ttft_p99:.2f} s",
            f"{it.tokens_per_second:.0f}",
            str(it.refused),
        )
        previous = row.adapters
    return shown


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--adapters: {text!r} is not numbers", remedy="write 10,100,1000"
        ) from error
    if min(counts) < 1:
        raise UsageError("--adapters: there must be one at least", remedy="write 10,100,1000")
    return counts


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> None:
    """The command line; every expected failure is one clear error."""
    run_command(run)


if __name__ == "__main__":
    main()
