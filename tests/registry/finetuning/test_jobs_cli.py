"""`lorikeet jobs …`: every tenant's jobs in the terminal, followed to their end."""

import io
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fine_tuning import MakeJob
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner, Result

from registry import Base, LorikeetError, Registry, RegistryUnavailable, UsageError
from registry.errors import JobConflict, UnknownJob
from registry.finetuning import follow
from registry.finetuning.claim import Claim
from registry.finetuning.cli import _complete_job, app
from registry.finetuning.follow import LiveTeller, PlainTeller, sparkline
from registry.finetuning.objects import Event, Job
from registry.finetuning.tables_view import short, span

LEASE = 30.0
NUMBERS = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}


@pytest.fixture(autouse=True)
def _wide_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, LorikeetError):
        raise result.exception
    return result


def begin(registry: Registry) -> Claim:
    """Validate the oldest job and start it."""
    validating = registry.queue.claim_validation("w", lease_seconds=LEASE)
    assert validating is not None
    validating.validated(NUMBERS)
    claim = registry.queue.claim_training("w", lease_seconds=LEASE)
    assert claim is not None
    claim.begins()
    return claim


def take_steps(claim: Claim, last: int = 3) -> None:
    for step in range(1, last + 1):
        figures = {"step": step, "total_steps": last, "train_loss": 2.0 / step}
        claim.metrics(step, f"Step {step}/{last}: training loss={2 / step:.2f}", figures)


@pytest.fixture
def finish(registry: Registry, base: Base, adapters: list[Path]) -> Callable[[Claim], Job]:
    """Make a job succeed."""

    def done(claim: Claim) -> Job:
        version = registry.publish(adapters[0], claim.job.adapter, base=base)
        return claim.succeed(version, trained_tokens=1234, result_files=[])

    return done


def test_the_list_is_everybodys(registry: Registry, make_job: MakeJob) -> None:
    assert "POST /v1/fine_tuning/jobs" in run("list").stdout
    mine = make_job("acme", suffix="support")
    theirs = make_job("umbrella", suffix="news", lorikeet={"priority": 7})
    take_steps(begin(registry))
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["job", "tenant", "status", "adapter", "detail", "made"]
    assert lines[1].split()[:4] == [short(theirs), "umbrella", "validating_files", theirs.adapter]
    assert lines[2].split()[:4] == [short(mine), "acme", "running", mine.adapter]
    assert "step 3/3, loss 0.667" in lines[2]
    (row,) = json.loads(run("list", "--tenant", "acme", "--json").stdout)
    assert (row["id"], row["organization_id"], row["worker"]) == (mine.id, "acme", "w")
    assert short(mine) not in run("list", "--status", "validating_files").stdout
    assert "No such jobs" in run("list", "--status", "failed").stdout
    with pytest.raises(UsageError) as caught:
        run("list", "--status", "done")
    assert "validating_files" in str(caught.value.remedy)


def test_the_list_says_what_more_there_is(registry: Registry, make_job: MakeJob) -> None:
    for _ in range(3):
        make_job()
    assert "The newest 2: --limit 20 shows more" in run("list", "--limit", 2).stdout
    assert "--limit" not in run("list", "--limit", 3).stdout
    assert "lorikeet worker" in run("list").stdout
    registry.queue.seen("host-1", ["cpu"], "waiting")
    assert "lorikeet worker" not in run("list").stdout


def test_show(registry: Registry, make_job: MakeJob, finish: Callable[[Claim], Job]) -> None:
    job = make_job(suffix="support", metadata={"team": "a"}, lorikeet={"rank": 8})
    claim = begin(registry)
    take_steps(claim)
    text = run("show", job.id).stdout
    for told in (
        job.id,
        "running",
        f"{job.training_file} (rows.jsonl)",
        "n_epochs=3",
        "rank=8",
        "team=a",
        "Step 3/3: training loss=0.67",
    ):
        assert told in text
    assert "Step 2/3" not in text
    done = finish(claim)
    text = run("show", job.id).stdout
    assert str(done.fine_tuned_model) in text
    assert str(done.reference) in text
    assert "1,234 tokens" in text
    shown = json.loads(run("show", job.id, "--json").stdout)
    assert shown["fine_tuned_model"] == done.fine_tuned_model
    assert shown["events"][0]["message"] == "The job has successfully completed"
    registry.files.delete(None, job.training_file)
    assert f"{job.training_file} (deleted)" in run("show", job.id).stdout


def test_show_tells_why_a_job_failed(registry: Registry, make_job: MakeJob) -> None:
    job = make_job()
    validating = registry.queue.claim_validation("w", lease_seconds=LEASE)
    assert validating is not None
    validating.fail("invalid_training_file", "line 3: no [assistant] turn", "training_file")
    text = run("show", job.id).stdout
    assert "invalid_training_file (training_file): line 3: no [assistant] turn" in text
    assert "invalid_training_file" in run("list").stdout


def test_the_beginning_of_an_id_is_enough(registry: Registry, make_job: MakeJob) -> None:
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        for which in (job.id, short(job), job.id.removeprefix("ftjob-")[:12]):
            assert json.loads(run("show", which, "--json").stdout)["id"] == job.id
    assert _complete_job(short(jobs[0])) == [jobs[0].id]
    with pytest.raises(UsageError, match="may be 3 jobs"):
        run("cancel", "ftjob-")
    for which in ("ftjob-nothing", "", "nothing"):
        with pytest.raises(UnknownJob) as caught:
            run("show", which)
        assert caught.value.remedy == "see lorikeet jobs list"


def test_jobs_are_steered(registry: Registry, make_job: MakeJob) -> None:
    job = make_job("acme")
    assert run("pause", short(job)).stdout == f"{short(job)} of acme is paused\n"
    assert f"lorikeet jobs resume {short(job)}" in run("show", job.id).stdout
    assert "acme is validating_files" in run("resume", short(job)).stdout
    assert "priority 9" in run("prioritize", short(job), 9).stdout
    assert registry.jobs.get(None, job.id).priority == 9
    assert run("prioritize", short(job), 101).exit_code == 2
    assert "acme is cancelled" in run("cancel", short(job)).stdout
    for command in ("cancel", "pause", "resume"):
        with pytest.raises(JobConflict):
            run(command, short(job))


def test_workers(registry: Registry) -> None:
    assert "lorikeet serve --with-worker" in run("workers").stdout
    assert json.loads(run("workers", "--json").stdout) == []
    registry.queue.seen("host-1", ["0", "1"], "training [ftjob-x]")
    assert "training [ftjob-x]" in run("workers").stdout
    (row,) = json.loads(run("workers", "--json").stdout)
    assert (row["name"], row["devices"]) == ("host-1", ["0", "1"])


def test_a_job_is_followed_to_its_end(
    registry: Registry, make_job: MakeJob, finish: Callable[[Claim], Job]
) -> None:
    job = make_job(suffix="support")

    def work() -> None:
        claim = begin(registry)
        take_steps(claim)
        claim.metrics(4, "Step 4: held out", {"step": 4, "valid_loss": 0.5})
        finish(claim)

    worker = threading.Thread(target=work)
    worker.start()
    result = run("follow", short(job))
    worker.join()
    assert result.exit_code == 0
    text = result.stdout
    told = [
        "Created fine-tuning job",
        "Fine-tuning job started",
        "Step 4: held out",
        "The job has successfully completed",
        f"succeeded: {job.adapter}@1. Try it: lorikeet ask ft:",
    ]
    places = [text.index(words) for words in told]
    assert places == sorted(places)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_job_that_does_not_succeed_ends_the_watch_with_1(
    registry: Registry, make_job: MakeJob, end: str
) -> None:
    job = make_job()
    claim = begin(registry)
    if end == "failed":
        claim.fail("training_diverged", "the loss is not finite")
    else:
        registry.jobs.cancel(None, job.id)
    result = run("follow", job.id)
    assert result.exit_code == 1
    assert f"{end}: lorikeet jobs show {short(job)}" in result.stdout


def test_ctrl_c_leaves_the_job_running(
    registry: Registry, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    job = make_job()
    begin(registry)
    monkeypatch.setattr("registry.finetuning.follow.time.sleep", interrupted)
    result = run("follow", job.id)
    assert result.exit_code == 130
    assert f"goes on without you: lorikeet jobs follow {short(job)}" in result.stdout
    assert registry.jobs.get(None, job.id).status == "running"


class Told:
    """A teller that notes."""

    def __init__(self, on_stands: Callable[[Job], object] = lambda _: None) -> None:
        self.notes: list[str] = []
        self.messages: list[str] = []
        self._on_stands = on_stands

    def note(self, text: str) -> None:
        self.notes.append(text)

    def events(self, events: Any) -> None:
        self.messages += [event.message for event in events]

    def stands(self, job: Job) -> None:
        self._on_stands(job)


def test_a_watcher_is_told_once_that_nobody_works(registry: Registry, make_job: MakeJob) -> None:
    job, seen = make_job(), 0

    def stands(_: Job) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            registry.jobs.cancel(None, job.id)

    told = Told(stands)
    assert follow.follow(registry, job.id, told).status == "cancelled"
    assert told.notes == ["No worker is there to run it: start one with lorikeet worker"]
    assert told.messages[-1] == "The job was cancelled"


def test_a_database_that_is_away_ends_no_watch(
    registry: Registry, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    registry.jobs.cancel(None, job.id)
    real, asked = registry.jobs.get, 0

    def get(tenant: str | None, job_id: str) -> Job:
        nonlocal asked
        asked += 1
        if asked <= 3:
            raise RegistryUnavailable("the database cannot be reached")
        return real(tenant, job_id)

    monkeypatch.setattr(registry.jobs, "get", get)
    told = Told()
    assert follow.follow(registry, job.id, told).status == "cancelled"
    assert [note.split(";")[0] for note in told.notes] == ["the database cannot be reached"]


def event(message: str, data: dict[str, Any] | None = None) -> Event:
    kind: Any = "message" if data is None else "metrics"
    return Event("ftevent-1", "ftjob-1", datetime.now(UTC), "info", kind, message, data)


def test_plain_lines_do_not_tell_every_step() -> None:
    console = Console(file=io.StringIO(), width=80)
    teller = PlainTeller(console)
    steps = [event(f"step {n}", {"step": n, "train_loss": 1.0}) for n in range(5)]
    teller.events([event("started"), *steps])
    teller.events([event("step 6", {"step": 6}), event("held out", {"valid_loss": 1.0})])
    told = [line.split(maxsplit=1)[1] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert told == ["started", "step 4", "held out"]


def test_the_live_line(registry: Registry, make_job: MakeJob) -> None:
    make_job()
    claim = begin(registry)
    claim.renew(LEASE, estimated_finish=datetime.now(UTC) + timedelta(seconds=131))
    job = registry.jobs.get(None, claim.job.id)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        teller = LiveTeller(live)
        assert teller.line(job, 100).plain.startswith("running  2 min")
        for step, loss in enumerate((4.0, 3.0, 2.0, 1.0), start=1):
            data = {"step": step, "total_steps": 9, "train_loss": loss, "tokens_per_second": 812.4}
            teller.events([event("said" if step == 1 else "", data)])
        teller.events(
            [
                event("Checkpoint [1]"),
                event(
                    "",
                    {"step": 4, "total_steps": 9}
                    | {"valid_loss": 0.612, "tokens_per_second": 812.4},
                ),
            ]
        )
        teller.stands(job)
        line = teller.line(job, 100).plain
    assert line.startswith(
        "running  step 4/9  loss 1.000 █▆▃▁  held-out 0.612  812 tokens/s  2 min "
    )
    assert line.endswith(" s left")
    assert "Checkpoint [1]" in output.getvalue()
    assert "loss 1.000" in output.getvalue()
    for width in (100, 80):
        teller.events([event("", {"train_loss": float(n % 7)}) for n in range(500)])
        assert len(teller.line(job, width).plain) <= width


def test_sparklines() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([1.0], 10) == "▁"
    assert sparkline([2.0, 2.0], 10) == "▁▁"
    assert sparkline([float(n) for n in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8.0, 8.0, 1.0, 1.0], 2) == "█▁"
    assert len(sparkline([float(n) for n in range(1000)], 13)) == 13


def test_spans() -> None:
    told = [span(seconds) for seconds in (-1, 59, 61, 3600, 90061)]
    assert told == ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "25 h 1 min"]


@pytest.mark.parametrize(
    "command",
    ["list", "show", "follow", "cancel", "pause", "resume", "prioritize", "workers"],
)
def test_every_help_has_an_example(command: str) -> None:
    assert f"lorikeet jobs {command}" in run(command, "--help").stdout
