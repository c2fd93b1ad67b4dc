"""The weights of all adapter slots of one layer, read in place and no wider than they are.

vLLM keeps the two LoRA factors of a layer as stacks with a place for each slot, padded with zeros
to the largest rank that the server admits. `StackedFactors` hands out views of a range of slots,
cut to the largest rank that those slots really have: padding is never read, and a projection that
none of them adapts costs nothing.
"""

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

    The stacks stay vLLM's own and are never copied. Loading an adapter writes into them, which
    their version counters tell; stacks made in inference mode have none and are read whole.
    """

    def __init__(self, a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> None:
        assert len(a) == len(b), "every projection has two factors"
        self._a = a
        self._b = b
        self._tracked = not any(stack.is_inference() for stack in a)
        self._version = -1
        self._views: dict[tuple[int, int], tuple[Factors, ...]] = {}

    def factors(self, first: int, count: int) -> tuple[Factors, ...]:
        """Views of `count` slots from `first` on, without the projections that they leave alone."""
        version = 0
        if self._tracked:
            for stack in self._a:
                version += stack._version
        if version != self._version:
            self._views.clear()
            self._version = version
        views = self._views.get((first, count))
        if views is None:
            if len(self._views) == _MAX_VIEWS:
                self._views.clear()
            views = self._views[first, count] = tuple(self._cut(first, count))
        return views

    def _cut(self, first: int, count: int) -> list[Factors]:
        cut = []
        stop = 0
        for a, b in zip(self._a, self._b, strict=True):
            start, stop = stop, stop + b.shape[2]
            down = a[first : first + count, 0]
            rank = _rank(down) if self._tracked else down.shape[1]
            if rank == 0:
                continue
            down = down[:, :rank].transpose(1, 2)
            up = b[first : first + count, 0, :, :rank].transpose(1, 2)
            if count == 1:
                down, up = down[0], up[0]
            cut.append(Factors(down, up, slice(start, stop)))
        return cut


def _rank(down: torch.Tensor) -> int:
    """The number of rows up to the last that any slot of (slots, max rank, inputs) has set."""
    used = down.ne(0).any(dim=-1).any(dim=0).nonzero()
    return int(used[-1]) + 1 if used.numel() else 0
