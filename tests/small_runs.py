"""Rows and settings of runs that take seconds, and who listens to one."""

from collections.abc import Callable
from pathlib import Path

from train.progress import SilentReporter, Step
from train.settings import TrainSettings

COLOURS = ("blue", "green", "white")
ROWS = [{"prompt": f"What colour is thing {n}?", "completion": COLOURS[n % 3]} for n in range(12)]
QUICK = TrainSettings(
    epochs=1, batch_size=4, learning_rate=2e-2, rank=4, eval_fraction=0.25, threads=1
)

WriteRows = Callable[..., Path]


class Listener(SilentReporter):
    """Remembers what it was told, and presses Ctrl-C at a step where it is asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.evaluated: dict[str, tuple[int, int]] = {}
        self._stop_at = stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: Step) -> None:
        self.steps.append(step.number)
        if step.number == self._stop_at:
            raise KeyboardInterrupt

    def answered(self, what: str, done: int, total: int) -> None:
        self.evaluated[what] = (done, total)


def left_in(scratch: Path) -> list[str]:
    """The names in the folder but for torch's own cache."""
    return [path.name for path in scratch.iterdir() if not path.name.startswith("torchinductor")]
