"""Whether a request was sent before: clients send again what they got no answer to."""

from fastapi import Request

COUNT = "x-stainless-retry-count"
"""OpenAI's clients count here."""
KEY = "idempotency-key"


def is_retry(request: Request) -> bool:
    """Whether an equal request of the last minutes is to be answered as that one was."""
    return bool(key_of(request)) or request.headers.get(COUNT, "0") != "0"


def key_of(request: Request) -> str:
    """What tells a request from an equal one that is meant anew; "" where the client sends none."""
    return request.headers.get(KEY, "")
