"""Counts what vLLM's engine gives for a prompt as vLLM itself does, so that the totals agree.

At the same place, too: with each output of the engine, whether anybody still waits for it or not.
Times are by the monotonic clock, which the processes of a machine share.
"""

from dataclasses import dataclass, field
from typing import Any

from vllm.v1.engine.output_processor import RequestState

from serve.engine.protocol import GenerationRequest, GenerationStats, ScoreRequest


@dataclass
class _Choice:
    """One of the answers to a prompt."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    queue_seconds: float = 0.0
    first_at: float | None = None
    last_at: float = 0.0
    gaps: list[float] = field(default_factory=list)
    finish_reason: str | None = None


class Tally:
    """Of one prompt of a request, which came to the engine at `began` (seconds)."""

    def __init__(self, request: GenerationRequest | ScoreRequest, began: float) -> None:
        self._request = request
        self._began = began
        self._choices: dict[int, _Choice] = {}

    def saw(self, state: RequestState, output: Any, at: float) -> None:
        """The engine has given something, which vLLM has not processed yet."""
        choice = self._choices.setdefault(state.request_index, _Choice())
        choice.output_tokens += len(output.new_token_ids)
        if not state.is_prefilling:
            choice.gaps.append(max(0.0, at - choice.last_at))
        elif choice.first_at is None:
            choice.first_at = at
            if (read := output.prefill_stats) is not None:
                choice.prompt_tokens = read.num_prompt_tokens
                choice.cached_tokens = read.num_cached_tokens
        choice.last_at = at

    def processed(self, state: RequestState, output: Any, *, ended: bool) -> None:
        """VLLM has; a text at which it was to stop is seen only now."""
        choice = self._choices[state.request_index]
        if state.stats is not None:
            waited = state.stats.scheduled_ts - state.stats.queued_ts
            choice.queue_seconds = max(0.0, waited)
        if ended:
            reason = output.finish_reason
            choice.finish_reason = "stop" if reason is None else str(reason)

    def report(self, unfinished: str) -> None:
        """Tell each choice's figures; `unfinished` is the reason of those that did not end."""
        scored = isinstance(self._request, ScoreRequest)
        for index, choice in sorted(self._choices.items()):
            reason = choice.finish_reason or unfinished
            ttft = None
            if choice.first_at is not None:
                ttft = max(0.0, choice.first_at - self._began)
            self._request.on_stats(
                GenerationStats(
                    model=self._request.model,
                    prompt_tokens=choice.prompt_tokens,
                    cached_tokens=choice.cached_tokens,
                    output_tokens=choice.output_tokens,
                    queue_seconds=choice.queue_seconds,
                    ttft_seconds=ttft,
                    finish_reason="scored" if scored and choice.finish_reason else reason,
                    gaps=tuple(choice.gaps),
                    choice=index,
                )
            )
