"""What a request took, told once at its end: to the metrics, the access log and the trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve.disconnect import CLIENT_GONE
from serve.engine import GenerationStats

Asked = Literal["chat", "completions", "score"]


@dataclass(frozen=True)
class FinishedRequest:
    """A request to a model, however it ended. Times in seconds, by a monotonic clock."""

    endpoint: Asked
    model: str
    """The base's id or `name@version`; never what the client has sent."""
    tenant: str
    status: int
    """Of a stream that broke off, the one that it would have had; 499: the client went away."""
    stream: bool
    seconds: float
    """From its arrival to the end of its answer."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finish_reasons: tuple[str, ...] = ()
    ttft_seconds: float | None = None
    """From its arrival to the first token; None where there was none."""
    admission_seconds: float | None = None
    """The wait for its turn; None where it never asked for one."""
    scheduler_seconds: float = 0.0
    """The wait in the engine's own queue."""
    load: Literal["warm", "cold"] | None = None
    """Whether its adapter was there already; None for the base and where it did not get so far."""
    load_seconds: float = 0.0
    load_stages: Mapping[str, float] = field(default_factory=dict)
    """Of the load that it waited for, by stage."""
    engine_seconds: float | None = None
    """From the hand-over to the engine to the end; None where it did not get so far."""
    generations: tuple[GenerationStats, ...] = ()
    """One for each answer to each of its prompts, as the engine counts; of a score's sequences."""

    @property
    def queue_seconds(self) -> float:
        """All the waiting for others."""
        return (self.admission_seconds or 0.0) + self.scheduler_seconds

    @property
    def first_token_wait_seconds(self) -> float | None:
        """As `ttft_seconds`; of who went away before it came, how long they waited, at least."""
        waited = self.endpoint != "score" and self.admission_seconds is not None
        if self.ttft_seconds is None and self.status == CLIENT_GONE and waited:
            return self.seconds
        return self.ttft_seconds
