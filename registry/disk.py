"""The operating system's errors, as ours: a full disk, a folder that cannot be written."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import DiskFull, RegistryUnavailable
from registry.settings import RegistrySettings

SPARE_BYTES = 2 << 20
"""What is kept free beside what is written."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: BaseException) -> bool:
    """Whether the operating system says that a disk, a quota or a file's bound is full."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def translated(settings: RegistrySettings, what: str, needed: int = SPARE_BYTES) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(settings, needed) from error
        where = f" ({error.filename})" if error.filename else ""
        raise RegistryUnavailable(
            f"{what}: {error.strerror or error}{where}",
            remedy=f"make {settings.home} writable, or set LORIKEET_HOME to another folder",
        ) from error


def disk_full(settings: RegistrySettings, needed: int, free: int | None = None) -> DiskFull:
    """The error for a disk with too little space; sizes in bytes."""
    if free is None:
        free = shutil.disk_usage(settings.home).free
    return DiskFull(
        f"{needed / 1e6:.1f} MB are needed in {settings.home}, {free / 1e6:.1f} MB are free",
        needed=needed,
        free=free,
        remedy="free some space, remove old versions, or set LORIKEET_HOME to a larger disk",
    )
