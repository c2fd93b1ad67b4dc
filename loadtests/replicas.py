"""What one server's work takes, and whether the simulation foretells what replicas do with it.

    python -m loadtests.replicas                       # the echo engine with times that are set
    python -m loadtests.replicas --engine vllm --base org/model --seconds 300

First a single server is measured: a token in batches of several sizes, a cold load, the prompt, the
way to the engine and back. Then a trace is played to `lorikeet serve --replicas`, and the same
trace is simulated on those times (loadtests.simulate). Both are put beside each other.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from loadtests.data_folder import DataFolder
from loadtests.lengths import Length, Lengths
from loadtests.machine import describe_machine
from loadtests.player import Heard, play
from loadtests.probe import probe
from loadtests.simulation.fleet import POLICIES, Figures, figures, simulate
from loadtests.simulation.replica import Capacity
from loadtests.simulation.timing import Timing
from loadtests.simulation.trace import Request, drawn
from registry import DEFAULT_BASE, Base, RegistrySettings, resolve_base
from registry.terminal import run_command
from serve.child import child_server, free_port

MIX = Lengths([Length(32, 16, 3), Length(64, 32, 1)])
CAPACITY = Capacity(max_num_seqs=8, max_loras=8, max_loaded=36)
ECHO = {
    "LORIKEET_SERVE_ECHO_TOKEN_SECONDS": "0.1",
    "LORIKEET_SERVE_ECHO_LOAD_SECONDS": "1.0",
}
TOLERANCE = 0.2
JUDGED = ("warm_rate", "ttft_p50", "ttft_p99", "tokens_per_second")


@dataclass(frozen=True, slots=True)
class Server:
    """Replicas that run; `metrics` are their addresses."""

    url: str
    metrics: tuple[str, ...]

    def hits(self) -> Mapping[str, float]:
        """Requests so far whose adapter was `warm` or `cold`."""
        texts = [httpx.get(url, timeout=10, trust_env=False).text for url in self.metrics]
        found = re.findall(
            r'^lorikeet_adapter_hits_total\{.*kind="(\w+)".*\} ([\d.e+]+)$', "\n".join(texts), re.M
        )
        counts = {"warm": 0.0, "cold": 0.0}
        for kind, value in found:
            counts[kind] += float(value)
        return counts


def run(
    engine: Annotated[str, typer.Option(help="echo or vllm.")] = "echo",
    base: Annotated[str, typer.Option(help="Base model.")] = DEFAULT_BASE,
    replicas: Annotated[int, typer.Option(min=1, help="Servers that the trace is played to.")] = 2,
    adapters: Annotated[int, typer.Option(min=2, max=1000, help="Published, and asked.")] = 64,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests/s.")] = 5.0,
    seconds: Annotated[float, typer.Option(min=5, help="Length of the trace.")] = 90.0,
    zipf: Annotated[float, typer.Option(min=0, help="Exponent of the popularity.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the trace.")] = 0,
    output: Annotated[Path, typer.Option(help="The results.")] = Path("results/replicas.json"),
) -> None:
    """Measure one server, play a trace to replicas, and compare with the simulation.

    Exit code 1 where a figure is more than 20 % off.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    names = [f"tenant-{number:02}" for number in range(1, adapters + 1)]
    trace = drawn(
        names, rate=rate, seconds=seconds, zipf=zipf, lengths=MIX, tenant="default", seed=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found: Base = resolve_base(base, RegistrySettings())
        data = DataFolder(place / "home", found)
        console.print(f"publishing {len(names)} adapters")
        data.publish_alike(names, rank=8, modules=7)
        console.print("measuring one server")
        with _served(1, engine, found, place) as server:
            timing = Timing(asyncio.run(probe(server.url, names, CAPACITY)))
        console.print(f"playing {len(trace)} requests to {replicas} replicas")
        with _served(replicas, engine, found, place) as server:
            heard = asyncio.run(play(server.url, trace))
            hits = server.hits()
    measured = _figures(trace, heard, hits)
    predicted = figures(simulate(trace, replicas, CAPACITY, timing, POLICIES["affinity"]))
    document = {
        "machine": describe_machine(),
        "engine": engine,
        "base": found.id,
        "replicas": replicas,
        "capacity": asdict(CAPACITY),
        "trace": {"adapters": adapters, "rate": rate, "seconds": seconds, "zipf": zipf},
        "timing": timing.measured.model_dump(mode="json"),
        "measured": measured.to_json(),
        "predicted": predicted.to_json(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n")
    console.print(table(measured, predicted))
    if any(abs(off(measured, predicted, name)) > TOLERANCE for name in JUDGED):
        sys.exit(1)


def off(measured: Figures, predicted: Figures, name: str) -> float:
    """How far the prediction of a figure is from what was measured, in parts of that."""
    value = getattr(measured, name)
    return float(getattr(predicted, name) / value - 1) if value else float("inf")


def table(measured: Figures, predicted: Figures) -> Table:
    """For a terminal."""
    shown = Table(title="Replicas")
    shown.add_column("figure")
    for heading in ("measured", "simulated", "off"):
        shown.add_column(heading, justify="right")
    for name in JUDGED:
        values = [f"{getattr(it, name):.3g}" for it in (measured, predicted)]
        shown.add_row(name.replace("_", " "), *values, f"{off(measured, predicted, name):+.0%}")
    return shown


@contextmanager
def _served(replicas: int, engine: str, base: Base, folder: Path) -> Iterator[Server]:
    first = free_port()
    options = ["--base", str(base.path), "--engine", engine, "--max-replicas", str(replicas)]
    options += ["--replicas", str(replicas), "--metrics-port", str(first), "--max-lora-rank", "8"]
    for name, value in asdict(CAPACITY).items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    environment = {"LORIKEET_HOME": str(folder / "home"), "LORIKEET_DATABASE_URL": "", **ECHO}
    with child_server(options, folder / f"{replicas}.log", env=environment) as child:
        ports = range(first, first + replicas)
        yield Server(child.url, tuple(f"http://127.0.0.1:{port}/metrics" for port in ports))


def _figures(trace: list[Request], heard: list[Heard], hits: Mapping[str, float]) -> Figures:
    """What the replicas' clients saw, and their own counts of warm and cold."""
    good = [it for it in heard if it.tokens]
    ttfts = [it.first_token - it.request.at for it in good] or [float("nan")]
    seconds = max((it.ended for it in good), default=0.0) - trace[0].at
    return Figures(
        requests=len(trace),
        refused=len(heard) - len(good),
        warm_rate=hits["warm"] / max(1.0, hits["warm"] + hits["cold"]),
        ttft_p50=float(np.percentile(ttfts, 50)),
        ttft_p99=float(np.percentile(ttfts, 99)),
        tokens_per_second=sum(it.tokens for it in good) / max(1e-9, seconds),
        seconds=seconds,
    )


def main() -> None:
    """The command line; every expected failure is one clear error."""
    run_command(run)


if __name__ == "__main__":
    main()
