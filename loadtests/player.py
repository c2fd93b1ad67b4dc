"""Plays a trace to a server: each request at its time, whether the ones before were answered."""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from loadtests.answer import BrokenStream
from loadtests.simulation.trace import Request
from loadtests.traffic import NUMBER_TOKENS, chat_request

ANSWER_SECONDS = 120


@dataclass(slots=True)
class Heard:
    """An answer as its client heard it; times are in seconds from the begin of the trace."""

    request: Request
    first_token: float = 0.0
    ended: float = 0.0
    tokens: int = 0
    """As the server counts, or else pieces of text; none: it failed."""


async def play(url: str, trace: Sequence[Request]) -> list[Heard]:
    """Send each request when it is due, and read its answer, in the order of the trace."""
    async with _client(url) as client:
        begin = time.monotonic()
        return list(await asyncio.gather(*(_ask(client, it, begin) for it in trace)))


async def in_turn(url: str, requests: Sequence[Request]) -> list[Heard]:
    """Send each request when the one before is answered; its times are from then on."""
    async with _client(url) as client:
        return [await _ask(client, request, time.monotonic()) for request in requests]


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, limits=limits, trust_env=False)


async def _ask(client: httpx.AsyncClient, request: Request, begin: float) -> Heard:
    heard = Heard(request)
    body = chat_request(
        request.adapter or "",
        random.Random(str(request)),
        max_tokens=request.output,
        whole=True,
        # The echo engine has no more words than the prompt.
        prompt_tokens=max(request.prompt, request.output + NUMBER_TOKENS),
    )
    await asyncio.sleep(begin + request.at - time.monotonic())
    await _read(client, body, heard, begin)
    return heard


async def _read(
    client: httpx.AsyncClient, body: dict[str, object], heard: Heard, begin: float
) -> None:
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    _hear(json.loads(line.removeprefix("data: ")), heard, begin)
    except (httpx.HTTPError, BrokenStream):
        heard.tokens = 0


def _hear(event: Mapping[str, Any], heard: Heard, begin: float) -> None:
    """Raises: BrokenStream."""
    if "error" in event:
        raise BrokenStream(event["error"]["message"])
    if event["choices"] and event["choices"][0]["delta"].get("content"):
        heard.ended = time.monotonic() - begin
        heard.first_token = heard.first_token or heard.ended
        heard.tokens += 1
    if usage := event.get("usage"):
        heard.tokens = usage["completion_tokens"]
