"""From the answers of a turn to its figures, rows and verdicts."""

import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.answer import Answer
from loadtests.servers import BOUND, OURS, STOCK
from loadtests.swarm import Crowd
from loadtests.throughput import (
    BASE,
    MANY,
    ONE,
    ZIPF,
    Figures,
    Turn,
    rows,
    table,
    take_turn,
    verdicts,
)

from .conftest import FIRST_SECONDS, FakeServer


def turn(server: str, traffic: str, speed: float, ttft: float = 1.0, failures: int = 0) -> Turn:
    return Turn(server, traffic, Figures(10, failures, speed, ttft, 2 * ttft, 0.05))


def test_a_turn_counts_the_tokens_of_its_own_time() -> None:
    answers = [
        Answer("opl", 100.0, (101.0, 102.0, 103.0), 3),
        Answer("opl", 100.5, (102.5, 103.0, 111.0), 6),  # the last piece came after the end
        Answer("opl", 101.0, error="HTTP 503"),
    ]
    figures = Figures.of(answers, seconds=10)
    assert (figures.answers, figures.failures) == (2, 1)
    assert figures.tokens_per_second == pytest.approx((3 + 4) / 10)
    assert figures.ttft_median == pytest.approx(1.5)
    assert figures.ttft_p95 == pytest.approx(1.0 + 0.95 * 1.0)
    assert figures.itl_median == pytest.approx(1.0)


def test_a_turn_with_failures_alone_has_no_times() -> None:
    figures = Figures.of([Answer("opl", 0.0, error="HTTP 404")], seconds=10)
    assert (figures.answers, figures.failures, figures.tokens_per_second) == (0, 1, 0.0)
    assert math.isnan(figures.ttft_median)


def test_rows_are_medians_and_ratios_are_taken_round_by_round() -> None:
    turns = [
        *(turn(OURS, BASE, 100.0), turn(OURS, ONE, 90.0)),
        *(turn(OURS, BASE, 50.0), turn(OURS, ONE, 40.0)),  # the machine was busy for a round
        *(turn(OURS, BASE, 100.0), turn(OURS, ONE, 95.0)),
    ]
    base, one = rows(turns)
    assert (base.figures.tokens_per_second, one.figures.tokens_per_second) == (100.0, 90.0)
    assert base.of_base == 1.0
    assert one.of_base == pytest.approx(0.9)
    assert one.figures.answers == 30


def test_verdicts_judge_what_was_measured() -> None:
    turns = [
        *(turn(STOCK, BASE, 50.0), turn(STOCK, ONE, 30.0, 4.0), turn(STOCK, MANY, 20.0, 4.0)),
        *(turn(BOUND, BASE, 60.0), turn(BOUND, ONE, 40.0, 4.0), turn(BOUND, MANY, 50.0, 4.0)),
        *(turn(OURS, BASE, 100.0, 0.7), turn(OURS, ONE, 90.0), turn(OURS, MANY, 60.0, 2.0)),
        *(turn(STOCK, ZIPF, 10.0), turn(OURS, ZIPF, 24.0, failures=3)),
    ]
    judged = {verdict.promise: verdict for verdict in verdicts(turns)}
    assert {promise: verdict.value for promise, verdict in judged.items()} == {
        "base: output tokens/s of stock vLLM's": pytest.approx(2.0),
        "base: median TTFT of stock vLLM's": pytest.approx(0.7),
        "1 adapter: output tokens/s of stock vLLM's": pytest.approx(3.0),
        "1 adapter: median TTFT of stock vLLM's": pytest.approx(0.25),
        "1 adapter a slot: output tokens/s of stock vLLM's": pytest.approx(3.0),
        "1 adapter a slot: median TTFT of stock vLLM's": pytest.approx(0.5),
        "base: output tokens/s of stock vLLM, all cores's": pytest.approx(100 / 60),
        "1 adapter: output tokens/s of stock vLLM, all cores's": pytest.approx(2.25),
        "1 adapter a slot: output tokens/s of stock vLLM, all cores's": pytest.approx(1.2),
        "4 adapters a slot, Zipf: output tokens/s of stock vLLM's": pytest.approx(2.4),
        "4 adapters a slot, Zipf: median TTFT of stock vLLM's": pytest.approx(1.0),
        "Lorikeet: 1 adapter, output tokens/s of base traffic's": pytest.approx(0.9),
        "Lorikeet: 1 adapter a slot, output tokens/s of base traffic's": pytest.approx(0.6),
        "Lorikeet: 4 adapters a slot, Zipf, failed requests": 3,
    }
    kept = {promise for promise, verdict in judged.items() if verdict.kept}
    broken = {promise for promise, verdict in judged.items() if verdict.kept is False}
    assert kept == {
        "base: output tokens/s of stock vLLM's",
        "base: median TTFT of stock vLLM's",
        "1 adapter a slot: output tokens/s of stock vLLM's",
    }
    assert broken == {
        "1 adapter a slot: output tokens/s of stock vLLM, all cores's",
        "4 adapters a slot, Zipf: output tokens/s of stock vLLM's",
        "Lorikeet: 1 adapter a slot, output tokens/s of base traffic's",
        "Lorikeet: 4 adapters a slot, Zipf, failed requests",
    }


def test_nothing_is_judged_against_a_server_that_was_not_measured() -> None:
    assert verdicts([turn(STOCK, BASE, 1.0)]) == []
    assert [verdict.promise for verdict in verdicts([turn(OURS, BASE, 1.0)])] == []


def test_the_table_has_a_row_for_each_kind_of_traffic() -> None:
    console = Console(width=140, file=StringIO(), record=True)
    console.print(table([turn(OURS, BASE, 87.65), turn(OURS, ONE, 80.0, 0.4, failures=2)]))
    text = console.export_text()
    assert "87.7" in text
    assert "(2 failed)" in text


def test_a_turn_on_a_server(fake_server: FakeServer, tmp_path: Path) -> None:
    crowd = Crowd(users=2, seconds=2, drain_seconds=10)
    models = ["--adapters", "red,blue", "--pinned"]
    taken = take_turn(OURS, fake_server.url, MANY, models, crowd, tmp_path / "turn.jsonl")
    assert set(fake_server.asked) == {"red", "blue"}
    assert taken.figures.failures == 0
    assert taken.figures.answers >= 2
    assert taken.figures.ttft_median == pytest.approx(FIRST_SECONDS, abs=0.15)
