"""The weights of all adapter slots of one layer, read in place and no wider than they are.

vLLM keeps the two LoRA factors of a layer as stacks with a place for each slot, padded with zeros
to the largest rank that the server admits. `StackedFactors` hands out views of a range of slots,
cut to the largest rank that those slots really have: padding is never read, and a projection that
none of them adapts costs nothing. `write` puts an adapter into a slot and touches no more than
the old and the new one's rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

_MAX_VIEWS = 64
"""Views kept for each layer; a server with many slots would else keep one for each range."""


class Factors(NamedTuple):
    """One projection's factors for a range of slots, for `y[:, columns] += rows @ down @ up`.

    For one slot `down` is (inputs, rank) and `up` (rank, outputs); for several both have a leading
    dimension of slots. `columns` are the projection's in its packed layer (q, k, v; gate, up).
    """

    down: torch.Tensor
    up: torch.Tensor
    columns: slice


class StackedFactors:
    """The stacks of one layer: `a` (slots, 1, max rank, inputs), `b` (slots, 1, outputs, max rank).

    The stacks stay vLLM's own and are never copied. What others write into them their version
    counters tell; stacks made in inference mode have none and are read whole.
    """

    def __init__(self, a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> None:
        assert len(a) == len(b), "every projection has two factors"
        self._a = a
        self._b = b
        self._tracked = not any(stack.is_inference() for stack in (*a, *b))
        self._version = -1
        self._views: dict[tuple[int, int], tuple[Factors, ...]] = {}
        self._ranks: dict[int, tuple[int, ...]] = {}

    def factors(self, first: int, count: int) -> tuple[Factors, ...]:
        """Views of `count` slots from `first` on, without the projections that they leave alone."""
        self._look()
        views = self._views.get((first, count))
        if views is None:
            if len(self._views) == _MAX_VIEWS:
                self._views.clear()
            views = self._views[first, count] = tuple(self._cut(first, count))
        return views

    def fits(self, down: Sequence[torch.Tensor | None], up: Sequence[torch.Tensor | None]) -> bool:
        """Whether `write` can take these factors."""
        if not self._tracked or len(down) != len(self._a) or len(up) != len(self._b):
            return False
        return all(
            (a is None and b is None)
            or (
                a is not None
                and b is not None
                and a.shape[1] == stack_a.shape[3]
                and b.shape[0] == stack_b.shape[2]
                and a.shape[0] == b.shape[1] <= stack_a.shape[2]
            )
            for a, b, stack_a, stack_b in zip(down, up, self._a, self._b, strict=True)
        )

    def write(
        self, slot: int, down: Sequence[torch.Tensor | None], up: Sequence[torch.Tensor | None]
    ) -> None:
        """Put an adapter's factors into a slot: (rank, inputs) and (outputs, rank), or None.

        They must fit.
        """
        self._look()
        before = self._ranks.get(slot)
        ranks = []
        for index, (a, b) in enumerate(zip(down, up, strict=True)):
            stack_a, stack_b = self._a[index][slot, 0], self._b[index][slot, 0]
            rank = 0 if a is None else a.shape[0]
            if a is not None and b is not None:
                stack_a[:rank].copy_(a, non_blocking=True)
                stack_b[:, :rank].copy_(b, non_blocking=True)
            filled = stack_a.shape[0] if before is None else before[index]
            if filled > rank:
                stack_a[rank:filled].zero_()
                stack_b[:, rank:filled].zero_()
            ranks.append(rank)
        self._ranks[slot] = tuple(ranks)
        self._version = self._written()
        for first, count in [*self._views]:
            if first <= slot < first + count:
                del self._views[first, count]

    def assume_empty(self) -> None:
        """Take it that every slot is zero, as vLLM makes them; saves looking."""
        self._look()
        for slot in range(self._a[0].shape[0]):
            self._ranks[slot] = (0,) * len(self._a)

    def _look(self) -> None:
        """Forget what was known where somebody else has written."""
        if self._tracked and self._version != (version := self._written()):
            self._views.clear()
            self._ranks.clear()
            self._version = version

    def _written(self) -> int:
        version = 0
        for stack in self._a:
            version += stack._version
        return version

    def _cut(self, first: int, count: int) -> list[Factors]:
        cut = []
        stop = 0
        for index, (a, b) in enumerate(zip(self._a, self._b, strict=True)):
            start, stop = stop, stop + b.shape[2]
            rank = max(self._rank(slot, index) for slot in range(first, first + count))
            if rank == 0:
                continue
            down = a[first : first + count, 0, :rank].transpose(1, 2)
            up = b[first : first + count, 0, :, :rank].transpose(1, 2)
            if count == 1:
                down, up = down[0], up[0]
            cut.append(Factors(down, up, slice(start, stop)))
        return cut

    def _rank(self, slot: int, index: int) -> int:
        """The rank that a slot has in one projection: the rows up to the last that is set."""
        if not self._tracked:
            return self._a[index].shape[2]
        ranks = self._ranks.get(slot)
        if ranks is None:
            ranks = self._ranks[slot] = tuple(_last_row(stack[slot, 0]) for stack in self._a)
        return ranks[index]


def _last_row(matrix: torch.Tensor) -> int:
    used = matrix.ne(0).any(dim=-1).nonzero()
    return int(used[-1]) + 1 if used.numel() else 0
