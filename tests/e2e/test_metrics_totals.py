"""Our sums are vLLM's: tokens and requests, whoever asked and however it ended."""

import asyncio
import time
from collections import Counter
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from registry import DEFAULT_BASE

pytestmark = pytest.mark.anyio

SETTLE_SECONDS = 20.0
PAIRS = {
    "lorikeet_prompt_tokens_total": "vllm:prompt_tokens_total",
    "lorikeet_cached_prompt_tokens_total": "vllm:prompt_tokens_cached_total",
    "lorikeet_output_tokens_total": "vllm:generation_tokens_total",
    "lorikeet_tenant_prompt_tokens_total": "vllm:prompt_tokens_total",
    "lorikeet_tenant_output_tokens_total": "vllm:generation_tokens_total",
    "lorikeet_inter_token_latency_seconds_count": "vllm:inter_token_latency_seconds_count",
    "finished": "vllm:request_success_total",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _totals(server: str) -> Counter[str]:
    """The sum of each metric over its labels; `finished`: generations that were not aborted."""
    totals: Counter[str] = Counter()
    for family in text_string_to_metric_families(httpx.get(f"{server}/metrics").text):
        for sample in family.samples:
            totals[sample.name] += sample.value  # type: ignore[assignment]
            reason = sample.labels.get("finish_reason")
            if sample.name == "lorikeet_generations_total" and reason != "abort":
                totals["finished"] += sample.value  # type: ignore[assignment]
    return totals


async def test_they_agree_after_all_kinds_of_requests(
    server: str, random_adapters: list[str]
) -> None:
    before = _totals(server)
    async with (
        AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=server, timeout=300) as raw,
    ):
        ask = client.chat.completions.create
        said: Any = [{"role": "user", "content": "Tell me about the sea and the moon. " * 40}]
        await asyncio.gather(
            ask(model=DEFAULT_BASE, messages=said, max_tokens=12),
            ask(model=random_adapters[0], messages=said, max_tokens=8, n=3, temperature=1.0),
            _read(ask(model=random_adapters[1], messages=said, max_tokens=9, stream=True)),
            ask(model=DEFAULT_BASE, messages=said, max_tokens=20, stop=["e"]),
            client.completions.create(
                model=random_adapters[2], prompt=["one", "two two", "three"], max_tokens=5
            ),
            _leave(raw, stream=True, prompt=["Once upon a time", "There was"]),
            _leave(raw, stream=True, prompt="Once upon a time"),
            _leave(raw, stream=False, prompt="Once upon a time"),
            _leave(raw, stream=False, prompt=["Once upon a time", "There was"]),
            raw.post("/admin/score", json={"sequences": [[1, 2, 3, 4], [5, 6, 7]]}),
            raw.post("/v1/completions", json={"model": "nobody", "prompt": "x"}),
        )
        await ask(model=DEFAULT_BASE, messages=said, max_tokens=4)  # most of it is cached now
    deltas = _settled(server, before)
    assert {ours: deltas[ours] for ours in PAIRS} == {ours: deltas[PAIRS[ours]] for ours in PAIRS}
    for ours in PAIRS:
        assert deltas[ours] > 0, ours
    assert deltas["lorikeet_requests_total"] == 12
    assert deltas["lorikeet_generations_total"] - deltas["finished"] > 0  # those who left


async def _read(stream: Any) -> None:
    async for _ in await stream:
        pass


async def _leave(client: httpx.AsyncClient, *, stream: bool, prompt: str | list[str]) -> None:
    """Ask for much, and go away when some of it is there."""
    body = {"model": DEFAULT_BASE, "prompt": prompt, "max_tokens": 2000, "ignore_eos": True}
    if not stream:
        with pytest.raises(httpx.TimeoutException):
            await client.post("/v1/completions", json=body, timeout=3)
        return
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        for _ in range(4):
            await anext(lines)


def _settled(server: str, before: Counter[str]) -> Counter[str]:
    """What came to `before` once nothing runs any more and all is counted."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = _totals(server)
        idle = not (now["lorikeet_requests_running"] or now["vllm:num_requests_running"])
        counted = now["lorikeet_requests_total"] - before["lorikeet_requests_total"] >= 12
        if (idle and counted) or time.monotonic() > deadline:
            now.subtract(before)
            return now
        time.sleep(0.2)
