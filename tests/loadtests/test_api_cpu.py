"""Two loads give the CPU time of a request and of a token."""

import math
import os
from pathlib import Path

import pytest

from loadtests.api_cpu import Cost, Spent, cost, measure_load, table, verdicts
from loadtests.servers import OURS, STOCK
from loadtests.swarm import Crowd
from serve.child import Child

from .conftest import PIECES, TOKENS_A_PIECE, FakeServer


def loads(server: str, request: float, token: float) -> list[Spent]:
    """What two loads would spend."""
    amounts = [(400, 400), (16, 4096)]
    return [Spent(server, n, 0, k, n * request + k * token) for n, k in amounts]


def test_two_loads_are_solved_for_both() -> None:
    found = cost(loads(OURS, 0.004, 0.0005))
    assert found.request == pytest.approx(0.004)
    assert found.token == pytest.approx(0.0005)


def test_one_load_alone_says_nothing() -> None:
    assert math.isnan(cost(loads(OURS, 0.004, 0.0005)[:1]).token)
    assert isinstance(cost([]), Cost)
    assert math.isnan(cost([]).request)


def test_ours_is_judged_by_stocks() -> None:
    both = loads(STOCK, 0.004, 0.0005) + loads(OURS, 0.0042, 0.0006)
    request, token = verdicts(both)
    assert request.value == pytest.approx(1.05)
    assert request.kept is True
    assert token.value == pytest.approx(1.2)
    assert token.kept is False
    assert verdicts(loads(OURS, 0.004, 0.0005)) == []
    assert table(both).row_count == 2


def test_a_load_is_counted_to_its_last_token(fake_server: FakeServer, tmp_path: Path) -> None:
    child = Child(fake_server.url, os.getpid())  # the server is a thread of this process
    crowd = Crowd(users=2, seconds=2, drain_seconds=10)
    spent = measure_load(OURS, child, ["--base-model", "base"], crowd, tmp_path / "load.jsonl")
    assert spent.requests == len(fake_server.asked) >= 2
    assert spent.tokens == spent.requests * PIECES * TOKENS_A_PIECE
    assert spent.failures == 0
    assert 0 < spent.cpu_seconds < 10
