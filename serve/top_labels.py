"""Bounds the values of a label: the names with the most traffic have one of their own."""

from collections.abc import Callable, Collection

UNKNOWN = "unknown"
"""What has no name that we know: a model that does not exist, a caller without a key."""
OTHER = "other"
"""All those without a label of their own."""
FORGETTING = 64
"""Times `most` requests, after which what was before counts half."""


class TopLabels:
    """Gives labels to at most `most` names, beside those that are `kept` always.

    A name without one takes the place of the least busy that has one as soon as it has had twice
    its traffic; `forget` is called with the one that loses it. Nothing of this grows with the
    number of names: candidates are counted as Misra and Gries do, never too high.
    """

    def __init__(
        self, most: int, forget: Callable[[str], None], kept: Collection[str] = ()
    ) -> None:
        self._most = most
        self._forget = forget
        self._kept = frozenset({*kept, UNKNOWN, OTHER})
        self._own: dict[str, int] = {}
        self._candidates: dict[str, int] = {}
        self._counted = 0

    @property
    def own(self) -> Collection[str]:
        """The names that have a label of their own now, without those that are kept."""
        return self._own.keys()

    def label(self, name: str) -> str:
        """The label of a name whose request is still under way: it counts at its end."""
        if name not in self._kept and len(self._own) < self._most:
            self._own.setdefault(name, 0)
        return name if name in self._own or name in self._kept else OTHER

    def count(self, name: str) -> str:
        """The label of a name that there was one more request for."""
        if name in self._kept:
            return name
        self._age()
        if name in self._own:
            self._own[name] += 1
            return name
        if len(self._own) < self._most:
            self._own[name] = 1
            return name
        return self._challenge(name)

    def _challenge(self, name: str) -> str:
        if not self._own:
            return OTHER
        weight = self._candidates.pop(name, 0) + 1
        weakest = min(self._own, key=self._own.__getitem__)
        if weight <= 2 * self._own[weakest]:
            self._keep(name, weight)
            return OTHER
        self._keep(weakest, self._own.pop(weakest))
        self._own[name] = weight
        self._forget(weakest)
        return name

    def _keep(self, name: str, weight: int) -> None:
        """Remember a candidate; where there is no room, it costs each of the others one."""
        while len(self._candidates) >= self._most and weight > 0:
            weight -= 1
            self._candidates = {
                each: count - 1 for each, count in self._candidates.items() if count > 1
            }
        if weight > 0:
            self._candidates[name] = weight

    def _age(self) -> None:
        self._counted += 1
        if self._counted < FORGETTING * self._most:
            return
        self._counted = 0
        for counts in self._own, self._candidates:
            for name in list(counts):
                counts[name] //= 2
        self._candidates = {name: count for name, count in self._candidates.items() if count}
