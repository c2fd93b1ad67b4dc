"""Checkpoints that are there whole or not at all, and the last good one until the next is whole.

The trainer writes weights, optimiser, schedule and random states to `checkpoint-<step>/`. When all
of it is on the disk a marker is written into it, last; a folder without the marker is no
checkpoint. Only then are older ones removed.
"""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from registry import DiskFull
from registry.files import sync_file, sync_folder
from train.libraries import is_disk_full
from train.runs.folder import replace_file

_MARKER = "complete.json"
_PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run had come at a checkpoint; tokens and seconds since its very start.

    `best_step` is that of the lowest held-out loss, where one chooses the checkpoint to keep.
    `done` says that nothing is left to train.
    """

    step: int
    tokens: int
    trained_tokens: int
    seconds: float
    best_step: int | None = None
    done: bool = False


class Checkpoints:
    """The checkpoints of one run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the trainer writes the checkpoint of `step`."""
        return self.folder / f"{_PREFIX}{step}"

    def latest(self) -> Progress | None:
        """The last whole checkpoint; None where there is none."""
        found = [self._progress(path) for path in self.folder.glob(f"{_PREFIX}*")]
        whole = [progress for progress in found if progress is not None]
        return max(whole, key=lambda progress: progress.step, default=None)

    def seal(self, progress: Progress) -> None:
        """Declare the checkpoint of `progress.step` whole, then remove all but it and the best.

        Raises OSError.
        """
        path = self.path(progress.step)
        _sync(path)
        replace_file(path / _MARKER, json.dumps(asdict(progress)) + "\n")
        sync_folder(path)
        sync_folder(self.folder)
        self._remove(keep={progress.step, progress.best_step})

    def remove_unfinished(self) -> None:
        """Remove what a killed run did not finish writing, and what came after the last whole one.

        Raises OSError.
        """
        latest = self.latest()
        whole = {latest.step, latest.best_step} if latest else set()
        self._remove(keep=whole)

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def writing(self, step: int, run_id: str) -> Iterator[None]:
        """Remove what was written of the checkpoint where that fails; raises DiskFull if full."""
        try:
            yield
        except Exception as error:
            shutil.rmtree(self.path(step), ignore_errors=True)
            if not is_disk_full(error):
                raise
            latest = self.latest()
            kept = f"that of step {latest.step} stays" if latest else "there was none before"
            raise DiskFull(
                f"no disk space left for the checkpoint of step {step}; {kept}",
                needed=0,
                remedy=f"free some space, then go on with: lorikeet train --resume {run_id}",
            ) from error

    def _progress(self, path: Path) -> Progress | None:
        try:
            return Progress(**json.loads((path / _MARKER).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _remove(self, keep: Collection[int | None]) -> None:
        kept = {self.path(step) for step in keep if step is not None}
        for path in self.folder.glob(f"{_PREFIX}*"):
            if path not in kept:
                # Without its marker it is no checkpoint, however much of it is removed.
                (path / _MARKER).unlink(missing_ok=True)
                shutil.rmtree(path)


def _sync(folder: Path) -> None:
    """Make every file in `folder`, at any depth, durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)
