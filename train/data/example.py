"""One row as the model sees it: which of its text is trained, and which is only read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from train.data.masking import IGNORED, Encoded, EncodedChat
from train.data.rejected import Rejected
from train.errors import DataError


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens that stand together: their text, how many they are, whether they are in the loss."""

    text: str
    tokens: int
    trained: bool


@dataclass(frozen=True, slots=True)
class Example:
    """The row of a line, as the stretches of each of its sequences."""

    line: int
    sequences: tuple[tuple[Stretch, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def example_at(
    rows: Sequence[EncodedChat], rejected: Sequence[Rejected], line: int | None, tokenizer: Any
) -> Example | None:
    """The row of `line`, or the first of `rows` where that is None; None where there is none.

    Raises DataError where `line` has no row, or a rejected one.
    """
    if line is None:
        found = next(iter(rows), None)
    else:
        found = next((row for row in rows if row.chat.line == line), None)
        if found is None:
            problem = next((str(one) for one in rejected if one.line == line), None)
            raise DataError(
                problem or f"there is no row at line {line}", remedy="name another --row"
            )
    if found is None:
        return None
    sequences = tuple(_stretches(sequence, tokenizer) for sequence in found.sequences)
    return Example(found.chat.line, sequences)


def _stretches(sequence: Encoded, tokenizer: Any) -> tuple[Stretch, ...]:
    pairs = zip(sequence.input_ids, sequence.labels, strict=True)
    parts = []
    for trained, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        ids = [token for token, _ in group]
        parts.append(Stretch(tokenizer.decode(ids), len(ids), trained))
    return tuple(parts)
