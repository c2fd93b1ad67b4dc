"""One streamed chat request to any OpenAI-compatible server."""

import functools
import ssl
import time
from dataclasses import replace
from typing import Any

import httpx

from loadtests.answer import Answer, BrokenStream, read_answer

ANSWER_SECONDS = 300
"""Longest silence of a server before its answer counts as failed."""


def connect(url: str, api_key: str = "") -> httpx.Client:
    """A client of the server at `url`, with or without the /v1 at its end."""
    return httpx.Client(
        base_url=url.rstrip("/").removesuffix("/v1"),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=10),
        verify=_tls(),
        trust_env=False,
    )


def ask(
    client: httpx.Client,
    body: dict[str, Any],
    *,
    due: float | None = None,
    leave_after: int | None = None,
) -> Answer:
    """Send `body` and read the stream to its end; a failure is told in the answer's `error`.

    `due` is when it was to be sent, on time.perf_counter, if not now. With `leave_after` the
    connection is closed after so many pieces of text.
    """
    sent = time.perf_counter()
    started = sent if due is None else due
    answer = _answered(client, body, started, leave_after)
    return replace(answer, sent=sent)


def _answered(
    client: httpx.Client, body: dict[str, Any], started: float, leave_after: int | None
) -> Answer:
    model = body["model"]
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise BrokenStream(f"HTTP {response.status_code}: {response.text[:200]}")
            lines = response.iter_lines()
            return read_answer(model, started, lines, time.perf_counter, leave_after=leave_after)
    except (httpx.HTTPError, BrokenStream, KeyError, TypeError, AttributeError) as error:
        return Answer(model, started, error=f"{type(error).__name__}: {error}")


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: it takes longer than a request, and a load test has many clients."""
    return ssl.create_default_context()
