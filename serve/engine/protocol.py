"""What the server asks of an engine, whichever it is.

Two implementations: `serve.engine.vllm.VLLMEngine`, and `serve.engine.echo.EchoEngine` for tests.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Endpoint = Literal["chat", "completions"]
Answer = dict[str, Any] | AsyncGenerator[str, None]
"""A whole response body, or its server-sent events, each ending in a blank line."""


@dataclass(frozen=True)
class EngineAdapter:
    """An adapter as the engine knows it: a name, an id and a folder that are never reused."""

    name: str
    """`name@version+digest`; what the engine's prefix cache is keyed by."""
    id: int
    """Positive, unique for the life of the engine."""
    path: Path
    """Absolute local folder; it outlives every request on the adapter."""


@dataclass(frozen=True)
class GenerationStats:
    """What one generation took, also one that was broken off; times in seconds, monotonic."""

    model: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_seconds: float
    ttft_seconds: float | None
    """From the hand-over to the engine to the first token; None where there was none."""
    finish_reason: str
    """OpenAI's; `abort` of what nobody waited for, `error`, or `scored` of a sequence."""
    gaps: tuple[float, ...] = ()
    """Inter-token latencies, one for each token but the first."""
    choice: int = 0
    """Its place among the answers to one prompt; whoever pays for a prompt does so with the 0th."""


StatsObserver = Callable[[GenerationStats], None]


def _ignore(_: GenerationStats) -> None:
    pass


@dataclass(frozen=True)
class GenerationRequest:
    """One checked request, ready for the engine."""

    endpoint: Endpoint
    body: dict[str, Any]
    """OpenAI's request fields, already on the allow-list and within bounds."""
    model: str
    """The public name that the response carries: the base's id or `name@version`."""
    adapter: EngineAdapter | None
    """None for the base model."""
    request_id: str
    cache_salt: str = "default"
    """Prefix-cache blocks are shared only among requests with the same salt: one a tenant."""
    on_stats: StatsObserver = _ignore
    """Called for each generation at its end; several prompts or answers are several."""


@dataclass(frozen=True)
class ScoreRequest:
    """Token sequences whose log-probabilities are asked for; the ids are below the vocabulary."""

    sequences: tuple[tuple[int, ...], ...]
    """Each of two tokens at least, and short enough for the engine."""
    model: str
    """The base's id or `name@version`."""
    adapter: EngineAdapter | None
    """None for the base model."""
    request_id: str
    cache_salt: str = "default"
    on_stats: StatsObserver = _ignore
    """Called for each sequence that is scored."""


@dataclass(frozen=True)
class SequenceScore:
    """How likely a sequence is: element i is about its token i + 1, given those before it."""

    logprobs: tuple[float, ...]
    """Natural logarithms, finite, of the model's own distribution (temperature 1, no penalties)."""
    top: tuple[int, ...]
    """The most likely token's id in each place."""


class Engine(Protocol):
    """One base model that generates text, with adapters loaded and unloaded while it runs."""

    max_loras: int
    """Adapters that one batch can hold (slots)."""
    max_loaded: int
    """Adapters that can be loaded at once."""

    async def start(self) -> None:
        """Load the model and return when requests can be served; after `stop`, start afresh.

        A fresh engine holds no adapters. Raises: EngineFailed.
        """

    async def stop(self) -> None:
        """Stop every process of the engine, also a dead or hung one's; idempotent.

        What is still generated, loaded or unloaded ends with EngineNotReady.
        """

    @property
    def alive(self) -> bool:
        """False before start, after stop and once the engine has died."""
        ...

    async def ping(self) -> None:
        """Return when the engine's loop has turned once; a hung engine never answers.

        Raises: EngineNotReady.
        """

    async def load(self, adapter: EngineAdapter) -> float:
        """Make the adapter ready to serve; the seconds until its weights were in memory.

        Raises: AdapterUnavailable, EngineNotReady.
        """
        ...

    async def unload(self, adapter: EngineAdapter) -> None:
        """Free the adapter's memory; no request on it may be running.

        Raises: AdapterUnavailable when the engine still lists it, EngineNotReady.
        """

    async def generate(self, request: GenerationRequest) -> Answer:
        """Answer one request; closing the iterator cancels it.

        Raises: RequestError, also while the answer is iterated; OutputNotFinite before a token
        that was drawn from log-probabilities that are not finite is delivered.
        """
        ...

    async def score(self, request: ScoreRequest) -> list[SequenceScore]:
        """Read the sequences, one after another; cancelling it cancels the rest.

        One at a time, because the logits of all its places are in memory together.
        Raises: RequestError; OutputNotFinite where a log-probability is not finite.
        """
        ...

    @property
    def facts(self) -> dict[str, str]:
        """What decides its numbers: the engine's version, `dtype` and `quantization` of the base.

        Raises: EngineNotReady.
        """
        ...

    def metrics(self) -> bytes:
        """The engine's own metrics in Prometheus' text format."""
        ...
