"""One run of load on an OpenAI-compatible server, and its report.

    python -m loadtests.load ramp                                   # on a server that it starts
    python -m loadtests.load steady --url http://127.0.0.1:8000     # on one that runs
    python -m loadtests.load burst --rate 4 --slo loadtests/slo.yaml

report.html and report.json are in a folder of their own under results/, beside each answer's times
and the logs. Nothing but the OpenAI routes is asked, so that any such server can be measured.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtests.check import objectives_table
from loadtests.lengths import DEFAULT_LENGTHS, Lengths
from loadtests.machine import describe_machine
from loadtests.own_server import NOISY, QUIET, ServerOrder, own_server
from loadtests.plan import LoadPlan, LoadRun
from loadtests.reports.page import headings, shown, write_page
from loadtests.reports.slo import SLO
from loadtests.reports.summary import finite, summary, write_summary
from loadtests.verdict import Verdict, verdicts_json
from registry import DEFAULT_BASE, UsageError
from registry.terminal import run_command


@dataclass(frozen=True, slots=True)
class Scenario:
    """A shape with what it is about: its defaults, each of which has an option."""

    what: str
    shape: str
    users: int
    seconds: int
    noise: float = 0.0
    """Times the level."""
    adapters: int = 8


SCENARIOS: Mapping[str, Scenario] = {
    "steady": Scenario("one level", "steady", users=4, seconds=60),
    "ramp": Scenario("doubled step by step, until the server is saturated", "ramp", 32, 120),
    "burst": Scenario("calm, then suddenly the full level, three times", "burst", 16, 105),
    "noisy": Scenario("a quiet tenant, meanwhile a noisy one", "noisy", 1, 90, noise=16),
    "churn": Scenario("1,000 adapters, asked as Zipf says", "steady", 4, 90, adapters=1000),
}


def load(
    scenario: Annotated[
        str,
        typer.Argument(help="; ".join(f"{name}: {s.what}" for name, s in SCENARIOS.items()) + "."),
    ] = "steady",
    url: Annotated[
        str, typer.Option(help="Server to load. [dim]one of its own, started for this[/]")
    ] = "",
    users: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Highest number of users that wait.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=1000, help="Instead: requests/s that wait for no answer.")
    ] = 0.0,
    seconds: Annotated[
        int | None, typer.Option(min=2, max=24 * 3600, help="Length of the run.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(min=0, help="Users, or requests/s, of the noisy tenant.")
    ] = None,
    models: Annotated[
        str, typer.Option(help="Adapters, most used first. [dim]those the server lists, or all[/]")
    ] = "",
    base_model: Annotated[str, typer.Option(help="Name of the base model, to ask it too.")] = "",
    base_share: Annotated[float, typer.Option(help="Its share; 1 without --models.")] = 0.0,
    zipf: Annotated[float, typer.Option(help="Exponent of the adapters' popularity.")] = 1.0,
    lengths: Annotated[
        Path, typer.Option(help="File of prompt and answer lengths, JSON or CSV.")
    ] = DEFAULT_LENGTHS,
    whole: Annotated[
        bool, typer.Option(help="Answers of exactly that length (vLLM's ignore_eos).")
    ] = True,
    leave_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of answers that the user leaves midway.")
    ] = 0.0,
    max_in_flight: Annotated[
        int, typer.Option(min=1, max=1024, help="With --rate: requests open at a time.")
    ] = 64,
    max_requests: Annotated[int, typer.Option(min=1, help="Stop after so many.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of prompts, models and moments.")] = 0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a server elsewhere, if it is yours.")
    ] = False,
    slo: Annotated[
        Path | None, typer.Option(help="Objectives to keep; exit code 1 if one is missed.")
    ] = None,
    base: Annotated[str, typer.Option(help="Base model of its own server.")] = DEFAULT_BASE,
    engine: Annotated[str, typer.Option(help="vllm or echo, of its own server.")] = "vllm",
    adapters: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Random adapters of its own server.")
    ] = None,
    max_loras: Annotated[int, typer.Option(min=1, help="Slots of its own server.")] = 8,
    output: Annotated[Path, typer.Option(help="Folder for the run's folder.")] = Path("results"),
) -> None:
    """Load a server and report what it did: throughput, latencies, failures.

    The API key is OPENAI_API_KEY's, the noisy tenant's NOISY_API_KEY's.
    """
    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"choose of {', '.join(SCENARIOS)}", param_hint="SCENARIO")
    found = SCENARIOS[scenario]
    Lengths.read(lengths)
    objectives = None if slo is None else SLO.read(slo)
    level = rate or users or found.users
    plan = LoadPlan(
        shape=found.shape,
        users=users or found.users,
        rate=rate,
        seconds=seconds or found.seconds,
        noise=level * found.noise if noise is None else noise,
        adapters=[name for name in models.split(",") if name],
        base_model=base_model,
        base_share=base_share,
        zipf=zipf,
        lengths=lengths,
        whole=whole,
        leave_share=leave_share,
        max_in_flight=max_in_flight,
        max_requests=max_requests,
        seed=seed,
        allow_remote=allow_remote,
    )
    order = ServerOrder(
        base, engine, adapters or found.adapters, max_loras, with_keys=found.shape == "noisy"
    )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(f"[dim]{plan.seconds} s of {scenario}: {plan.describe()['level']}[/]")
    document, folder = run_load(scenario, plan, output, url=url, order=order, console=console)
    judged = [] if objectives is None else objectives.judge(finite(document))
    finish(document, folder, judged, console)
    if not all(verdict.kept for verdict in judged):
        sys.exit(1)


def run_load(
    scenario: str, plan: LoadPlan, output: Path, *, url: str, order: ServerOrder, console: Console
) -> tuple[dict[str, Any], Path]:
    """Load the server at `url`, or one that is started for it; the report and its folder.

    Raises: LorikeetError.
    """
    machine = describe_machine()
    folder = run_folder(output, scenario, machine["date"])
    keys = os.environ.get("OPENAI_API_KEY", ""), os.environ.get("NOISY_API_KEY", "")
    with ExitStack() as stack:
        about: dict[str, Any] = {"url": url}
        if not url:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorikeet-load-")))
            server = stack.enter_context(own_server(order, files, folder, saying(console)))
            url, about = server.child.url, described(order)
            plan = replace(plan, adapters=plan.adapters or server.adapters)
            keys = server.keys.get(QUIET, ""), server.keys.get(NOISY, "")
        console.print("[dim]sending[/]")
        records = folder / "answers.jsonl"
        ran: LoadRun = plan.run(url, records, api_key=keys[0], noisy_key=keys[1])
    document = report(scenario, plan, ran, machine, about)
    return document, folder


def saying(console: Console) -> Callable[[str], None]:
    """Tells what is being done."""
    return lambda what: console.print(f"[dim]{what}[/]")


def report(
    scenario: str,
    plan: LoadPlan,
    ran: LoadRun,
    machine: Mapping[str, Any],
    server: Mapping[str, Any],
) -> dict[str, Any]:
    """The document of a run that has ended."""
    about = {
        "scenario": scenario,
        "date": machine["date"],
        "load": plan.describe(),
        "server": dict(server),
        "machine": dict(machine),
    }
    return summary(about, ran.answers, ran.stages, saturated=ran.saturated, cut_short=ran.cut_short)


def described(order: ServerOrder) -> dict[str, Any]:
    """Its own server, for the report."""
    return {
        "url": "started for this run",
        "base": order.base,
        "engine": order.engine,
        "adapters": order.adapters,
        "max_loras": order.max_loras,
    }


def run_folder(output: Path, scenario: str, date: str) -> Path:
    """A new folder for a run. Raises UsageError where it cannot be made."""
    folder = output / f"load-{scenario}-{date.replace(':', '').removesuffix('+0000')}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error}", remedy="check --output") from error
    return folder


def finish(
    document: dict[str, Any], folder: Path, judged: Sequence[Verdict], console: Console
) -> None:
    """Write both reports, and show the figures."""
    document["verdicts"] = verdicts_json(judged)
    document = finite(document)
    write_summary(document, folder / "report.json")
    write_page(document, folder / "report.html")
    table = Table(title=f"Load: {document['scenario']}")
    for number, heading in enumerate(headings("")):
        table.add_column(heading, justify="right" if number else "left")
    table.add_row("all", *shown(document["total"]))
    if len(document["stages"]) > 1:
        for stage in document["stages"]:
            table.add_row(stage["name"], *shown(stage["figures"]))
    for name, figures in document["tenants"].items():
        table.add_row(f"tenant {name}", *shown(figures))
    console.print(table)
    for found in document["errors"]:
        console.print(f"{found['count']} failed: {found['error']}", markup=False, soft_wrap=True)
    if document["saturated"]:
        console.print("The ramp ended at saturation.")
    if document["cut_short"]:
        console.print(f"The run ended before its time: {document['cut_short']}.", markup=False)
    if judged:
        console.print(objectives_table(judged))
    console.print(f"Written to {folder}/report.html and report.json.", soft_wrap=True)


def main() -> None:
    """The command line; every expected failure is one clear error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which ends the server
    run_command(load)


if __name__ == "__main__":
    main()
