"""A trace on a server whose delays are known, and what is made of the answers."""

import asyncio

import pytest

from loadtests import probe as probing
from loadtests.player import in_turn, play
from loadtests.replicas import off, table
from loadtests.simulation.fleet import Figures
from loadtests.simulation.replica import Capacity
from loadtests.simulation.trace import Request
from registry import LorikeetError

from .conftest import FIRST_SECONDS, GAP_SECONDS, PIECES, TOKENS_A_PIECE, FakeServer

TRACE = [Request(at, "red", 10, 8) for at in (0.0, 0.1, 0.15)]


def test_requests_are_sent_when_they_are_due_not_when_others_are_answered(
    fake_server: FakeServer,
) -> None:
    heard = asyncio.run(play(fake_server.url, TRACE))
    assert [answer.request for answer in heard] == TRACE
    for answer in heard:
        assert FIRST_SECONDS <= answer.first_token - answer.request.at < 2 * FIRST_SECONDS
        assert answer.ended - answer.first_token >= 0.9 * GAP_SECONDS * (PIECES - 1)
        assert answer.tokens == PIECES * TOKENS_A_PIECE
    assert heard[-1].first_token < 3 * FIRST_SECONDS


def test_in_turn_each_waits_for_the_one_before(fake_server: FakeServer) -> None:
    heard = asyncio.run(in_turn(fake_server.url, [Request(0.0, "red", 10, 8)] * 2))
    assert all(FIRST_SECONDS <= answer.first_token < 2 * FIRST_SECONDS for answer in heard)


def test_as_few_as_two_adapters_measure_a_server(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "REPEATS", 2)
    monkeypatch.setattr(probing, "TRAFFIC", 4)
    capacity = Capacity(max_num_seqs=4, max_loras=4)
    found = asyncio.run(probing.probe(fake_server.url, ["red", "blue"], capacity))
    assert {(step.batch, step.adapters) for step in found.steps} == {
        *((1, 1), (2, 1), (2, 2), (4, 1), (4, 2))
    }
    assert all(step.seconds > 0.5 * GAP_SECONDS / TOKENS_A_PIECE for step in found.steps)


def test_a_server_that_does_not_answer_is_not_measured(fake_server: FakeServer) -> None:
    with pytest.raises(LorikeetError, match=r"12 of 12 requests .* were not answered"):
        asyncio.run(probing.probe(fake_server.url, ["unknown"] * 12, Capacity()))


def test_an_answer_that_breaks_off_has_no_tokens() -> None:
    (heard,) = asyncio.run(play("http://127.0.0.1:9", TRACE[:1]))
    assert heard.tokens == 0


def test_a_prediction_is_so_far_off() -> None:
    measured = Figures(10, 0, 0.8, 0.1, 1.0, 50.0, 10.0)
    predicted = Figures(10, 0, 0.84, 0.09, 1.25, 50.0, 10.0)
    assert off(measured, predicted, "warm_rate") == pytest.approx(0.05)
    assert off(measured, predicted, "ttft_p50") == pytest.approx(-0.1)
    assert off(measured, predicted, "ttft_p99") == pytest.approx(0.25)
    assert table(measured, predicted).row_count == 4
