"""Limits of a key: continuous refill, debts, bursts, headers, and what is forgotten."""

from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import Overloaded, TooManyRequests
from serve.limits import RateLimits, duration


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> RateLimits:
    return RateLimits(clock=clock)


def use(
    limits: RateLimits,
    *,
    key: str = "0123456789ab",
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int | None = None,
    estimate: float = 0,
    tokens: int = 0,
) -> dict[str, str]:
    """One request that takes `tokens`; the headers of its answer."""
    with limits.enter(key, rpm=rpm, tpm=tpm, concurrency=concurrency, estimate=estimate) as grant:
        grant.charge(tokens)
        return grant.headers


def refused(limits: RateLimits, **options: Any) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as error:
        use(limits, **options)
    return error.value


def test_requests_refill_continuously(limits: RateLimits, clock: Clock) -> None:
    for _ in range(3):
        use(limits, rpm=3)
    error = refused(limits, rpm=3)
    assert error.body()["error"] == {
        "message": "Rate limit reached for the key 0123456789ab on requests per min (RPM): "
        "Limit 3, Used 3, Requested 1. Please try again in 20s.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert error.retry_after == 20
    assert error.headers == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    clock.now += 19.5
    assert refused(limits, rpm=3).retry_after == 1
    clock.now += 0.5
    use(limits, rpm=3)
    refused(limits, rpm=3)


def test_a_refused_request_uses_nothing(limits: RateLimits, clock: Clock) -> None:
    use(limits, rpm=1)
    for _ in range(10):
        refused(limits, rpm=1)
    clock.now += 60
    use(limits, rpm=1)


def test_tokens_may_leave_a_debt_that_the_next_waits_for(limits: RateLimits, clock: Clock) -> None:
    use(limits, tpm=600, tokens=1000)
    error = refused(limits, tpm=600)
    assert "on tokens per min (TPM): Limit 600, Used 1000, Requested 1" in error.message
    assert error.retry_after == 41  # 401 tokens at ten a second
    assert error.headers["x-ratelimit-remaining-tokens"] == "0"
    assert error.headers["x-ratelimit-reset-tokens"] == "1m40s"
    clock.now += 41
    use(limits, tpm=600)


def test_an_estimate_holds_a_burst_back_until_it_is_charged(limits: RateLimits) -> None:
    with ExitStack() as stack:
        grants = [
            stack.enter_context(
                limits.enter("key", rpm=None, tpm=1000, concurrency=None, estimate=400)
            )
            for _ in range(2)
        ]
        refused(limits, key="key", tpm=1000, estimate=400)
        for grant in grants:
            grant.charge(50)
            grant.charge(100)  # the sum so far
        assert use(limits, key="key", tpm=1000, estimate=400)["x-ratelimit-remaining-tokens"] == (
            "400"
        )


def test_an_estimate_over_the_limit_waits_for_a_full_minute_only(limits: RateLimits) -> None:
    assert use(limits, tpm=100, estimate=8192, tokens=20)["x-ratelimit-remaining-tokens"] == "0"
    assert refused(limits, tpm=100, estimate=8192).retry_after == 12


def test_an_error_gives_an_uncharged_estimate_back(limits: RateLimits) -> None:
    options = {"rpm": None, "tpm": 100, "concurrency": None, "estimate": 100}
    with pytest.raises(Overloaded), limits.enter("key", **options):
        raise Overloaded("full")
    with limits.enter("key", **options):
        pass  # it ended, and nobody knows what it took
    refused(limits, key="key", tpm=100)


def test_concurrency_ends_with_the_request(limits: RateLimits) -> None:
    with limits.enter("key", rpm=None, tpm=None, concurrency=1) as grant:
        assert grant.headers == {}
        error = refused(limits, key="key", concurrency=1)
        assert "Limit 1, Used 1, Requested 1" in error.message
        assert error.retry_after == 1
    use(limits, key="key", concurrency=1)


def test_keys_do_not_share(limits: RateLimits) -> None:
    use(limits, key="a", rpm=1)
    use(limits, key="b", rpm=1)
    refused(limits, key="a", rpm=1)


def test_a_new_limit_holds_at_once(limits: RateLimits, clock: Clock) -> None:
    assert use(limits, rpm=100)["x-ratelimit-remaining-requests"] == "99"
    assert use(limits, rpm=2)["x-ratelimit-remaining-requests"] == "1"
    use(limits, rpm=2)
    refused(limits, rpm=2)
    use(limits, rpm=None)


def test_a_limit_of_zero_admits_nothing(limits: RateLimits) -> None:
    assert refused(limits, rpm=0).retry_after == 60


def test_unused_keys_are_forgotten_and_debts_are_not(limits: RateLimits, clock: Clock) -> None:
    use(limits, key="debtor", tpm=60, tokens=1000)
    for number in range(1000):
        use(limits, key=f"key{number}", rpm=5, tpm=100, tokens=10)
    assert len(limits._usage) == 1001
    clock.now += 120
    for _ in range(600):
        use(limits, key="busy")
    assert set(limits._usage) == {"debtor", "busy"}
    refused(limits, key="debtor", tpm=60)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0, 30),
            st.integers(0, 300),
            st.sampled_from([0, 50, 500]),
        ),
        max_size=120,
    )
)
def test_no_window_of_a_minute_has_more_than_two_minutes_worth(
    steps: list[tuple[str, float, int, int]],
) -> None:
    clock = Clock()
    limits = RateLimits(clock=clock)
    admitted: list[tuple[str, float]] = []
    for key, pause, tokens, estimate in steps:
        clock.now += pause
        try:
            use(limits, key=key, rpm=5, tpm=600, estimate=estimate, tokens=tokens)
        except TooManyRequests as error:
            clock.now += error.retry_after or 0
            use(limits, key=key, rpm=5, tpm=600, estimate=estimate, tokens=tokens)
        admitted.append((key, clock.now))
    for key, since in admitted:
        assert sum(k == key and since <= at < since + 60 for k, at in admitted) <= 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0171, "18ms"),
        (1, "1s"),
        (1.2, "2s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3601, "1h0m1s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
