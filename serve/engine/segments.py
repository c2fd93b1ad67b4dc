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
"""A slot with at most this many rows shares a batched product; one with more has its own."""

_PADDING = 2
"""A batched product may compute at most this many times the rows that are really there."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`width` rows of each of the slots `first` to `first + count - 1`.

    `rows` holds the `count * width` row numbers, slot by slot: a slice where they follow each other
    in the step, an index otherwise. A slot with fewer than `width` rows repeats its last one;
    `kept` then lists the positions in `rows` without these repeats, and `targets` their rows.
    """

    first: int
    count: int
    width: int
    rows: slice | torch.Tensor
    kept: torch.Tensor | None = None
    targets: torch.Tensor | None = None

    def gather(self, matrix: torch.Tensor) -> torch.Tensor:
        """The segment's rows of `matrix` (rows, features): a view for a slice, else a copy."""
        if isinstance(self.rows, slice):
            return matrix[self.rows]
        return matrix.index_select(0, self.rows)

    def scatter(self, matrix: torch.Tensor, values: torch.Tensor) -> None:
        """Write back what `gather` gave, after it was changed in place."""
        if isinstance(self.rows, slice):
            return
        if self.kept is None or self.targets is None:
            matrix.index_copy_(0, self.rows, values)
        else:
            matrix.index_copy_(0, self.targets, values.index_select(0, self.kept))


def group_rows(slots: npt.NDArray[np.int64]) -> tuple[Segment, ...]:
    """Group the rows of a step by adapter.

    `slots` has the slot of each row, `BASE` where there is none. The segments are disjoint, in the
    order of their slots, and cover exactly the rows that have a slot; a step of the base model
    alone has none.
    """
    order = np.argsort(slots, kind="stable")
    order = order[np.searchsorted(slots[order], 0) :]
    if order.size == 0:
        return ()
    present, starts = np.unique(slots[order], return_index=True)
    rows = dict(zip(present.tolist(), np.split(order, starts[1:]), strict=True))
    return tuple(_segment(run, [rows[slot] for slot in run]) for run in _runs(rows))


def _runs(rows: dict[int, npt.NDArray[np.int64]]) -> Iterator[range]:
    """Split the slots into ranges without a gap, whose rows are worth padding to one width."""
    start: int | None = None
    stop, widest, total = 0, 0, 0
    for slot, own in rows.items():
        grown = max(widest, own.size) * (slot + 1 - start) if start is not None else 0
        if (
            start is not None
            and slot == stop
            and own.size <= _SHORT
            and widest <= _SHORT
            and grown <= _PADDING * (total + own.size)
        ):
            stop, widest, total = slot + 1, max(widest, own.size), total + own.size
            continue
        if start is not None:
            yield range(start, stop)
        start, stop, widest, total = slot, slot + 1, own.size, own.size
    if start is not None:
        yield range(start, stop)


def _segment(run: range, rows: list[npt.NDArray[np.int64]]) -> Segment:
    width = max(own.size for own in rows)
    padded = np.concatenate([np.pad(own, (0, width - own.size), mode="edge") for own in rows])
    if (np.diff(padded) == 1).all():
        span = slice(int(padded[0]), int(padded[-1]) + 1)
        return Segment(run.start, len(run), width, span)
    index = torch.from_numpy(padded)
    if all(own.size == width for own in rows):
        return Segment(run.start, len(run), width, index)
    kept = np.concatenate([np.arange(own.size) + i * width for i, own in enumerate(rows)])
    targets = torch.from_numpy(padded[kept])
    return Segment(run.start, len(run), width, index, torch.from_numpy(kept), targets)
