"""What is counted, and that nothing which clients do breaks it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from scraped import Scraped, scrape

from registry import Registry
from serve.engine import GenerationStats
from serve.engine.echo import EchoEngine
from serve.finished_request import FinishedRequest
from serve.metrics import Metrics

pytestmark = pytest.mark.anyio

RESPONSES = "lorikeet_responses_total"
NASTY = 'x"\nlorikeet_ready 0\n# \\'


def finished(model: str = "opl@1", tenant: str = "acme", **fields: Any) -> FinishedRequest:
    return FinishedRequest(
        **{
            "endpoint": "chat",
            "model": model,
            "tenant": tenant,
            "status": 200,
            "stream": False,
            "seconds": 1.0,
            **fields,
        }
    )


def generation(**fields: Any) -> GenerationStats:
    return GenerationStats(
        **{
            "model": "opl@1",
            "prompt_tokens": 5,
            "cached_tokens": 2,
            "output_tokens": 3,
            "queue_seconds": 0.0,
            "ttft_seconds": 0.1,
            "finish_reason": "stop",
            "gaps": (0.01, 0.03),
            **fields,
        }
    )


async def test_requests_tokens_and_times_by_model_and_tenant(
    run: Any, registry: Registry, publish: Callable[..., Any]
) -> None:
    publish("opl")
    _, secret = registry.keys.create("acme")
    _, ops = registry.keys.create("ops", admin=True)
    async with run() as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        await running.chat("opl", "one two three")
        await running.chat("opl", "one", stream=True)
        await running.chat("tiny", "one")
        await running.chat(NASTY)
        await running.chat("tiny", temperature=9)
        running.client.headers["authorization"] = f"Bearer {ops}"
        await running.client.post("/admin/score", json={"sequences": [[1, 2, 3]]})
        scraped = await scrape(running)
    of_opl = {"model": "opl@1"}
    value = scraped.value
    assert value("lorikeet_requests_total", **of_opl, endpoint="chat", status="200") == 2
    assert value("lorikeet_requests_total", model="unknown", endpoint="chat", status="404") == 1
    assert value("lorikeet_requests_total", model="unknown", endpoint="chat", status="400") == 1
    assert value("lorikeet_requests_total", model="tiny", endpoint="score", status="200") == 1
    assert value("lorikeet_tenant_requests_total", tenant="acme", status="200") == 3
    assert value("lorikeet_prompt_tokens_total", **of_opl) == 4
    assert value("lorikeet_output_tokens_total", **of_opl) == 6
    assert value("lorikeet_tenant_output_tokens_total", tenant="acme") == 8
    assert value("lorikeet_generations_total", **of_opl, finish_reason="stop") == 2
    assert value("lorikeet_generations_total", model="tiny", finish_reason="scored") == 1
    for times in "time_to_first_token", "request", "queue":
        assert value(f"lorikeet_{times}_seconds_count", **of_opl) == 2
    assert value("lorikeet_inter_token_latency_seconds_count", **of_opl) == 6 - 2
    assert value("lorikeet_tenant_time_to_first_token_seconds_count", tenant="acme") == 3
    assert scraped.by("lorikeet_tenant_request_seconds_count", "tenant") == {"acme": 3}


async def test_adapters_their_loads_and_places(run: Any, publish: Callable[..., Any]) -> None:
    for seed, name in enumerate("abc"):
        publish(name, seed=seed)
    async with run(EchoEngine(max_loras=2, max_loaded=2), max_loras=2, max_loaded=2) as running:
        for name in "aabcb":
            assert (await running.chat(name)).status_code == 200
        scraped = await scrape(running)
    value = scraped.value
    assert value("lorikeet_adapter_hits_total", model="a@1", kind="warm") == 1
    assert value("lorikeet_adapter_hits_total", model="b@1", kind="cold") == 1
    assert value("lorikeet_adapter_loads_total", outcome="ok") == 3
    stages = scraped.by("lorikeet_adapter_load_seconds_count", "stage")
    assert stages == dict.fromkeys(("resolve", "fetch", "verify", "warm", "engine", "total"), 3)
    sums = scraped.by("lorikeet_adapter_load_seconds_sum", "stage")
    assert sums.pop("total") == pytest.approx(sum(sums.values()))
    assert value("lorikeet_adapter_evictions_total") == 1
    assert scraped.by("lorikeet_adapters", "tier") == {"engine": 0, "cpu": 2, "disk": 3}
    assert scraped.by("lorikeet_slots", "state") == {"used": 0, "total": 2}
    assert value("lorikeet_leases") == 0


async def test_what_runs_and_what_waits(run: Any, publish: Callable[..., Any]) -> None:
    publish("opl")
    async with run(EchoEngine(token_seconds=30), max_num_seqs=2) as running:
        asked = ["opl", "opl", "tiny", "opl"]
        calls = [asyncio.create_task(running.chat(model)) for model in asked]
        while running.service.engine.running < 2 or running.service.admission.queued < 2:
            await asyncio.sleep(0.01)
        scraped = await scrape(running)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        after = await scrape(running)
    assert scraped.value("lorikeet_requests_running") == 2
    running_by_model = scraped.by("lorikeet_adapter_requests_running", "model")
    assert sum(running_by_model.values()) == 2
    on_the_base = running_by_model["tiny"]  # the two that wait for an adapter take turns with it
    assert on_the_base in (0, 1)
    assert scraped.value("lorikeet_requests_queued") == 2
    assert sum(scraped.by("lorikeet_adapter_requests_queued", "model").values()) == 2
    assert sum(scraped.by("lorikeet_tenant_requests_queued", "tenant").values()) == 2
    assert scraped.value("lorikeet_slots", state="used") == 1
    assert scraped.value("lorikeet_leases") == 2 - on_the_base
    assert after.value("lorikeet_requests_running") == 0


async def test_who_gives_up_waiting_for_the_first_token_has_waited(
    run: Any, free_server: Callable[..., Any]
) -> None:
    """In the engine and in the queue; not who was told at once that there is no such model."""
    async with (
        run(EchoEngine(token_seconds=30), max_num_seqs=1) as running,
        free_server(running.app) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        leaving = [
            asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(2)
        ]
        while not running.service.admission.queued:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.15)
        for each in leaving:
            each.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await running.chat("nobody")
        async with asyncio.timeout(10):
            while (seen := await scrape(running)).value(RESPONSES, **{"class": "4xx"}) < 3:
                await asyncio.sleep(0.01)
    for name in "", "time_to_", "tenant_time_to_":
        assert seen.value(f"lorikeet_{name}first_token_seconds_count") == 2
        assert seen.value(f"lorikeet_{name}first_token_seconds_sum") > 0.3
    assert seen.value("lorikeet_requests_total", model="tiny", status="499") == 2


def test_what_objectives_are_kept_by_is_there_before_the_first_request() -> None:
    metrics = Metrics("tiny")
    fresh = Scraped(metrics.exposition().decode())
    responses = [s for s in fresh.samples if s.name == RESPONSES]
    labels = {(s.labels["endpoint"], s.labels["class"]): s.value for s in responses}
    assert labels == {
        (endpoint, status): 0.0
        for endpoint in ("chat", "completions", "score")
        for status in ("2xx", "4xx", "5xx")
    }
    assert fresh.value("lorikeet_first_token_seconds_bucket", le="2.5") == 0
    for status in (200, 429, 499, 500, 503):
        metrics.count(finished(status=status, ttft_seconds=0.1 if status == 200 else None))
    after = Scraped(metrics.exposition().decode())
    assert after.value(RESPONSES, **{"class": "5xx"}) == 2
    assert after.value(RESPONSES, **{"class": "4xx"}) == 2
    assert after.value("lorikeet_first_token_seconds_count") == 1  # that 499 never had its turn


async def test_refusals_by_reason(run: Any, registry: Registry, publish: Any) -> None:
    publish("opl")
    _, secret = registry.keys.create("acme", rpm=1)
    _, few = registry.keys.create("few", tpm=1)
    _, ops = registry.keys.create("ops", admin=True)
    async with run(EchoEngine(not_finite={"opl@1": 0})) as running:
        headers = running.client.headers
        await running.chat("tiny")
        await running.client.get("/v1/models")
        for key in secret, secret, few, few:
            headers["authorization"] = f"Bearer {key}"
            await running.chat("tiny")
        headers["authorization"] = f"Bearer {ops}"
        await running.chat("opl")
        await running.chat("opl")
        running.service.drain()
        await running.chat("tiny")
        running.service.resume()
        running.service.engine.die()
        await running.chat("tiny")
        reasons = (await scrape(running)).by("lorikeet_admission_refusals_total", "reason")
    assert {reason: count for reason, count in reasons.items() if count} == {
        "auth": 2,
        "rate_limit": 1,
        "token_limit": 1,
        "quarantined": 1,
        "draining": 1,
        "engine_down": 1,
    }
    assert {"queue_full", "tenant_queue_full", "queue_timeout", "concurrency"} <= reasons.keys()


async def test_full_queues_have_reasons_of_their_own(run: Any) -> None:
    settings = {"max_num_seqs": 1, "max_queue": 1, "queue_seconds": 0.2}
    async with run(EchoEngine(token_seconds=0.3), **settings) as running:
        await asyncio.gather(*(running.chat("tiny", "a b c") for _ in range(3)))
        scraped = await scrape(running)
    reasons = scraped.by("lorikeet_admission_refusals_total", "reason")
    assert (reasons["queue_full"], reasons["queue_timeout"]) == (1, 1)


async def test_ten_thousand_names_of_nothing_make_no_series(run: Any) -> None:
    async with run() as running:
        await running.chat("nobody")
        before = len((await scrape(running)).samples)
        for number in range(0, 10_000, 100):
            asked = [f"model-{number + more}" for more in range(100)]
            answers = await asyncio.gather(*map(running.chat, asked))
            assert {answer.status_code for answer in answers} == {404}
        scraped = await scrape(running)
    assert len(scraped.samples) == before
    assert scraped.value("lorikeet_requests_total", model="unknown", status="404") == 10_001


def test_ten_thousand_adapters_and_tenants_keep_within_their_bounds() -> None:
    metrics = Metrics("tiny", adapters=5, tenants=3)
    for number in range(10_000):
        request = finished(
            f"a-{number}@1",
            f"t-{number}",
            load="warm",
            admission_seconds=0.0,
            ttft_seconds=0.1,
            generations=(generation(),),
        )
        metrics.count(request)
        metrics.count(finished("tiny"))
    scraped = Scraped(metrics.exposition().decode())
    models = scraped.by("lorikeet_requests_total", "model")
    assert len(models) == 5 + 2
    assert models["tiny"] == 10_000
    assert len(scraped.by("lorikeet_tenant_requests_total", "tenant")) <= 3 + 1
    assert len(scraped.text) < 100_000
    assert len(metrics.requests._metrics) == 7


def test_a_name_that_falls_out_loses_all_its_series() -> None:
    metrics = Metrics("tiny", adapters=1)
    metrics.count(finished("old@1", load="cold", generations=(generation(),)))
    for _ in range(4):
        metrics.count(finished("new@1"))
    text = metrics.exposition().decode()
    assert "old@1" not in text
    scraped = Scraped(text)
    assert scraped.by("lorikeet_requests_total", "model") == {"other": 2, "new@1": 2}


def test_label_values_with_quotes_and_newlines() -> None:
    metrics = Metrics(NASTY)
    metrics.count(finished(NASTY, NASTY))
    metrics.ready.set(1)
    scraped = Scraped(metrics.exposition().decode())
    assert scraped.value("lorikeet_requests_total", model=NASTY) == 1
    assert scraped.value("lorikeet_tenant_requests_total", tenant=NASTY) == 1
    assert scraped.value("lorikeet_ready") == 1


async def test_a_clock_that_steps_back(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock decides nothing; and a time below zero would be counted as none."""
    now = time.time()
    hours = iter(range(1, 1_000_000))
    async with run() as running:
        monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
        await running.chat("tiny", "one two three four")
        running.service.metrics.count(
            finished(
                ttft_seconds=-5.0,
                seconds=-5.0,
                admission_seconds=-5.0,
                generations=(generation(gaps=(-5.0,)),),
            )
        )
        scraped = await scrape(running)
    sums = {s.name: s.value for s in scraped.samples if s.name.endswith("_seconds_sum")}
    assert len(sums) >= 6
    assert all(0 <= seconds < 60 for seconds in sums.values()), sums
