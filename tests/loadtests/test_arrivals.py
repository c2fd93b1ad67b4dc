"""Arrivals are a Poisson process whose rate follows the stages."""

from itertools import pairwise

import numpy as np
import pytest

from loadtests.arrivals import arrivals
from loadtests.shapes import Stage

STAGES = [Stage("slow", 1000, 2.0), Stage("fast", 1000, 20.0, noise=5.0), Stage("none", 10, 0.0)]


def test_each_stage_has_its_rate_and_both_tenants_come_in_order() -> None:
    drawn = list(arrivals(STAGES, "seed"))
    assert all(first.seconds <= second.seconds for first, second in pairwise(drawn))
    quiet = [arrival.seconds for arrival in drawn if not arrival.is_noise]
    noise = [arrival.seconds for arrival in drawn if arrival.is_noise]
    # Of a Poisson process with mean n the standard deviation is √n: four of them.
    assert sum(second < 1000 for second in quiet) == pytest.approx(2000, abs=180)
    assert sum(second >= 1000 for second in quiet) == pytest.approx(20_000, abs=570)
    assert len(noise) == pytest.approx(5000, abs=290)
    assert 1000 <= min(noise) <= max(noise) < 2000 > max(quiet)


def test_gaps_are_exponential() -> None:
    seconds = [arrival.seconds for arrival in arrivals([Stage("", 5000, 4.0)], "seed")]
    gaps = np.diff(seconds)
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() == pytest.approx(0.25, rel=0.05)


def test_a_seed_draws_again_what_it_drew() -> None:
    assert list(arrivals(STAGES[:1], "1")) == list(arrivals(STAGES[:1], "1"))
    assert list(arrivals(STAGES[:1], "1")) != list(arrivals(STAGES[:1], "2"))
