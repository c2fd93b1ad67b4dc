"""One streamed answer as its reader saw it: when each piece arrived, and how many tokens came."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self


class BrokenStream(Exception):
    """The server ended the stream with an error, or without the end that the format asks for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Times are in seconds on one monotonic clock that every user of a run shares.

    `started` is when the request was to be sent, which latencies count from, `sent` when it was:
    None if never. `arrivals` has one time for each piece with text; `tokens` is the server's own
    count where it gives one (`stream_options.include_usage`), else the number of pieces, and
    `prompt_tokens` is 0 where it gives none. `error` is None for an answer that came to its end,
    and for one that its reader `left` on purpose.
    """

    model: str
    started: float
    arrivals: tuple[float, ...] = ()
    tokens: int = 0
    error: str | None = None
    sent: float | None = None
    prompt_tokens: int = 0
    tenant: str = ""
    left: bool = False

    @property
    def ttft(self) -> float | None:
        """Time to first token; None where none came."""
        return self.arrivals[0] - self.started if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies."""
        return [
            later - earlier
            for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)
        ]

    def tokens_between(self, begin: float, end: float) -> float:
        """Tokens that arrived in this time; a piece of several counts as that many."""
        if not self.arrivals:
            return 0.0
        inside = sum(begin <= arrival < end for arrival in self.arrivals)
        return inside * self.tokens / len(self.arrivals)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """What `to_json` gave."""
        fields = json.loads(line)
        return cls(**fields | {"arrivals": tuple(fields["arrivals"])})


def read_answer(
    model: str,
    started: float,
    lines: Iterable[str],
    clock: Callable[[], float],
    *,
    leave_after: int | None = None,
) -> Answer:
    """Read the server-sent events of a chat completion to their end, or so many pieces of text.

    Raises BrokenStream where they hold an error or stop before `[DONE]`.
    """
    arrivals: list[float] = []
    counted: int | None = None
    prompt_tokens = 0
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            tokens = len(arrivals) if counted is None else counted
            return Answer(model, started, tuple(arrivals), tokens, prompt_tokens=prompt_tokens)
        event = _event(data)
        if any(choice["delta"].get("content") for choice in event["choices"]):
            arrivals.append(clock())
            if len(arrivals) == leave_after:
                return Answer(model, started, tuple(arrivals), len(arrivals), left=True)
        if usage := event.get("usage"):
            counted = usage["completion_tokens"]
            prompt_tokens = usage.get("prompt_tokens") or 0
    raise BrokenStream("the stream stopped before [DONE]")


def _event(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise BrokenStream(f"an event is not JSON: {data[:80]!r}") from error
    if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
        raise BrokenStream(f"not a chat completion: {data[:200]}")
    return event
