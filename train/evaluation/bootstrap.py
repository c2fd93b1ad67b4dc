"""Confidence intervals by resampling rows: the percentile bootstrap.

B. Efron, "Bootstrap methods: another look at the jackknife", The Annals of Statistics 7 (1979),
1-26. The rows are drawn again, as many as there are, `RESAMPLES` times; the interval holds the
middle 95 % of what these samples give. The draws have a fixed seed: equal rows, equal intervals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

RESAMPLES = 10_000
_MOST_DRAWN = 1 << 20
"""Rows drawn at once: 8 MiB a column."""
_PERCENT = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of all rows, and the bounds that hold it with 95 % confidence."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """The mean of one value a row; 0, from 0 to 0, where there are no rows."""
    return bootstrap_ratio(values, [1] * len(values))


def bootstrap_ratio(numerators: Sequence[float], denominators: Sequence[int]) -> Estimate:
    """The sum of one value a row over the sum of another, a loss over its tokens for one."""
    if not sum(denominators):
        return Estimate(0.0, 0.0, 0.0)
    above = np.asarray(numerators, dtype=np.float64)
    below = np.asarray(denominators, dtype=np.float64)
    draws = np.concatenate([_resampled(above, below, batch) for batch in _batches(len(above))])
    low, high = np.percentile(draws[np.isfinite(draws)], _PERCENT)
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def _batches(rows: int) -> Iterator[Numbers]:
    """All samples, a part at a time: (samples, rows) indices each."""
    random = np.random.default_rng(0)
    most = max(1, _MOST_DRAWN // rows)
    for start in range(0, RESAMPLES, most):
        yield random.integers(rows, size=(min(most, RESAMPLES - start), rows))


def _resampled(above: Numbers, below: Numbers, draw: Numbers) -> Numbers:
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of rows without tokens
        return np.asarray(above[draw].sum(axis=1) / below[draw].sum(axis=1))
