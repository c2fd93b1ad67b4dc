"""`lorikeet worker`: works on the fine-tuning jobs of the registry."""

from typing import Annotated, Any

import typer


def worker(
    once: Annotated[
        bool | None,
        typer.Option("--once", help="End when no job is left that can be worked on now."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            help="auto (every GPU, or the CPU), cpu, or numbers of GPUs. [dim]auto[/]",
            metavar="auto|cpu|0,1",
        ),
    ] = None,
    tenant_concurrency: Annotated[
        int | None,
        typer.Option(help="Most trainings of one tenant at a time. [dim]no bound[/]", metavar="N"),
    ] = None,
    train_window: Annotated[
        str | None,
        typer.Option(
            help="Train in these hours only, local time: 22:00-06:00. [dim]24h[/]",
            metavar="HH:MM-HH:MM",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="A running server of this registry: adapters are certified on it.", metavar="URL"
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of this worker. [dim]host name and process id[/]")
    ] = None,
    nice: Annotated[
        int | None, typer.Option(help="Step back for other programs, 0 to 19. [dim]0[/]")
    ] = None,
) -> None:
    """Work on fine-tuning jobs: check their files, train them, publish what came of them.

    One training runs on each device at a time, in a process of its own. Ctrl-C lets trainings save
    a checkpoint and gives the jobs back; a second one ends them at once. Of a worker that is killed
    another one takes the jobs over and goes on from their last checkpoints.
    Each option can be set by the environment too: LORIKEET_WORKER_NICE=10.

    \b
    Examples:
      lorikeet worker
      lorikeet worker --devices 0,1 --tenant-concurrency 1
      lorikeet worker --train-window 22:00-06:00 --server http://127.0.0.1:8000
      lorikeet worker --once

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """
    _run({key: value for key, value in locals().items() if value is not None})


def _run(given: dict[str, Any]) -> None:
    import logging
    import os
    import signal

    from pydantic import ValidationError

    from registry import Registry, UsageError
    from train.worker.devices import find_devices
    from train.worker.settings import WorkerSettings
    from train.worker.worker import Worker

    try:
        settings = WorkerSettings(**given)
    except ValidationError as error:
        raise UsageError(
            "\n".join(_told(detail) for detail in error.errors(include_url=False)),
            remedy="`lorikeet worker --help` shows the options; LORIKEET_WORKER_… sets them too",
        ) from error
    devices = find_devices(settings.devices)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for package in ("train.worker", "registry"):
        logging.getLogger(package).setLevel(logging.INFO)
    if settings.nice:
        os.nice(settings.nice)
    with Registry.open() as registry:
        running = Worker(registry, settings, devices)
        asked = 0

        def on_signal(*_: object) -> None:
            nonlocal asked
            asked += 1
            running.stop() if asked == 1 else running.kill()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        running.run()


def _told(detail: Any) -> str:
    option = "--" + "-".join(str(part).replace("_", "-") for part in detail["loc"][:1])
    return f"{option}: {detail['msg'].removeprefix('Value error, ')}"
