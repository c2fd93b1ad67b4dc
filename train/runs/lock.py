"""One run of a name at a time: a lock that the operating system frees when its holder dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from registry import RegistrySettings
from train.errors import NameBusy


class NameLock:
    """The lock on a name, held; `announce` says which run holds it."""

    def __init__(self, holder: Path) -> None:
        self._holder = holder

    def announce(self, run_id: str) -> None:
        """Let others know the run's id. Raises OSError."""
        self._holder.write_text(run_id + "\n", encoding="utf-8")


@contextmanager
def hold_name(settings: RegistrySettings, name: str) -> Iterator[NameLock]:
    """Hold `name` for a run; raises NameBusy, at once, where another run holds it, and OSError."""
    lock, holder = _lock(settings, name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        running = _read(holder)
        which = f"run {running}" if running else "a run that is just starting"
        raise NameBusy(
            f"{which} trains an adapter named {name} right now",
            remedy="wait until it is done, stop it, or choose another --name",
        ) from None
    try:
        yield NameLock(holder)
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_under_way(settings: RegistrySettings, name: str, run_id: str) -> bool:
    """Whether a live process works on the run: a killed one leaves its status behind."""
    lock, holder = _lock(settings, name)
    if _read(holder) != run_id:
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock(settings: RegistrySettings, name: str) -> tuple[FileLock, Path]:
    folder = settings.runs / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock"), folder / f"{name}.run"


def _read(holder: Path) -> str | None:
    try:
        return holder.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
