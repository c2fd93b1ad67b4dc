"""Cold and warm first tokens, in pairs."""

import pytest

from loadtests.chat import connect
from loadtests.first_token import Pair, measure_pairs, table, verdicts

from .conftest import FIRST_SECONDS, FakeServer


def test_medians_are_compared_and_failures_counted() -> None:
    pairs = [Pair(0.3, 0.2), Pair(0.4, 0.2), Pair(5.0, 0.25), Pair(None, 0.2)]
    slower, failed = verdicts(pairs)
    assert slower.value == pytest.approx(0.4 / 0.2)
    assert slower.kept is False
    assert failed.value == 1
    assert table(pairs).row_count == 2


def test_failures_alone_keep_no_promise() -> None:
    slower, failed = verdicts([Pair(None, None)])
    assert slower.kept is False
    assert failed.kept is False
    assert verdicts([]) == []


def test_pairs_take_turns_to_be_first(fake_server: FakeServer) -> None:
    with connect(fake_server.url) as client:
        pairs = measure_pairs(client, ["c0", "c1", "c2", "unknown"], ["red", "blue"])
    assert fake_server.asked == ["c0", "red", "blue", "c1", "c2", "red", "blue", "unknown"]
    for pair in pairs[:3]:
        assert pair.cold == pytest.approx(FIRST_SECONDS, abs=0.15)
        assert pair.warm == pytest.approx(FIRST_SECONDS, abs=0.15)
    assert pairs[3].cold is None
