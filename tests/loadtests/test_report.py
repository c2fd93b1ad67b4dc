"""The arithmetic from answers to verdicts."""

import json
import math

import pytest
from rich.console import Console

from loadtests.answer import Answer
from loadtests.report import (
    BASE,
    BOUND,
    MANY,
    ONE,
    OURS,
    STOCK,
    Turn,
    Verdict,
    as_json,
    figures_table,
    measure,
    rows,
    verdicts,
    verdicts_table,
)


def turn(server: str, traffic: str, speed: float, ttft: float = 1.0) -> Turn:
    return Turn(server, traffic, 10, 0, speed, ttft, 2 * ttft, 0.05)


def test_a_turn_counts_the_tokens_of_its_own_time() -> None:
    answers = [
        Answer("opl", 100.0, (101.0, 102.0, 103.0), 3),
        Answer("opl", 100.5, (102.5, 103.0, 111.0), 6),  # the last piece came after the end
        Answer("opl", 101.0, error="HTTP 503"),
    ]
    measured = measure(OURS, ONE, answers, seconds=10)
    assert measured.answers == 2
    assert measured.failures == 1
    assert measured.tokens_per_second == pytest.approx((3 + 4) / 10)
    assert measured.ttft_median == pytest.approx(1.5)
    assert measured.ttft_p95 == pytest.approx(1.0 + 0.95 * 1.0)
    assert measured.itl_median == pytest.approx(1.0)


def test_a_turn_with_failures_alone_has_no_times() -> None:
    measured = measure(OURS, ONE, [Answer("opl", 0.0, error="HTTP 404")], seconds=10)
    assert (measured.answers, measured.failures, measured.tokens_per_second) == (0, 1, 0.0)
    assert math.isnan(measured.ttft_median)


def test_rows_are_medians_and_ratios_are_taken_round_by_round() -> None:
    turns = [
        *(turn(OURS, BASE, 100.0), turn(OURS, ONE, 90.0)),
        *(turn(OURS, BASE, 50.0), turn(OURS, ONE, 40.0)),  # the machine was busy for a round
        *(turn(OURS, BASE, 100.0), turn(OURS, ONE, 95.0)),
    ]
    base, one = rows(turns)
    assert (base.tokens_per_second, one.tokens_per_second) == (100.0, 90.0)
    assert base.of_base == 1.0
    assert one.of_base == pytest.approx(0.9)
    assert one.answers == 30


def test_verdicts_judge_what_was_measured() -> None:
    turns = [
        *(turn(STOCK, BASE, 50.0), turn(STOCK, ONE, 30.0, 4.0), turn(STOCK, MANY, 20.0, 4.0)),
        *(turn(BOUND, BASE, 60.0), turn(BOUND, ONE, 40.0, 4.0), turn(BOUND, MANY, 50.0, 4.0)),
        *(turn(OURS, BASE, 100.0), turn(OURS, ONE, 90.0, 1.0), turn(OURS, MANY, 60.0, 2.0)),
    ]
    judged = {verdict.promise: verdict for verdict in verdicts(rows(turns))}
    values = {promise: verdict.value for promise, verdict in judged.items()}
    assert values == {
        "Lorikeet: 1 adapter, output tokens/s of base traffic's": pytest.approx(0.9),
        "Lorikeet: adapters, output tokens/s of base traffic's": pytest.approx(0.6),
        "1 adapter: output tokens/s of stock vLLM's": pytest.approx(3.0),
        "1 adapter: median TTFT of stock vLLM's": pytest.approx(0.25),
        "adapters: output tokens/s of stock vLLM's": pytest.approx(3.0),
        "adapters: median TTFT of stock vLLM's": pytest.approx(0.5),
        "1 adapter: output tokens/s of stock vLLM, all cores's": pytest.approx(2.25),
        "adapters: output tokens/s of stock vLLM, all cores's": pytest.approx(1.2),
    }
    broken = {promise for promise, verdict in judged.items() if not verdict.kept}
    assert broken == {
        "Lorikeet: adapters, output tokens/s of base traffic's",
        "adapters: median TTFT of stock vLLM's",
        "adapters: output tokens/s of stock vLLM, all cores's",
    }


def test_a_figure_that_is_not_there_keeps_no_promise() -> None:
    assert not Verdict("", 0.85, float("nan")).kept
    assert not Verdict("", 0.3, float("nan"), at_most=True).kept
    assert [verdict.promise for verdict in verdicts(rows([turn(STOCK, BASE, 1.0)]))] == []


def test_tables_and_json_hold_the_figures() -> None:
    turns = [turn(OURS, BASE, 87.65), turn(OURS, ONE, 80.0, 0.4)]
    console = Console(width=140, record=True, file=None, quiet=True)
    console.print(figures_table(rows(turns)), verdicts_table(verdicts(rows(turns))))
    document = json.loads(json.dumps(as_json(turns)))
    assert document["turns"][0]["tokens_per_second"] == 87.65
    assert [row["traffic"] for row in document["rows"]] == [BASE, ONE]
    assert document["verdicts"][0]["kept"] is True
    assert document["verdicts"][0]["value"] == pytest.approx(80 / 87.65)
