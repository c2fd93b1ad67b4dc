"""Where SQLite must not lie: on a file system that several machines share.

Its locks and its shared memory hold within one machine only; two servers on one such file damage
it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from registry.errors import RegistryUnavailable

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
        "fuse.ceph-fuse",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
    }
)


class Mount(NamedTuple):
    """A folder that a file system hangs on, and the kernel's name of that system's kind."""

    folder: str
    kind: str


def mounts() -> list[Mount]:
    """Everything that is mounted here, in the order that it was."""
    return [Mount(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]


def check_local(file: Path, mounted: Iterable[Mount]) -> None:
    """Raises RegistryUnavailable where an SQLite file lies, or would lie, on such a system."""
    place = file.resolve()
    over = [mount for mount in mounted if place.is_relative_to(mount.folder)]
    if not over:
        return
    # The longest one is the closest, and of those on one folder the last one hides the others.
    closest = max(enumerate(over), key=lambda pair: (len(Path(pair[1].folder).parts), pair[0]))[1]
    if closest.kind in NETWORK_FILE_SYSTEMS:
        raise RegistryUnavailable(
            f"the SQLite database {file} lies on {closest.kind} ({closest.folder}), which other"
            " machines may share: SQLite is for one machine only, and is damaged there",
            remedy="name a PostgreSQL database (LORIKEET_DATABASE_URL=postgresql://…), or a file on"
            " a disk of this machine (sqlite:////var/lib/lorikeet/registry.db)",
        )
