"""A folder as an object store, for `file://`: what is put there is there whole or not at all."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

from registry.files import copy_durably, sync_folder

_PARTS = ".parts"
_LEFTOVER_SECONDS = 24 * 3600.0


class DurableFolder(LocalFileSystem):  # type: ignore[misc]
    """`root` has to exist: an empty folder may be one where a disk is not mounted."""

    cachable = False

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(**options)
        self._root = Path(root)

    def put_file(
        self,
        path1: str,
        path2: str,
        callback: object = None,
        mode: str = "overwrite",
        **kwargs: object,
    ) -> None:
        """Copy a local file; with `mode` "create" a file that is there raises FileExistsError."""
        target = Path(path2)
        parts = self._root / _PARTS
        parts.mkdir(exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = parts / uuid4().hex
        try:
            copy_durably(Path(path1), part)
            if mode == "create":
                target.hardlink_to(part)
            else:
                part.replace(target)
            sync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
        _sweep(parts)


def _sweep(parts: Path) -> None:
    """Delete what writers that were killed have left."""
    for part in parts.iterdir():
        try:
            if time.time() - part.stat().st_mtime > _LEFTOVER_SECONDS:
                part.unlink()
        except FileNotFoundError:
            continue
