"""Every failure that training expects, under the registry's LorikeetError.

::

    LorikeetError
    ├── UsageError (exit code 2)
    │   ├── SettingsError         unknown or impossible settings; `.problems` lists every one
    │   ├── DataFileMissing       no such file, or not a kind of file that is read
    │   └── NothingToResume       the run has succeeded: nothing is left to do
    ├── DataError (exit code 1)   the data cannot be trained on; `.problems` lists rows
    ├── BaseNotTrainable          the base model cannot be trained: no chat template, no layers
    ├── TrainingFailed            a training library failed; the original is the cause
    │   ├── LossNotFinite         the loss or the weights became NaN or infinite
    │   └── OutOfMemory           the device or the machine has no memory left
    ├── UnknownRun                no run of that id, and no run's folder there
    ├── RunDamaged                a file of the run's folder is missing or cannot be read
    ├── RunChanged                the data or the base is no longer what the run began with
    ├── NameBusy                  another run trains an adapter of that name
    ├── ServerFailed              a running server does not answer, or refuses
    └── Interrupted (exit 130)    stopped by Ctrl-C; nothing was published
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry import LorikeetError, UsageError

_MOST_SHOWN = 10


class SettingsError(UsageError):
    """One or more settings are wrong; `problems` has a line for each, with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        what = "a setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        listing = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(
            f"{what} wrong:\n{listing}",
            remedy="`lorikeet train --help` names the settings; `--set key=value` overrides one",
        )


class DataFileMissing(UsageError):
    """The data file is not there, or its kind is not one that is read."""


class NothingToResume(UsageError):
    """The run cannot be gone on with: it is done."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with one row: its line (or row number in Parquet), and what was expected."""

    line: int
    message: str
    expected: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}; expected {self.expected}"


class DataError(LorikeetError):
    """The data cannot be trained on; `problems` lists the rows, where rows are the matter."""

    def __init__(
        self, message: str, *, problems: Sequence[RowProblem] = (), remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.problems = tuple(problems)

    @classmethod
    def of_rows(cls, path: Path, problems: Sequence[RowProblem]) -> "DataError":
        """The error for bad rows in `path`: all of them counted, the first ones shown."""
        if len(problems) == 1:
            message = f"{path}, {problems[0]}"
        else:
            shown = [f"  {problem}" for problem in problems[:_MOST_SHOWN]]
            if len(problems) > _MOST_SHOWN:
                shown.append(f"  … and {len(problems) - _MOST_SHOWN} more")
            message = "\n".join([f"{path}: {len(problems)} rows cannot be used:", *shown])
        return cls(message, problems=problems, remedy="correct or remove these rows")


class BaseNotTrainable(LorikeetError):
    """The base model lacks what training needs."""


class TrainingFailed(LorikeetError):
    """A training library raised; nothing was published."""


class LossNotFinite(TrainingFailed):
    """The loss, or a trained weight, became NaN or infinite at `step` (counted from 1)."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"the loss is no longer a finite number at step {step}; nothing was published",
            remedy="lower learning_rate (a tenth of it, say), or lengthen warmup",
        )
        self.step = step


class OutOfMemory(TrainingFailed):
    """No memory left, on the device or in the machine."""


class UnknownRun(LorikeetError):
    """There is no run of that id, nor a run's folder of that path."""


class RunDamaged(LorikeetError):
    """A file that the run needs is missing from its folder, or cannot be read."""


class RunChanged(LorikeetError):
    """Data or base are no longer those that the run began with: resuming would mix the two."""


class NameBusy(LorikeetError):
    """A run of that name is under way, in this process or another one."""


class ServerFailed(LorikeetError):
    """A running server does not answer, or refuses what it was asked."""


class Interrupted(LorikeetError):
    """Stopped from the keyboard."""

    exit_code = 130
