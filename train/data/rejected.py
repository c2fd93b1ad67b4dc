"""A row that cannot be trained on, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from train.errors import DataError, RowProblem

Item = TypeVar("Item")

Kind = Literal["malformed", "empty", "masked", "template", "too_long", "drift"]


@dataclass(frozen=True, slots=True)
class Rejected(RowProblem):
    """What is wrong with a row, and the kind of it.

    malformed: it cannot be read; empty: an answer without text; masked: no answer in the loss;
    template: the base's chat template does not take it; too_long; drift: the server would make
    other token ids of it.
    """

    kind: Kind = "malformed"


class Unusable(Exception):
    """Raised while a row is read or encoded; `at` makes it a Rejected."""

    def __init__(self, message: str, expected: str, kind: Kind = "malformed") -> None:
        super().__init__(message)
        self.message, self.expected, self.kind = message, expected, kind

    def at(self, line: int) -> Rejected:
        """The problem, with the line of its row."""
        return Rejected(line, self.message, self.expected, self.kind)


def usable(path: Path, items: Iterable[Item | RowProblem]) -> list[Item]:
    """What is no problem of `items`, in order. Raises DataError that names every problem."""
    kept: list[Item] = []
    problems: list[RowProblem] = []
    for item in items:
        if isinstance(item, RowProblem):
            problems.append(item)
        else:
            kept.append(item)
    if problems:
        raise DataError.of_rows(path, problems)
    return kept
