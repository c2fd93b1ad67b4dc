"""Starting a child for a job, and ending it."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from registry import RegistrySettings

DISK_FULL_EXIT = errno.ENOSPC
"""Exit code of a child that could not even write down what became of it."""


class Running(Protocol):
    """A child at work."""

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative where a signal ended it; None where it still runs by then."""

    def stop(self) -> None:
        """Ask it to end in good order."""

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""


class Launch(Protocol):
    """Starts a child on the order in `folder`; `secret` is given to it and to nobody else."""

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running: ...


class Launcher:
    """Starts real ones: `python -m train.worker.child`."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings

    def __call__(
        self, folder: Path, environment: Mapping[str, str], secret: str | None = None
    ) -> Running:
        """A child in a session of its own: Ctrl-C reaches the worker alone. Raises OSError."""
        home = {"LORIKEET_HOME": str(self._settings.home)}
        if self._settings.database_url is not None:
            home["LORIKEET_DATABASE_URL"] = self._settings.database_url
        if self._settings.store_url is not None:
            home["LORIKEET_STORE_URL"] = self._settings.store_url
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "train.worker.child", str(folder), str(os.getpid())],
                env={**os.environ, **home, **environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
            )
        assert process.stdin is not None
        try:
            with process.stdin as line:
                line.write(f"{secret or ''}\n".encode())
        except BrokenPipeError:  # it is gone already, which its exit code tells
            pass
        return Child(process)


class Child:
    """A process that was started."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative where a signal ended it; None where it still runs by then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ask it to end in good order."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
