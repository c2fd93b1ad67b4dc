"""How differences are measured, and that nothing that is not a number passes."""

import math

import pytest

from train.handoff.agreement import TOLERANCES, Tolerance, compare_scores
from train.handoff.token_scores import TokenScores, mean_loss

ONE = [TokenScores((-1.0, -2.0), (5, 6)), TokenScores((-3.0,), (7,))]


def test_the_largest_the_mean_and_the_share_of_equal_tokens() -> None:
    other = [TokenScores((-1.5, -2.0), (5, 9)), TokenScores((-2.0,), (7,))]
    found = compare_scores(ONE, other)
    assert (found.tokens, found.max, found.mean) == (3, 1.0, 0.5)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.within(Tolerance(max=1.0, mean=0.5, top1=0.6))
    for tighter in (
        Tolerance(max=0.9, mean=0.5, top1=0.6),
        Tolerance(max=1.0, mean=0.4, top1=0.6),
        Tolerance(max=1.0, mean=0.5, top1=0.7),
    ):
        assert not found.within(tighter)
    assert mean_loss(ONE) == 2.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_within_nothing(broken: float) -> None:
    other = [TokenScores((broken, -2.0), (5, 6)), TokenScores((-3.0,), (7,))]
    for tolerance in TOLERANCES.values():
        assert not compare_scores(ONE, other).within(tolerance)
        assert not compare_scores(other, other).within(tolerance)


def test_no_tokens_prove_nothing_and_rows_have_to_match() -> None:
    for tolerance in TOLERANCES.values():
        assert not compare_scores([], []).within(tolerance)
    with pytest.raises(ValueError):
        compare_scores(ONE, ONE[:1])
    with pytest.raises(ValueError):
        compare_scores(ONE, [TokenScores((-1.0,), (5,)), ONE[1]])


def test_the_coarser_the_dtype_the_wider_its_tolerance() -> None:
    exact, half, brain = (TOLERANCES[name] for name in ("float32", "float16", "bfloat16"))
    assert exact.max < half.max < brain.max
    assert exact.mean < half.mean < brain.mean
    assert exact.top1 > half.top1 > brain.top1
