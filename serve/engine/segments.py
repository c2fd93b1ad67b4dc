"""Which rows of a step belong to which adapter, worked out once and shared by every layer.

A step's rows (tokens) arrive in the scheduler's order. `group_rows` turns the slot of each row into
a few `Segment`s, each of which one dense product can serve: either all rows of one slot, or the
same few rows of each of several neighbouring slots, whose weights a batched product reads in place.
Rows of the base model (slot -1) are in no segment, so nothing ever reads or writes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

BASE = -1
"""The slot number of a row that no adapter applies to."""

_SHORT = 16
"""Slots share a batched product while each has at most this many rows; a longer one pays alone."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`width` rows of each of the slots `first` to `first + count - 1`.

    `rows` holds the `count * width` row numbers, slot by slot: a slice where they follow each other
    in the step, an index otherwise.
    """

    first: int
    count: int
    width: int
    rows: slice | torch.Tensor

    def gather(self, matrix: torch.Tensor) -> torch.Tensor:
        """The segment's rows of `matrix` (rows, features): a view for a slice, else a copy."""
        if isinstance(self.rows, slice):
            return matrix[self.rows]
        return matrix.index_select(0, self.rows)

    def scatter(self, matrix: torch.Tensor, values: torch.Tensor) -> None:
        """Write back what `gather` gave, after it was changed in place."""
        if not isinstance(self.rows, slice):
            matrix.index_copy_(0, self.rows, values)


def group_rows(slots: npt.NDArray[np.int64]) -> tuple[Segment, ...]:
    """Group the rows of a step by adapter.

    `slots` has the slot of each row, `BASE` where there is none. The segments are disjoint, in the
    order of their slots, and cover exactly the rows that have a slot; a step of the base model
    alone has none.
    """
    order = np.argsort(slots, kind="stable")
    order = order[np.searchsorted(slots[order], BASE, side="right") :]
    if order.size == 0:
        return ()
    present, starts = np.unique(slots[order], return_index=True)
    rows = dict(zip(present.tolist(), np.split(order, starts[1:]), strict=True))
    return tuple(
        Segment(run.start, len(run), rows[run.start].size, _span([rows[slot] for slot in run]))
        for run in _runs({slot: own.size for slot, own in rows.items()})
    )


def _runs(sizes: dict[int, int]) -> Iterator[range]:
    """Split the slots, in their order, into ranges without a gap whose slots have equal sizes."""
    start = stop = next(iter(sizes))
    for slot, size in sizes.items():
        if slot > start and (slot != stop or size > _SHORT or size != sizes[start]):
            yield range(start, stop)
            start = slot
        stop = slot + 1
    yield range(start, stop)


def _span(rows: list[npt.NDArray[np.int64]]) -> slice | torch.Tensor:
    joined = np.concatenate(rows)
    if (np.diff(joined) == 1).all():
        return slice(int(joined[0]), int(joined[-1]) + 1)
    return torch.from_numpy(joined)
