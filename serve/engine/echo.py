"""A deterministic engine without a model: it answers with the model's name and the last message.

For tests of everything around the engine, ours and our users': `lorikeet serve --engine echo`.
A token is a word.
"""

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from serve.engine.protocol import (
    Answer,
    EngineAdapter,
    GenerationRequest,
    GenerationStats,
    ScoreRequest,
    SequenceScore,
)
from serve.errors import AdapterUnavailable, EngineNotReady, OutputNotFinite, RequestError


class EchoEngine:
    """`token_seconds` is slept before each token, `load_seconds` in each load.

    `not_finite` has the models (`name@version`) whose output turns out not to be finite, and the
    tokens that they deliver before. `die()` and `hang()` are what may happen to a real engine; a
    new `start()` mends both.
    """

    def __init__(
        self,
        *,
        max_loras: int = 8,
        max_loaded: int = 64,
        token_seconds: float = 0.0,
        load_seconds: float = 0.0,
        not_finite: Mapping[str, int] | None = None,
    ) -> None:
        self.max_loras = max_loras
        self.max_loaded = max_loaded
        self.token_seconds = token_seconds
        self.load_seconds = load_seconds
        self.not_finite = dict(not_finite or {})
        self.loaded: dict[int, EngineAdapter] = {}
        self.running = 0
        self.starts = 0
        self._life: _Life | None = None

    async def start(self) -> None:
        """Ready at once, with no adapters."""
        self.loaded.clear()
        self.starts += 1
        self._life = _Life()

    async def stop(self) -> None:
        """End what runs and forget everything."""
        self.die()
        self._life = None
        self.loaded.clear()

    def die(self) -> None:
        """The engine's process ends: what runs gets EngineNotReady, and so does all that comes."""
        if self._life is not None:
            self._life.end()

    def hang(self) -> None:
        """Nothing more is answered, though the process lives."""
        self._started().turning.clear()

    @property
    def alive(self) -> bool:
        """True between start and the end."""
        return self._life is not None and self._life.alive

    async def ping(self) -> None:
        """Return unless it hangs."""
        await self._started().turn()

    async def load(self, adapter: EngineAdapter) -> float:
        """Refuses what a real engine would refuse: a full house and a missing folder."""
        await self._started().turn(self.load_seconds)
        if not adapter.path.is_dir():
            raise AdapterUnavailable(f"adapter {adapter.name} has no files")
        if len(self.loaded) >= self.max_loaded:
            raise AdapterUnavailable("no place for another adapter")
        self.loaded[adapter.id] = adapter
        return self.load_seconds

    async def unload(self, adapter: EngineAdapter) -> None:
        """Forget the adapter."""
        await self._started().turn()
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

    async def score(self, request: ScoreRequest) -> list[SequenceScore]:
        """Figures that depend on the model, the token and the one before it, and on nothing else.

        The likeliest token is the one that is there, or else the next id.
        """
        life = self._started()
        if request.adapter is not None and request.adapter.id not in self.loaded:
            raise AdapterUnavailable(f"adapter {request.adapter.name} is not loaded")
        self.running += 1
        try:
            scores = []
            for sequence in request.sequences:
                await life.turn(self.token_seconds * len(sequence))
                if request.model in self.not_finite:
                    raise OutputNotFinite("the model's output is not finite")
                scores.append(_sequence_score(request.model, sequence))
                request.on_stats(_reading(request.model, len(sequence)))
            return scores
        finally:
            self.running -= 1

    @property
    def facts(self) -> dict[str, str]:
        """An engine without numbers."""
        return {"echo": "1", "dtype": "float32", "quantization": "none"}

    def metrics(self) -> bytes:
        """No metrics of its own."""
        return b""

    def _started(self) -> "_Life":
        if self._life is None or not self._life.alive:
            raise _stopped()
        return self._life

    async def _words(self, request: GenerationRequest) -> AsyncGenerator[str, None]:
        life, started = self._started(), time.monotonic()
        prompt = _prompt(request.body)
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or 4096
        words = f"{request.model}: {prompt}".split()
        finite = self.not_finite.get(request.model)
        moments = []
        ended = "abort"
        self.running += 1
        try:
            for index, word in enumerate(words[:limit]):
                await life.turn(self.token_seconds)
                if index == finite:
                    raise OutputNotFinite("the model's output is not finite")
                moments.append(time.monotonic())
                yield word if index == 0 else f" {word}"
            ended = _finish(words, limit)
        except RequestError:
            ended = "error"
            raise
        finally:
            self.running -= 1
            request.on_stats(
                GenerationStats(
                    model=request.model,
                    prompt_tokens=len(prompt.split()),
                    cached_tokens=0,
                    output_tokens=len(moments),
                    queue_seconds=0.0,
                    ttft_seconds=moments[0] - started if moments else None,
                    finish_reason=ended,
                    gaps=tuple(after - before for before, after in itertools.pairwise(moments)),
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


class _Life:
    """From a start to its end."""

    def __init__(self) -> None:
        self.alive = True
        self.turning = asyncio.Event()
        self.turning.set()

    def end(self) -> None:
        self.alive = False
        self.turning.set()  # who waits for a hung engine learns that it has ended

    async def turn(self, seconds: float = 0.0) -> None:
        """Wait as the engine would make one wait. Raises: EngineNotReady."""
        await asyncio.sleep(seconds)
        await self.turning.wait()
        if not self.alive:
            raise _stopped()


def _stopped() -> EngineNotReady:
    return EngineNotReady("the engine is not running; try again in a moment.")


def _sequence_score(model: str, sequence: tuple[int, ...]) -> SequenceScore:
    logprobs, top = [], []
    for before, token in itertools.pairwise(sequence):
        digest = hashlib.sha256(f"{model}\0{before}\0{token}".encode()).digest()
        logprobs.append(-int.from_bytes(digest[:2]) / 2**13)  # 0 to -8
        top.append(token if digest[2] % 2 else token + 1)
    return SequenceScore(tuple(logprobs), tuple(top))


def _reading(model: str, tokens: int) -> GenerationStats:
    return GenerationStats(model, tokens, 0, 1, 0.0, 0.0, "scored")


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
