"""Jobs and workers as people read them in a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from registry.finetuning.names import FINE_TUNED, short_id
from registry.finetuning.objects import Event, File, Job, Model, Worker

if TYPE_CHECKING:
    from rich.table import Table

_DIGEST = len("sha256:") + 12
STYLES = {
    "running": "green",
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "dim",
    "paused": "yellow",
}


def short(job: Job) -> str:
    """A job's id, as short as it is in its model's name: `ftjob-x7k2m9q1`."""
    return f"{job.id.partition('-')[0]}-{short_id(job.id)}"


def print_jobs(jobs: Sequence[Job], newest: Mapping[str, Event]) -> None:
    """A line for each job; `newest` has the last figures of those that run, by job id."""
    table = _table("job", "tenant", "status", "adapter", "detail", "made")
    for job in jobs:
        table.add_row(
            short(job),
            job.tenant,
            Text(job.status, style=STYLES.get(job.status, "")),
            job.reference or job.adapter,
            Text(_detail(job, newest.get(job.id))),
            f"{job.created_at.astimezone():%m-%d %H:%M}",
        )
    Console().print(table)


def print_workers(workers: Sequence[Worker]) -> None:
    """A line for each worker."""
    table = _table("worker", "devices", "doing", "seen")
    for worker in workers:
        seen = f"{worker.seen_at.astimezone():%H:%M:%S}"
        table.add_row(Text(worker.name), ", ".join(worker.devices), Text(worker.doing), seen)
    Console().print(table)


def print_job(
    job: Job, files: Mapping[str, File], checkpoints: Sequence[Model], events: Sequence[Event]
) -> None:
    """All that is known of a job; `events` the oldest first, `files` by id, where still kept."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for key, value in _rows(job, files, checkpoints):
        table.add_row(key, value)
    console = Console()
    console.print(table, highlight=False)
    if events:
        console.print()
    for event in events:
        console.print(event_line(event), soft_wrap=True)


def event_line(event: Event) -> Text:
    """An event with its local time."""
    style = {"warn": "yellow", "error": "red"}.get(event.level, "")
    time = f"{event.created_at.astimezone():%H:%M:%S}"
    return Text.assemble((time, "dim"), " ", (event.message, style))


def clock(moment: datetime) -> str:
    """Day and time here."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """A length of time in two parts at most: `45 s`, `2 min 10 s`, `3 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def step_of(data: Mapping[str, Any] | None) -> str:
    """`step 3/120` of the figures of a step, as far as they tell."""
    data = data or {}
    if "step" not in data:
        return ""
    total = f"/{data['total_steps']}" if "total_steps" in data else ""
    return f"step {data['step']}{total}"


def _detail(job: Job, newest: Event | None) -> str:
    if job.error is not None:
        return str(job.error["code"])
    if job.status == "running" and newest is not None:
        loss = (newest.data or {}).get("train_loss")
        told = "" if loss is None else f", loss {loss:.3f}"
        return f"{step_of(newest.data)}{told}"
    if job.status == "queued" and job.priority:
        return f"priority {job.priority}"
    return ""


def _rows(
    job: Job, files: Mapping[str, File], checkpoints: Sequence[Model]
) -> Iterator[tuple[str, Text]]:
    yield "job", Text(job.id)
    yield "tenant", Text(job.tenant)
    yield "status", Text(job.status, style=STYLES.get(job.status, ""))
    if job.error is not None:
        param = f" ({job.error['param']})" if job.error.get("param") else ""
        yield "error", Text(f"{job.error['code']}{param}: {job.error['message']}", style="red")
    if job.status == "paused":
        yield "go on", Text(f"lorikeet jobs resume {short(job)}")
    yield "base", Text(f"{job.base} ({job.base_digest[:_DIGEST]})")
    if job.fine_tuned_model is not None:
        yield "model", Text(job.fine_tuned_model)
        yield "version", Text(job.reference or "")
    else:
        yield "adapter", Text(job.adapter)
    yield "trained on", Text(_file(job.training_file, files))
    if job.validation_file is not None:
        yield "held out", Text(_file(job.validation_file, files))
    numbers = {**job.hyperparameters, "seed": job.seed, **job.options}
    yield "settings", Text(", ".join(f"{key}={value}" for key, value in numbers.items()))
    if job.metadata:
        yield "metadata", Text(", ".join(f"{key}={value}" for key, value in job.metadata.items()))
    yield "priority", Text(str(job.priority))
    if job.worker is not None:
        yield "worker", Text(job.worker)
    for title, moment in (
        ("made", job.created_at),
        ("started", job.started_at),
        ("ends about", job.estimated_finish),
        ("finished", job.finished_at),
    ):
        if moment is not None:
            yield title, Text(clock(moment))
    if job.trained_tokens is not None:
        yield "trained", Text(f"{job.trained_tokens:,} tokens")
    for result in job.result_files:
        yield "metrics", Text(_file(result, files))
    for model in checkpoints:
        yield "checkpoint", Text(f"{model.name}  {model.reference}")


def _file(file_id: str, files: Mapping[str, File]) -> str:
    file = files.get(file_id)
    return f"{file_id} (deleted)" if file is None else f"{file_id} ({file.filename})"


def _table(*titles: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        folded = title in ("adapter", "detail", "doing")
        table.add_column(title, no_wrap=not folded, overflow="fold")
    return table


def ask_command(job: Job) -> str:
    """How to try what a job has made."""
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith(FINE_TUNED)
    return f'lorikeet ask {job.fine_tuned_model} "…"'
