"""What changed between two scrapes: rates of counters, quantiles of histograms."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve.top.scrape import Labels, Scrape, summed


def _every(_: Mapping[str, str]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Change:
    """From `before` to `after`; with no scrape before, nothing is known of rates."""

    before: Scrape | None
    after: Scrape

    @property
    def seconds(self) -> float | None:
        """How long it took; None where no time has passed."""
        if self.before is None or self.after.at <= self.before.at:
            return None
        return self.after.at - self.before.at

    def rates(
        self, name: str, label: str, where: Callable[[Mapping[str, str]], bool] = _every
    ) -> dict[str, float] | None:
        """`sum by (label) (rate(name))`, per second; None where it cannot be known.

        `where` chooses series by their labels.
        """
        seconds = self.seconds
        if seconds is None or not self.after.knows(name):
            return None
        rises = {key: rise for key, rise in self._rises(name).items() if where(dict(key))}
        return {group: rise / seconds for group, rise in summed(rises, label).items()}

    def quantiles(self, q: float, name: str, label: str) -> dict[str, float]:
        """By a label's values, a quantile of what a histogram counted in between, in its unit.

        As Prometheus does it: the difference of each bucket's count between the two scrapes, and
        `histogram_quantile` over those. Groups that counted nothing are left out.
        """
        found = {}
        for group, buckets in self._buckets(name, label).items():
            value = histogram_quantile(q, buckets)
            if value is not None:
                found[group] = value
        return found

    def _rises(self, name: str) -> dict[Labels, float]:
        """By series. One that is new began at 0, and one that fell began there again."""
        assert self.before is not None
        old = self.before.series.get(name, {})
        rises = {}
        for key, value in self.after.series.get(name, {}).items():
            was = old.get(key, 0.0)
            rises[key] = value - was if value >= was else value
        return rises

    def _buckets(self, name: str, label: str) -> dict[str, dict[float, float]]:
        groups: dict[str, dict[float, float]] = {}
        if self.seconds is None:
            return groups
        for key, rise in self._rises(f"{name}_bucket").items():
            labels = dict(key)
            buckets = groups.setdefault(labels.get(label, ""), {})
            bound = float(labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + rise
        return groups


def histogram_quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """The quantile `q` of cumulative counts by upper bound, as Prometheus' function of that name.

    Interpolated linearly in the bucket where it lies, of which the lowest begins at 0; in the
    bucket up to +Inf it is that bucket's lower bound. None: nothing was counted, or there is no
    bucket up to +Inf.
    """
    bounds = sorted(buckets)
    if len(bounds) < 2 or bounds[-1] != math.inf:
        return None
    # A scrape is no snapshot of all buckets at one time: none may be below the one before it.
    counts = list(itertools.accumulate((buckets[bound] for bound in bounds), max))
    if not counts[-1] > 0:
        return None
    rank = q * counts[-1]
    index = next(i for i, count in enumerate(counts) if count >= rank)
    if index == len(bounds) - 1:
        return bounds[-2]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    start = bounds[index - 1] if index else 0.0
    below = counts[index - 1] if index else 0.0
    inside = counts[index] - below
    share = (rank - below) / inside if inside else 0.0
    return start + (bounds[index] - start) * share
