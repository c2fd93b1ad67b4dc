"""The gaps of a steady stream, beside nothing, warm requests and cold ones."""

import pytest

from loadtests.answer import Answer
from loadtests.churn import (
    ALONE,
    COLD,
    LOADS,
    WARM,
    Phase,
    gaps_between,
    measure_phase,
    table,
    verdicts,
)

from .conftest import GAP_SECONDS, FakeServer


def test_only_gaps_of_the_time_count_and_none_between_answers() -> None:
    answers = [
        Answer("a", 0.0, (1.0, 2.0, 3.5), 3),
        Answer("a", 4.0, (9.0, 9.5, 12.0), 3),
        Answer("a", 13.0, error="HTTP 503"),
    ]
    assert list(gaps_between(answers, 1.5, 10.0)) == [1.5, 0.5]


def test_the_verdict_is_on_loads_against_nothing() -> None:
    phases = [
        Phase(ALONE, (0.05,) * 100, 0, 0),
        Phase(LOADS, (0.06,) * 100, 50, 0),
        Phase(WARM, (0.05,) * 100, 50, 0),
        Phase(COLD, (0.075,) * 50, 50, 0),
        Phase(COLD, (0.075,) * 50, 50, 1),
    ]
    loads, requests, failed = verdicts(phases)
    assert loads.value == pytest.approx(1.2)
    assert loads.kept is True
    assert requests.value == pytest.approx(1.5)
    assert requests.kept is None
    assert failed.kept is False
    assert table(phases).row_count == 4


def test_a_phase_that_is_missing_keeps_no_promise() -> None:
    assert verdicts([]) == []
    assert verdicts([Phase(LOADS, (0.06,), 1, 0)])[0].kept is False


def test_a_phase_reads_the_stream_while_it_sends(fake_server: FakeServer) -> None:
    phase = measure_phase(fake_server.url, "red", COLD, ["c0", "c1", "unknown"])
    assert [name for name in fake_server.asked if name != "red"] == ["c0", "c1", "unknown"]
    assert fake_server.asked.count("red") >= 3
    assert (phase.requests, phase.failures) == (3, 1)
    gaps = sorted(phase.gaps)
    assert len(gaps) >= 4
    assert gaps[len(gaps) // 2] == pytest.approx(GAP_SECONDS, abs=0.02)


def test_alone_the_time_passes_and_nothing_is_sent(fake_server: FakeServer) -> None:
    phase = measure_phase(fake_server.url, "red", ALONE, ["c0", "c1"])
    assert set(fake_server.asked) == {"red"}
    assert (phase.beside, phase.requests, phase.failures) == (ALONE, 0, 0)
