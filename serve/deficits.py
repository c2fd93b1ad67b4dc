"""The deficits of deficit round robin, in tokens; `serve.round_robin` has the rules and sources."""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Generic, TypeVar

FIRST_QUANTUM = 32.0
"""Tokens, until the length of answers is known. Rather too few: what an answer was taken for in
excess comes back as credit, which is at the cost of others."""
WEIGHT = 0.1
"""Of the newest answer in a mean length."""


@dataclass(eq=False, slots=True)
class Share:
    """One of those who take turns."""

    mark: float = 0.0
    """While it waits: the level that pays for all it used. Else its debt (negative: credit)."""
    waits: bool = False


ShareT = TypeVar("ShareT", bound=Share)


class Rounds(Generic[ShareT]):
    """The deficits of those who take turns; `waiting` has the largest deficit first."""

    def __init__(self) -> None:
        self.level = 0.0
        self.quantum = FIRST_QUANTUM
        self.waiting: list[ShareT] = []

    def deficit(self, share: ShareT) -> float:
        return self.level - share.mark if share.waits else -share.mark

    def join(self, share: ShareT) -> None:
        share.mark += self.level
        share.waits = True
        insort(self.waiting, share, key=_mark)

    def leave(self, share: ShareT) -> None:
        self._take_out(share)
        share.waits = False
        share.mark -= self.level

    def rise(self, share: ShareT) -> None:
        """As many rounds as it takes for this one to have a deficit."""
        if share.mark >= self.level:
            self.level += self.quantum * (math.floor((share.mark - self.level) / self.quantum) + 1)

    def pay(self, share: ShareT, tokens: float, keep: float) -> None:
        """Take `tokens` off a deficit, and leave `keep` of it at most."""
        over = self.deficit(share) - tokens - keep
        mark = share.mark + tokens + max(0.0, over)
        if mark == share.mark:
            return
        if not share.waits:
            share.mark = mark
            return
        self._take_out(share)
        share.mark = mark
        insort(self.waiting, share, key=_mark)

    def learn(self, length: float) -> None:
        """Take one more answer's tokens into the mean that is the quantum."""
        self.quantum += WEIGHT * (length - self.quantum)

    def _take_out(self, share: ShareT) -> None:
        at = bisect_left(self.waiting, share.mark, key=_mark)
        while self.waiting[at] is not share:
            at += 1
        del self.waiting[at]


def _mark(share: Share) -> float:
    return share.mark
