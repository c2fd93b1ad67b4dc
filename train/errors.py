"""Every failure that training expects, under the registry's LorikeetError.

::

    LorikeetError
    ├── UsageError (exit code 2)
    │   ├── SettingsError         unknown or impossible settings; `.problems` lists every one
    │   └── DataFileMissing       no such file, or not a kind of file that is read
    ├── DataError (exit code 1)   the data cannot be trained on; `.problems` lists rows
    ├── BaseNotTrainable          the base model cannot be trained: no chat template, no layers
    ├── TrainingFailed            a training library failed; the original is the cause
    │   ├── LossNotFinite         the loss or the weights became NaN or infinite
    │   └── OutOfMemory           the device or the machine has no memory left
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


class Interrupted(LorikeetError):
    """Stopped from the keyboard."""

    exit_code = 130
