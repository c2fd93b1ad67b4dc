"""Ray on this machine: its processes belong to this one, and end with it."""

import atexit
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from serve.errors import ServeError

HEAD = ("gcs_server", "raylet")
"""Without either of these processes nothing goes on."""
OBJECT_STORE_BYTES = 256 * 1024**2
"""Shared memory for what goes between processes; the rest goes to the disk."""
END_SECONDS = 10.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else whatever else runs here goes before the engines
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "1",  # else what replicas write goes to files that end with Ray
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deploy.replicas.proxy.middlewares",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine: listen on the loopback address alone
}


class HeadDied(ServeError):
    """Ray's own processes have ended."""


class Head:
    """Ray's head process and its helpers, while they run."""

    def __init__(self) -> None:
        self._before = set(psutil.Process().children())
        self._family: set[psutil.Process] = set()
        self._vital: list[psutil.Process] = []

    def begin(self, cpus: int, folder: Path) -> None:
        """Start Ray on the loopback address, with `cpus` as it counts.

        Raises: HeadDied.
        """
        os.environ.update(ENVIRONMENT)
        if "ray" not in sys.modules:  # else it has decided on a token of the user's
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray

        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                configure_logging=False,
                log_to_driver=True,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise HeadDied(
                f"Ray does not start: {error}",
                remedy="it needs some hundred MiB of memory, /dev/shm and temporary files",
            ) from error
        self._look()
        self._vital = [process for process in self._family if process.name() in HEAD]

    @property
    def alive(self) -> bool:
        """Whether all that Ray cannot do without still runs."""
        return all(it.is_running() and it.status() != psutil.STATUS_ZOMBIE for it in self._vital)

    def check(self) -> None:
        """Call it often: what Ray has started meanwhile is found here.

        Raises: HeadDied.
        """
        self._look()
        if not self.alive:
            raise HeadDied(
                "Ray has ended, and the replicas with it",
                remedy="start the server again; a supervisor such as systemd does so by itself",
            )

    def end(self) -> None:
        """End Ray in good order, or what is left of it."""
        import ray

        self._look()
        if self.alive:
            ray.shutdown()
            _kill(psutil.wait_procs(self._family, timeout=END_SECONDS)[1])
        else:
            _kill(self._family)
            # Ray's own ways out wait for the dead, and its threads crash as the interpreter ends.
            atexit.register(os._exit, HeadDied.exit_code)

    def _look(self) -> None:
        """Remember what Ray has started: whose parent dies could not be found any more."""
        found = set(psutil.Process().children(recursive=True)) - self._before
        self._family = {process for process in self._family | found if process.is_running()}


@contextmanager
def ray_head(cpus: int) -> Iterator[Head]:
    """Ray on this machine, ended with the context."""
    head = Head()
    with TemporaryDirectory(prefix="lk-", ignore_cleanup_errors=True) as folder:
        try:  # sockets live in the folder: their paths are short
            head.begin(cpus, Path(folder))
            yield head
        finally:
            head.end()


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
