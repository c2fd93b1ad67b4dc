"""`lorikeet serve --replicas N`: Ray, Ray Serve and the replicas on one machine, until a signal."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType

from rich.console import Console

from registry import Registry, RegistrySettings, UsageError, resolve_base
from serve import logs
from serve.auth import check_reach
from serve.errors import EngineFailed
from serve.server import bind
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

NAME = "lorikeet"
LOOK_SECONDS = 0.5


def serve_replicas(settings: ServeSettings) -> None:
    """Serve until Ctrl-C or SIGTERM, then let the answers under way end.

    Raises: UsageError, PortInUse, EngineFailed, HeadDied.
    """
    if find_spec("ray") is None:
        raise UsageError(
            "--replicas: Ray Serve is not installed", remedy="pip install 'ray[serve]'"
        )
    programs = settings.log_format == "json"
    console = Console(stderr=True, highlight=False, quiet=programs)
    with console.status("Preparing the base model") as status:
        base = _prepared(settings, status.update)
        status.update("Starting Ray")
        from deploy.replicas.head import ray_head

        cpus = max(os.cpu_count() or 1, settings.replicas, settings.max_replicas or 0)
        with _signals() as (stopped, hurry), ray_head(cpus) as head:
            _check_gpus(settings)
            status.update(f"Starting {settings.replicas} replicas of {base}")
            _wait(lambda: _deploy(settings, base), head.check, stopped)
            status.stop()
            if not stopped.is_set():  # else nobody was served yet
                _tell(settings, base, console, programs)
                while not stopped.wait(LOOK_SECONDS):
                    head.check()
                _wait(_drain, head.check, hurry)
    console.print("stopped")


def _prepared(settings: ServeSettings, say: Callable[[str], None]) -> str:
    """The base's id; it is made once, before the replicas ask for it, and what is wrong is told."""
    places = RegistrySettings()
    with Registry.open(places) as registry:
        check_reach(settings, registry.keys)
    bind(settings.host, settings.port).close()
    for port in settings.metrics_ports:
        bind(settings.host, port, "--metrics-port").close()
    return resolve_base(settings.base, places, lambda what, _: say(what)).id


def _check_gpus(settings: ServeSettings) -> None:
    """Ray would wait for ever for GPUs that are not there. Raises: UsageError."""
    import ray

    from deploy.replicas.application import resources

    needed = settings.replicas * resources(settings).get("num_gpus", 0)
    found = ray.cluster_resources().get("GPU", 0)
    if needed > found:
        raise UsageError(
            f"--replicas {settings.replicas} takes {needed:g} GPUs, and {found:g} can be seen here",
            remedy="start fewer replicas, or fewer GPUs for each (--tensor-parallel-size)",
        )


def _deploy(settings: ServeSettings, base: str) -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from deploy.replicas.application import LOGGING, application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": 5},
        logging_config=LOGGING,
    )
    try:
        serve.run(application(settings, base), name=NAME, route_prefix="/")
    except (RuntimeError, RayServeException) as error:
        told = serve.status().applications[NAME].deployments.values()
        tracebacks = [deployment.message for deployment in told if deployment.message]
        last = (tracebacks or [str(error)])[0].strip().splitlines()[-1]
        raise EngineFailed(
            f"the replicas did not start: {last}",
            remedy="try lorikeet serve without --replicas, which says more",
        ) from error


def _drain() -> None:
    """Take no more requests, and return when those under way have ended, or their time has."""
    from ray import serve

    serve.delete(NAME, _blocking=False)
    while NAME in serve.status().applications:
        time.sleep(LOOK_SECONDS)
    serve.shutdown()


def _tell(settings: ServeSettings, base: str, console: Console, programs: bool) -> None:
    url = f"http://{settings.host}:{settings.port}/v1"
    ports = settings.metrics_ports
    if programs:
        fields = logs.fields(base=base, url=url, replicas=settings.replicas, metrics=list(ports))
        logger.info("serving", extra=fields)
    console.print(
        f"[green]Serving[/] [bold]{base}[/] and its adapters from {settings.replicas} replicas on "
        f"[bold]{url}[/]   (Ctrl-C stops)"
    )
    if ports:
        first = f"http://{settings.host}:{ports[0]}/metrics"
        console.print(f"Metrics on [bold]{first}[/] and the ports to {ports[-1]}")


@contextmanager
def _signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Set by the first Ctrl-C or SIGTERM, and by the second."""
    first, second = threading.Event(), threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        (second if first.is_set() else first).set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield first, second
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(work: Callable[[], None], check: Callable[[], None], enough: threading.Event) -> None:
    """Do the work in a thread, until it is `enough`: where Ray dies meanwhile, it may never end.

    Raises: what the work raises, HeadDied.
    """
    failed: list[Exception] = []

    def done() -> None:
        try:
            work()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=done, daemon=True)
    thread.start()
    while thread.is_alive() and not enough.is_set():
        thread.join(LOOK_SECONDS)
        check()
    if failed:
        raise failed[0]
