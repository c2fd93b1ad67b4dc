"""`lorikeet jobs …`: the fine-tuning jobs of every tenant, for whoever runs the place."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console

from registry.errors import UnknownFile, UnknownJob, UsageError
from registry.finetuning.objects import UNFINISHED, Status
from registry.terminal import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.finetuning.objects import Event, File, Job
    from registry.store import Registry

app = typer.Typer(
    name="jobs",
    help="See, follow and steer the fine-tuning jobs that came through the API.",
    no_args_is_help=True,
)
_PAGE = 100
_EVENTS = 10
_STATUSES = ", ".join(get_args(Status))


def _complete_job(incomplete: str) -> list[str]:
    from registry.store import Registry

    with Registry.open() as registry:
        jobs = registry.jobs.list(None, limit=_PAGE).data
        return [job.id for job in jobs if job.id.startswith(incomplete)]


Which = Annotated[
    str,
    typer.Argument(
        help="The job's id, or as much of its beginning as tells it from the others.",
        metavar="ID",
        autocompletion=_complete_job,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list", epilog="Example: lorikeet jobs list --tenant acme --status running")
def list_jobs(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    status: Annotated[str | None, typer.Option(help=f"Only these: {_STATUSES}.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the jobs, the newest first."""
    from registry.finetuning.tables_view import print_jobs
    from registry.store import Registry

    wanted = _status(status)
    with Registry.open() as registry:
        found = registry.jobs.list(tenant, limit=limit, status=wanted)
        running = [job for job in found.data if job.status == "running"]
        newest = {job.id: event for job in running if (event := _newest_step(registry, job))}
        waiting = any(job.status in UNFINISHED and job.status != "paused" for job in found.data)
        lonely = waiting and not registry.queue.workers()
    if as_json:
        print_json([_as_dict(job) for job in found.data])
        return
    console = Console(highlight=False)
    if not found.data:
        console.print(
            "No such jobs."
            if tenant or status
            else "No jobs yet: POST /v1/fine_tuning/jobs of a "
            "running server makes one (docs/fine-tuning.md)."
        )
        return
    print_jobs(found.data, newest)
    if found.has_more:
        console.print(f"The newest {limit}: --limit {10 * limit} shows more.")
    if lonely:
        console.print("No worker is there to run them: start one with [bold]lorikeet worker[/].")


@app.command(epilog="Example: lorikeet jobs show ftjob-x7k2 --json | jq .error")
def show(which: Which, as_json: AsJson = False) -> None:
    """Show all that is known of a job, and what happened to it last (of the steps, the newest)."""
    from registry.finetuning.tables_view import print_job
    from registry.store import Registry

    with Registry.open() as registry:
        job = _find(registry, which)
        checkpoints = registry.jobs.checkpoints(None, job.id, limit=_PAGE).data
        events = registry.jobs.events(None, job.id, limit=_PAGE).data
        files = _files(registry, job)
    if as_json:
        more = {
            "checkpoints": [model.as_checkpoint() for model in checkpoints],
            "events": [event.as_dict() for event in events[:_EVENTS]],
        }
        print_json(_as_dict(job) | more)
        return
    newest = next((event for event in events if event.type == "metrics"), None)
    told = [event for event in events if event.type == "message" or event is newest]
    print_job(job, files, checkpoints, told[:_EVENTS][::-1])


@app.command(epilog="Example: lorikeet jobs follow ftjob-x7k2")
def follow(which: Which) -> None:
    """Watch a job until it ends: its messages, and a live line of its loss on a terminal.

    Ctrl-C ends the watching, not the job. Exit codes: 0 succeeded, 1 failed or cancelled.
    """
    from registry.finetuning import follow as following
    from registry.finetuning.tables_view import ask_command, short
    from registry.store import Registry

    console = Console(highlight=False, soft_wrap=True)
    with Registry.open() as registry:
        job = _find(registry, which)
        try:
            with following.telling(console) as teller:
                job = following.follow(registry, job.id, teller)
        except KeyboardInterrupt:
            console.print(
                f"The job goes on without you: lorikeet jobs follow {short(job)} shows it again."
            )
            raise typer.Exit(130) from None
    if job.status != "succeeded":
        console.print(f"[bold red]{job.status}[/]: lorikeet jobs show {short(job)}")
        raise typer.Exit(1)
    console.print(f"[bold green]succeeded[/]: {job.reference}. Try it: {ask_command(job)}")


@app.command(epilog="Example: lorikeet jobs cancel ftjob-x7k2")
def cancel(which: Which) -> None:
    """End a job for good; nothing of it is published any more."""
    from registry.store import Registry

    with Registry.open() as registry:
        _say(registry.jobs.cancel(None, _find(registry, which).id))


@app.command(epilog="Example: lorikeet jobs pause ftjob-x7k2")
def pause(which: Which) -> None:
    """Stop a job after its next checkpoint, so that it can go on from there."""
    from registry.store import Registry

    with Registry.open() as registry:
        job = registry.jobs.pause(None, _find(registry, which).id)
    _say(job)


@app.command(epilog="Example: lorikeet jobs resume ftjob-x7k2")
def resume(which: Which) -> None:
    """Let a paused job go on, from where it was stopped."""
    from registry.store import Registry

    with Registry.open() as registry:
        _say(registry.jobs.resume(None, _find(registry, which).id))


@app.command(epilog="Example: lorikeet jobs prioritize ftjob-x7k2 10")
def prioritize(
    which: Which,
    priority: Annotated[
        int, typer.Argument(help="The higher goes first; a new job has 0.", min=-100, max=100)
    ],
) -> None:
    """Change a job's place among the jobs of its tenant; tenants take turns whatever theirs."""
    from registry.finetuning.tables_view import short
    from registry.store import Registry

    with Registry.open() as registry:
        job = registry.jobs.prioritize(None, _find(registry, which).id, priority)
    Console(highlight=False).print(f"{short(job)} of {job.tenant} has priority {job.priority}")


@app.command(epilog="Example: lorikeet jobs workers --json")
def workers(as_json: AsJson = False) -> None:
    """List the workers that gave a sign of life in the last minute."""
    from registry.finetuning.tables_view import print_workers
    from registry.store import Registry

    with Registry.open() as registry:
        found = registry.queue.workers()
    if as_json:
        print_json(
            [
                {
                    "name": worker.name,
                    "devices": worker.devices,
                    "doing": worker.doing,
                    "seen_at": worker.seen_at.isoformat(),
                }
                for worker in found
            ]
        )
    elif found:
        print_workers(found)
    else:
        Console(highlight=False).print(
            "No worker is there: start one with [bold]lorikeet worker[/], or beside a server with "
            "[bold]lorikeet serve --with-worker[/]."
        )


def _status(status: str | None) -> Status | None:
    for known in get_args(Status):
        if status == known:
            found: Status = known
            return found
    if status is None:
        return None
    raise UsageError(f"{status[:40]!r} is no status of a job", remedy=f"there are {_STATUSES}")


def _find(registry: "Registry", which: str) -> "Job":
    """The job of that id, or the only one whose id begins so, `ftjob-` left out or not.

    Raises UnknownJob, or UsageError where it may be several.
    """
    with suppress(UnknownJob):
        return registry.jobs.get(None, which)
    starts = (which, f"ftjob-{which}")
    found = [job for job in _all(registry) if job.id.startswith(starts)] if which else []
    if not found:
        raise UnknownJob(f"there is no job {which[:80]!r}", remedy="see lorikeet jobs list")
    if len(found) > 1:
        more = ", …" if len(found) > 3 else ""
        raise UsageError(
            f"{which} may be {len(found)} jobs: {', '.join(job.id for job in found[:3])}{more}",
            remedy="write more of the id",
        )
    return found[0]


def _all(registry: "Registry") -> "Iterator[Job]":
    after = None
    while True:
        page = registry.jobs.list(None, after=after, limit=_PAGE)
        yield from page.data
        if not page.has_more:
            return
        after = page.data[-1].id


def _newest_step(registry: "Registry", job: "Job") -> "Event | None":
    events = registry.jobs.events(None, job.id).data
    return next((event for event in events if event.type == "metrics"), None)


def _files(registry: "Registry", job: "Job") -> dict[str, "File"]:
    """The job's files that have not been deleted."""
    found = {}
    for file_id in (job.training_file, job.validation_file, *job.result_files):
        if file_id is not None:
            with suppress(UnknownFile):
                found[file_id] = registry.files.get(None, file_id)
    return found


def _as_dict(job: "Job") -> dict[str, Any]:
    """OpenAI's job, and what only operators see."""
    started = None if job.started_at is None else job.started_at.isoformat()
    return job.as_dict() | {"adapter": job.adapter, "worker": job.worker, "started_at": started}


def _say(job: "Job") -> None:
    from registry.finetuning.tables_view import short

    Console(highlight=False).print(f"{short(job)} of {job.tenant} is {job.status}")
