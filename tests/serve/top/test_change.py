"""Rates and quantiles between two scrapes."""

import math

import pytest
from exposition import exposition

from serve.top.change import Change, histogram_quantile
from serve.top.scrape import Scrape

INF = math.inf


def change(before: str, after: str, seconds: float = 10.0) -> Change:
    return Change(
        Scrape.parse(exposition(before), 5.0), Scrape.parse(exposition(after), 5.0 + seconds)
    )


def test_rates_are_summed_by_a_label() -> None:
    rates = change(
        'counter a_total{model="x",status="200"} 10\ncounter a_total{model="y",status="200"} 1',
        'counter a_total{model="x",status="200"} 30\ncounter a_total{model="y",status="200"} 1\n'
        'counter a_total{model="x",status="500"} 5',
    )
    assert rates.rates("lorikeet_a_total", "model") == {"x": 2.5, "y": 0.0}
    failed = rates.rates("lorikeet_a_total", "model", lambda labels: labels["status"] == "500")
    assert failed == {"x": 0.5}
    assert rates.rates("lorikeet_a_total", "") == {"": 2.5}
    assert rates.rates("lorikeet_b_total", "model") is None


def test_a_counter_that_fell_was_started_anew() -> None:
    restarted = change("counter a_total 1000", "counter a_total 20")
    assert restarted.rates("lorikeet_a_total", "") == {"": 2.0}


def test_without_an_earlier_scrape_or_time_there_are_no_rates() -> None:
    text = 'counter a_total 1\nhistogram h_bucket{le="1"} 3\nhistogram h_bucket{le="+Inf"} 3'
    after = Scrape.parse(exposition(text), 5.0)
    for found in (Change(None, after), Change(after, after)):
        assert found.seconds is None
        assert found.rates("lorikeet_a_total", "") is None
        assert found.quantiles(0.5, "lorikeet_h", "") == {}


def test_a_quantile_is_of_what_came_between_the_two() -> None:
    def buckets(fast: int, slow: int) -> str:
        counts = {"0.1": fast, "0.5": fast + slow, "+Inf": fast + slow}
        series = [
            f'histogram h_bucket{{model="x",le="{le}"}} {count}' for le, count in counts.items()
        ]
        return "\n".join([*series, 'histogram h_bucket{model="idle",le="+Inf"} 7'])

    slower = change(buckets(1000, 0), buckets(1000, 4))
    assert slower.quantiles(0.5, "lorikeet_h", "model") == {"x": pytest.approx(0.3)}
    assert slower.quantiles(0.5, "lorikeet_h", "") == {"": pytest.approx(0.3)}


@pytest.mark.parametrize(
    ("q", "buckets", "value"),
    [
        # What promtool 2.42 finds for `histogram_quantile` over the same buckets; NaN is None.
        (0.5, {0.1: 10, 0.5: 20, INF: 20}, 0.1),
        (0.75, {0.1: 10, 0.5: 20, INF: 20}, 0.3),
        (0.25, {0.1: 10, 0.5: 20, INF: 20}, 0.05),
        (0.95, {0.1: 0, 0.5: 20, INF: 20}, 0.48),
        (0.95, {0.1: 1, 0.5: 2, INF: 20}, 0.5),
        (1.0, {0.1: 10, 0.5: 20, INF: 20}, 0.5),
        (0.0, {0.1: 10, 0.5: 20, INF: 20}, 0.0),
        (0.5, {-1.0: 10, 0.5: 20, INF: 20}, -1.0),
        (0.5, {0.1: 10, 0.5: 8, 1.0: 20, INF: 20}, 0.1),
        (0.5, {0.1: 0, INF: 0}, None),
        (0.5, {INF: 20}, None),
        (0.5, {0.1: 10, 0.5: 20}, None),
        (0.5, {}, None),
    ],
)
def test_quantiles_are_prometheus_own(
    q: float, buckets: dict[float, float], value: float | None
) -> None:
    found = histogram_quantile(q, buckets)
    assert found == (value if value is None else pytest.approx(value))
