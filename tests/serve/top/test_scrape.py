"""One reading of /metrics."""

import pytest

from serve.metrics import Metrics
from serve.top.scrape import Scrape

STRANGE = 'a"b\nc\\d{e="f"} 7'


def test_a_declared_metric_without_series_is_zero_and_another_one_unknown() -> None:
    scrape = Scrape.parse("# TYPE lorikeet_requests_total counter\n", 0.0)
    assert scrape.total("lorikeet_requests_total") == 0
    assert scrape.by("lorikeet_requests_total", "model") == {}
    assert scrape.total("lorikeet_slots") is None
    assert scrape.by("lorikeet_slots", "state") is None
    assert scrape.text("lorikeet_build_info", "version") is None


def test_what_the_server_writes_is_read_back_whatever_is_in_the_labels() -> None:
    metrics = Metrics()
    metrics.requests.labels(STRANGE, "chat", "200").inc(3)
    metrics.requests.labels(STRANGE, "chat", "503").inc()
    metrics.requests.labels("smol", "chat", "200").inc()
    scrape = Scrape.parse(metrics.exposition().decode(), 0.0)
    assert scrape.by("lorikeet_requests_total", "model") == {STRANGE: 4, "smol": 1}
    assert scrape.by("lorikeet_requests_total", "model", status="503") == {STRANGE: 1}
    assert scrape.total("lorikeet_requests_total", model="smol") == 1


def test_of_other_metrics_only_those_shown_are_read() -> None:
    text = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:other 1\npython_info{a="b"} 1\n'
    scrape = Scrape.parse(text, 0.0)
    assert set(scrape.series) == {"vllm:kv_cache_usage_perc"}


@pytest.mark.parametrize("text", ["lorikeet_ready\n", "lorikeet_ready yes\n", "lorikeet_x{a 1\n"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Scrape.parse(text, 0.0)
