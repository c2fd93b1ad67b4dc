"""How far two models that should be one are apart, token by token, and how far they may be."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from train.handoff.token_scores import TokenScores


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds of the differences of log-probabilities (nats): `max` of any token, `mean` over all.

    `top1` is the share of places whose likeliest token has to be the same.
    """

    max: float
    mean: float
    top1: float

    def as_dict(self) -> dict[str, float]:
        """As JSON values."""
        return asdict(self)


TOLERANCES = {
    "float32": Tolerance(max=1e-3, mean=1e-4, top1=0.99),
    "float16": Tolerance(max=0.1, mean=0.01, top1=0.97),
    "bfloat16": Tolerance(max=0.5, mean=0.05, top1=0.95),
}
"""By the dtype of the served weights: the rounding errors of two ways to compute the same products.

docs/handoff.md has what was measured on a small base; these leave room for larger ones, whose sums
are longer and whose logits are coarser (bfloat16 has steps of 0.125 at 16), and are far below the
difference that a missing adapter makes."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The differences of the log-probabilities (nats) of `tokens` tokens, absolute."""

    tokens: int
    max: float
    mean: float
    top1: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether every bound is kept; what is not a number keeps none."""
        return (
            self.max <= tolerance.max
            and self.mean <= tolerance.mean
            and self.top1 >= tolerance.top1
        )


def compare_scores(one: Sequence[TokenScores], other: Sequence[TokenScores]) -> Agreement:
    """Two models' scores of the same rows. Of no tokens at all everything is NaN."""
    differences: list[float] = []
    same = 0
    for mine, theirs in zip(one, other, strict=True):
        differences += [abs(a - b) for a, b in zip(mine.logprobs, theirs.logprobs, strict=True)]
        same += sum(a == b for a, b in zip(mine.top, theirs.top, strict=True))
    count = len(differences)
    if not count:
        return Agreement(0, math.nan, math.nan, math.nan)
    if not all(map(math.isfinite, differences)):
        return Agreement(count, math.inf, math.inf, same / count)
    return Agreement(count, max(differences), sum(differences) / count, same / count)
