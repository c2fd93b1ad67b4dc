"""A deterministic engine without a model: it answers with the model's name and the last message.

For tests of everything around the engine, ours and our users': `lorikeet serve --engine echo`.
A token is a word.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from serve.engine.protocol import (
    Answer,
    EngineAdapter,
    GenerationRequest,
    GenerationStats,
    StatsObserver,
)
from serve.errors import AdapterUnavailable, EngineNotReady


class EchoEngine:
    """`token_seconds` is slept before each token."""

    def __init__(
        self, *, max_loras: int = 8, max_loaded: int = 64, token_seconds: float = 0.0
    ) -> None:
        self.max_loras = max_loras
        self.max_loaded = max_loaded
        self.token_seconds = token_seconds
        self.loaded: dict[int, EngineAdapter] = {}
        self.running = 0
        self._observe: StatsObserver | None = None

    async def start(self, observe: StatsObserver) -> None:
        """Ready at once."""
        self._observe = observe

    async def stop(self) -> None:
        """Forget everything."""
        self._observe = None
        self.loaded.clear()

    @property
    def alive(self) -> bool:
        """True between start and stop."""
        return self._observe is not None

    async def load(self, adapter: EngineAdapter) -> None:
        """Refuses what a real engine would refuse: a full house and a missing folder."""
        self._started()
        if not adapter.path.is_dir():
            raise AdapterUnavailable(f"adapter {adapter.name} has no files")
        if len(self.loaded) >= self.max_loaded:
            raise AdapterUnavailable("no place for another adapter")
        self.loaded[adapter.id] = adapter

    async def unload(self, adapter: EngineAdapter) -> None:
        """Forget the adapter."""
        self._started()
        self.loaded.pop(adapter.id, None)

    async def generate(self, request: GenerationRequest) -> Answer:
        """The model's name and the last user text, at most `max_tokens` words."""
        self._started()
        if request.adapter is not None and request.adapter.id not in self.loaded:
            raise AdapterUnavailable(f"adapter {request.adapter.name} is not loaded")
        if request.body.get("stream"):
            return self._stream(request)
        words = [word async for word in self._words(request)]
        return self._whole(request, words)

    def metrics(self) -> bytes:
        """No metrics of its own."""
        return b""

    def _started(self) -> StatsObserver:
        if self._observe is None:
            raise EngineNotReady("the engine is not running; try again in a moment.")
        return self._observe

    async def _words(self, request: GenerationRequest) -> AsyncGenerator[str, None]:
        observe, started = self._started(), time.perf_counter()
        prompt = _prompt(request.body)
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or 4096
        words = f"{request.model}: {prompt}".split()
        first = started
        self.running += 1
        try:
            for index, word in enumerate(words[:limit]):
                await asyncio.sleep(self.token_seconds)
                if index == 0:
                    first = time.perf_counter()
                yield word if index == 0 else f" {word}"
        finally:
            self.running -= 1
        observe(
            GenerationStats(
                model=request.model,
                prompt_tokens=len(prompt.split()),
                cached_tokens=0,
                output_tokens=min(limit, len(words)),
                queue_seconds=0.0,
                ttft_seconds=first - started,
                seconds=time.perf_counter() - started,
                finish_reason=_finish(words, limit),
            )
        )

    async def _stream(self, request: GenerationRequest) -> AsyncGenerator[str, None]:
        words: list[str] = []
        async with aclosing(self._words(request)) as generated:
            async for word in generated:
                words.append(word)
                yield _event(self._chunk(request, word, None))
        whole = self._whole(request, words)
        yield _event(self._chunk(request, "", whole["choices"][0]["finish_reason"]))
        if (request.body.get("stream_options") or {}).get("include_usage"):
            yield _event({**self._chunk(request, "", None), "choices": [], "usage": whole["usage"]})
        yield "data: [DONE]\n\n"

    def _chunk(self, request: GenerationRequest, text: str, finish: str | None) -> dict[str, Any]:
        chat = request.endpoint == "chat"
        piece = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            **_head(request, "chat.completion.chunk" if chat else "text_completion"),
            "choices": [{"index": 0, "logprobs": None, "finish_reason": finish, **piece}],
        }

    def _whole(self, request: GenerationRequest, words: list[str]) -> dict[str, Any]:
        chat = request.endpoint == "chat"
        text, prompt = "".join(words), _prompt(request.body)
        piece = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        finish = _finish(f"{request.model}: {prompt}".split(), len(words))
        return {
            **_head(request, "chat.completion" if chat else "text_completion"),
            "choices": [{"index": 0, "logprobs": None, "finish_reason": finish, **piece}],
            "usage": {
                "prompt_tokens": len(prompt.split()),
                "completion_tokens": len(words),
                "total_tokens": len(prompt.split()) + len(words),
            },
        }


def _head(request: GenerationRequest, kind: str) -> dict[str, Any]:
    prefix = "chatcmpl" if request.endpoint == "chat" else "cmpl"
    return {
        "id": f"{prefix}-{request.request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
    }


def _finish(words: list[str], limit: int) -> str:
    return "length" if limit < len(words) else "stop"


def _prompt(body: dict[str, Any]) -> str:
    """The last message's text, or the prompt."""
    if "messages" not in body:
        return str(body["prompt"])
    content = body["messages"][-1].get("content") or ""
    if isinstance(content, list):
        return " ".join(part["text"] for part in content)
    return str(content)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
