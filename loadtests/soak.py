"""A long steady load, and whether the server lost anything in it: `make soak`.

    python -m loadtests.soak                                        # ten minutes on its own server
    python -m loadtests.soak --minutes 2 --engine echo
    python -m loadtests.soak --url http://127.0.0.1:8000 --pid 4711 # a server that runs

More adapters are asked than the server keeps loaded, and some readers leave midway: loads,
evictions and aborted answers are where leases, slots and descriptors would be lost. Exit code 1 if
anything was.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import psutil  # type: ignore[import-untyped]
import typer
from rich.console import Console

from loadtests.leaks import Findings, Gauges, Watch, at_rest
from loadtests.lengths import DEFAULT_LENGTHS, Lengths
from loadtests.load import described, finish, report, run_folder, saying
from loadtests.machine import describe_machine
from loadtests.own_server import ADMIN, QUIET, ServerOrder, own_server
from loadtests.plan import LoadPlan, LoadRun
from registry import DEFAULT_BASE, UsageError
from registry.terminal import run_command

SAMPLES, SHORTEST_INTERVAL = 240, 1.0
"""Looks at the processes in the whole load, and the seconds between two of them at least."""
SHORTEST_CONTEXT, TEMPLATE_TOKENS = 2048, 256
"""Of its own server, in tokens; room for what a chat template adds to the longest prompt."""
WARM_SHARE = 0.05
"""Of the time, for a load before the one that counts: pools fill, and every kind of step runs."""
WARM_SECONDS = 5, 30
"""Its bounds."""


def soak(
    minutes: Annotated[float, typer.Option(min=0.1, max=24 * 60, help="Length of the load.")] = 10,
    users: Annotated[int, typer.Option(min=1, max=64, help="Users that wait for answers.")] = 8,
    url: Annotated[
        str, typer.Option(help="Server to load. [dim]one of its own, started for this[/]")
    ] = "",
    pid: Annotated[
        int | None, typer.Option(help="Process of the server at --url, to watch it.")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a server elsewhere, if it is yours.")
    ] = False,
    lengths: Annotated[
        Path, typer.Option(help="File of prompt and answer lengths, JSON or CSV.")
    ] = DEFAULT_LENGTHS,
    leave_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of answers that the user leaves midway.")
    ] = 0.05,
    base: Annotated[str, typer.Option(help="Base model of its own server.")] = DEFAULT_BASE,
    engine: Annotated[str, typer.Option(help="vllm or echo, of its own server.")] = "vllm",
    adapters: Annotated[int, typer.Option(min=1, max=1000, help="Of its own server.")] = 12,
    max_loras: Annotated[int, typer.Option(min=1, help="Slots of its own server.")] = 4,
    output: Annotated[Path, typer.Option(help="Folder for the run's folder.")] = Path("results"),
) -> None:
    """Load a server for long and look for what it loses.

    With --url the API key is OPENAI_API_KEY's; what cannot be looked at there is named.
    """
    longest = Lengths.read(lengths).longest
    seconds = max(4, round(minutes * 60))
    plan = LoadPlan(
        shape="steady",
        users=users,
        rate=0,
        seconds=seconds,
        lengths=lengths,
        whole=True,
        leave_share=leave_share,
        max_requests=10_000_000,
        allow_remote=allow_remote,
    )
    order = ServerOrder(
        base,
        engine,
        adapters,
        max_loras,
        max_loaded=max(max_loras, adapters * 2 // 3),
        kv_cache_gib=0.25,  # small, so that all of it has been written before the second half
        max_model_len=max(SHORTEST_CONTEXT, longest + TEMPLATE_TOKENS),
        with_keys=True,
    )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    say = saying(console)
    machine = describe_machine()
    folder = run_folder(output, "soak", machine["date"])
    with ExitStack() as stack:
        log, key = None, os.environ.get("OPENAI_API_KEY", "")
        gauges = Gauges(url, key)
        about: dict[str, Any] = {"url": url}
        if not url:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorikeet-soak-")))
            server = stack.enter_context(own_server(order, files, folder, say))
            url, pid, log, key = server.child.url, server.child.pid, server.log, server.keys[QUIET]
            gauges = Gauges(url, server.keys[ADMIN])
            about = described(order)
            plan = replace(plan, adapters=server.adapters)
        findings = Findings()
        ran, samples = _load(plan, url, key, pid, folder, findings, say)
        findings.judge_gauges(gauges)
    if log is None:
        findings.skipped.append("the server's log: it is the server's own")
    else:
        findings.judge_log(log)
    document = report("soak", plan, ran, machine, about)
    findings.judge_answers(ran.answers)
    document |= {"samples": samples, "skipped": findings.skipped}
    finish(document, folder, findings.verdicts, console)
    for reason in findings.skipped:
        console.print(f"not checked: {reason}", markup=False, soft_wrap=True)
    if not all(verdict.kept for verdict in findings.verdicts):
        sys.exit(1)


def _load(
    plan: LoadPlan,
    url: str,
    key: str,
    pid: int | None,
    folder: Path,
    findings: Findings,
    say: Callable[[str], None],
) -> tuple[LoadRun, list[dict[str, Any]]]:
    """Warm up, load, and look at the processes before, meanwhile and after.

    Raises: LorikeetError.
    """
    shortest, longest = WARM_SECONDS
    warm = replace(plan, seconds=round(min(max(plan.seconds * WARM_SHARE, shortest), longest)))
    say(f"warming up for {warm.seconds} s")
    warm.run(url, folder / "warm-up.jsonl", api_key=key)
    records = folder / "answers.jsonl"
    if pid is None:
        findings.skipped.append("memory and file descriptors: the server's --pid is not known")
        say(f"loading for {plan.seconds} s")
        return plan.run(url, records, api_key=key), []
    try:
        before = at_rest(pid)
    except psutil.Error as error:
        raise UsageError(f"cannot watch process {pid}: {error}", remedy="check --pid") from error
    say(f"loading for {plan.seconds} s")
    with Watch(pid, max(SHORTEST_INTERVAL, plan.seconds / SAMPLES)) as watch:
        ran = plan.run(url, records, api_key=key)
    say("looking at the server at rest")
    try:
        findings.judge_processes(watch.samples, before, at_rest(pid))
    except psutil.Error:
        findings.at_most("ends of the server", 1, 0)
    return ran, [asdict(found) for found in watch.samples]


def main() -> None:
    """The command line; every expected failure is one clear error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which ends the server
    run_command(soak)


if __name__ == "__main__":
    main()
