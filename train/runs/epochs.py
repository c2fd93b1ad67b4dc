"""The adapters of a run's last epochs, each there whole or not at all: `epochs/step-<n>/`.

They are written before the checkpoint of their step is declared whole, so that a run that is killed
and taken up again has every one of them. Those of earlier epochs are `epochs/early-<n>/`: a run
that stops early has its last epochs there.
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

_LAST, _EARLY = "step-", "early-"


class Epochs:
    """Those of `run`, which trains for so many `epochs`."""

    def __init__(self, run: RunFolder, epochs: float, save: Save) -> None:
        self._run, self._epochs, self._save = run, epochs, save

    def keep(self, model: Any, step: int) -> None:
        """Write the adapter as it is at the end of an epoch, and delete what is not of the last.

        Raises OSError, and what `save` does.
        """
        [epoch] = [line["epoch"] for line in Metrics(self._run.metrics).of(step) if "epoch" in line]
        kind = _LAST if epoch > self._epochs - MOST else _EARLY
        self._run.epochs.mkdir(exist_ok=True)
        with whole_folder(self._run.epochs / f"{kind}{step}") as partial:
            self._save(model, partial)
        for old in list(kept_epochs(self._run, ended=True).values())[:-MOST]:
            gone = old.with_name(f".{old.name}")  # first its name: it is there whole or not at all
            shutil.rmtree(gone, ignore_errors=True)
            shutil.rmtree(old.rename(gone), ignore_errors=True)


def kept_epochs(run: RunFolder, *, ended: bool = False) -> dict[int, Path]:
    """The folders of the last epochs' adapters, by step, in order.

    Until the training has `ended`, those alone that no later epoch takes the place of.
    """
    kinds = (_LAST, _EARLY) if ended else (_LAST,)
    found = {
        int(path.name.removeprefix(kind)): path
        for kind in kinds
        for path in run.epochs.glob(f"{kind}*")
    }
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
