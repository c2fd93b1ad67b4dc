"""A trace on a server whose delays are known, and what is made of the answers."""

import asyncio

import pytest

from loadtests.player import in_turn, play
from loadtests.replicas import off, table
from loadtests.simulation.fleet import Figures
from loadtests.simulation.trace import Request

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
