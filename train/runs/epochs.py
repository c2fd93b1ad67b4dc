"""The adapters of a run's last epochs, each there whole or not at all: `epochs/step-<n>/`.

They are written before the checkpoint of their step is declared whole, so that a run that is killed
and taken up again has every one of them.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.files import sync_folder, sync_tree
from train.runs.folder import RunFolder
from train.runs.metrics import Metrics

MOST = 3
"""How many epochs' adapters are kept: OpenAI's number."""

Save = Callable[[Any, Path], None]
"""Writes a model's adapter into a folder."""

_PREFIX = "step-"


class Epochs:
    """Those of `run`, which trains for so many `epochs`."""

    def __init__(self, run: RunFolder, epochs: float, save: Save) -> None:
        self._run, self._epochs, self._save = run, epochs, save

    def keep(self, model: Any, step: int) -> None:
        """Write the adapter as it is at the end of an epoch, where it is one of the last.

        Raises OSError, and what `save` does.
        """
        [epoch] = [line["epoch"] for line in Metrics(self._run.metrics).of(step) if "epoch" in line]
        if epoch <= self._epochs - MOST:
            return
        self._run.epochs.mkdir(exist_ok=True)
        with whole_folder(self._run.epochs / f"{_PREFIX}{step}") as partial:
            self._save(model, partial)


def kept_epochs(run: RunFolder) -> dict[int, Path]:
    """The folders of the epochs' adapters, by step, in order."""
    found = {int(path.name.removeprefix(_PREFIX)): path for path in run.epochs.glob(f"{_PREFIX}*")}
    return dict(sorted(found.items()))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into; at the end it is made durable and takes the place of `path`.

    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.partial")
    for old in (partial, path):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    yield partial
    sync_tree(partial)
    partial.rename(path)
    sync_folder(path.parent)
