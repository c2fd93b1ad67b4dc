"""What a quiet tenant waits beside a noisy one, and how two busy tenants share."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtests import fairness
from loadtests.answer import Answer
from loadtests.fairness import (
    Quiet,
    Shares,
    Tenant,
    measure_quiet,
    measure_shares,
    quiet_of,
    shares_of,
    table,
    verdicts,
)
from loadtests.servers import OURS, STOCK
from loadtests.swarm import Crowd

from .conftest import FIRST_SECONDS, FakeServer


def test_the_quiet_tenants_waits_and_failures() -> None:
    quiet = [Answer("q", 0.0, (2.0, 2.1), 2), Answer("q", 3.0, error="HTTP 429")]
    noisy = [Answer("n", 0.0, (1.0,), 1), Answer("n", 0.0, error="HTTP 429")]
    assert quiet_of(OURS, quiet, noisy) == Quiet(OURS, (2.0,), 1, 2, 1)


def test_shares_are_of_the_time_in_which_both_asked() -> None:
    settle = fairness.SETTLE_SECONDS
    times = tuple(settle + 0.5 + second for second in range(20))
    many = [Answer("m", 0.0, times, 60), Answer("m", 0.0, (1.0,), 500)]  # the last one before
    few = [Answer("f", 1.0, times, 20), Answer("f", 2.0, (99.0,), 500)]  # the last one after
    shared = shares_of(OURS, many, few, seconds=settle + 10)
    # from 1 + settle until settle + 10: 9 pieces of each
    assert (shared.many, shared.few) == (pytest.approx(27), pytest.approx(9))
    assert shared.of_few == pytest.approx(0.25)


def test_verdicts() -> None:
    quiets = [Quiet(STOCK, (10.0, 12.0, 14.0), 0, 9, 0), Quiet(OURS, (1.0, 2.0, 9.0), 0, 9, 0)]
    beside, failed, even = verdicts(quiets, [Shares(OURS, 54.0, 46.0, 0)])
    assert beside.value == pytest.approx(2 / 12)
    assert beside.kept is True
    assert failed.kept is True
    assert even.value == pytest.approx(0.08)
    assert even.kept is True
    assert verdicts([], [Shares(OURS, 70.0, 30.0, 0)])[0].kept is False
    assert verdicts([], [Shares(OURS, 0.0, 0.0, 0)])[0].kept is False
    assert table(quiets, [Shares(OURS, 54.0, 46.0, 0)]).row_count == 3


def test_a_quiet_tenant_that_never_was_answered_keeps_no_promise() -> None:
    quiets = [Quiet(STOCK, (10.0,), 0, 9, 0), Quiet(OURS, (), 3, 9, 0)]
    assert verdicts(quiets, [])[0].kept is False


def test_two_crowds_ask_one_server(
    fake_server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "SETTLE_SECONDS", 1)
    noisy = Tenant(Crowd(3, 3, api_key="lk-noisy"), ("--adapters", "red,blue", "--pinned"))
    quiet = Tenant(Crowd(1, 3, api_key="lk-quiet"), ("--adapters", "green"))
    found = measure_quiet(OURS, fake_server.url, noisy, quiet, tmp_path)
    assert found.failures == found.noisy_failures == 0
    assert found.ttfts
    assert min(found.ttfts) == pytest.approx(FIRST_SECONDS, abs=0.15)
    assert found.noisy_answers > len(found.ttfts)
    assert fake_server.keys == {
        "red": "Bearer lk-noisy",
        "blue": "Bearer lk-noisy",
        "green": "Bearer lk-quiet",
    }
    longer = Tenant(replace(quiet.crowd, seconds=9), quiet.models)
    shared = measure_shares(OURS, fake_server.url, noisy, longer, tmp_path)
    assert shared.failures == 0
    assert 0 < shared.of_few < 0.4
