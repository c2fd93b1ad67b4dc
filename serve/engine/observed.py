"""AsyncLLM, observed: the figures of each generation, and no token drawn from broken numbers.

The worker counts the rows of logits that are not finite (`serve.engine.worker`). Where one is
reported, the request ends before its token goes anywhere, in a stream as in a whole answer.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.output_processor import OutputProcessor

from serve.engine.protocol import GenerationRequest, GenerationStats, ScoreRequest
from serve.errors import EngineNotReady, OutputNotFinite, RequestError


@dataclass
class Call:
    """One request on its way through vLLM's serving objects, which turn exceptions into text."""

    request: GenerationRequest | ScoreRequest
    error: RequestError | None = None
    """What really ended it."""


_current: ContextVar[Call] = ContextVar("lorikeet_call")


@contextmanager
def called_for(request: GenerationRequest | ScoreRequest) -> Iterator[Call]:
    """What is handed to the engine inside is for `request`, wherever it is iterated."""
    call = Call(request)
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def stopped() -> EngineNotReady:
    """The answer while there is no engine."""
    return EngineNotReady("the engine is not running; try again in a moment.")


class ObservedLLM(AsyncLLM):  # type: ignore[misc]
    """AsyncLLM that reports each finished generation and refuses what is not finite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _refuse_not_finite(self.output_processor)

    def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM's. Not a coroutine: whose request it is, is known only while it's called."""
        return _observed(_current.get(), super().generate(*args, **kwargs))


async def _observed(
    call: Call, results: AsyncGenerator[RequestOutput, None]
) -> AsyncGenerator[RequestOutput, None]:
    tokens, result = 0, None
    try:
        async for result in results:
            for choice in result.outputs:
                tokens += len(choice.token_ids)
            if result.finished:
                _report(call.request, result, tokens)
            yield result
    except EngineDeadError:
        call.error = stopped()
        raise
    except EngineGenerateError as error:
        if isinstance(error.__cause__, _NotFinite):
            call.error = OutputNotFinite(
                f"The output of `{call.request.model}` is not finite; nothing of it is delivered."
            )
        raise
    finally:
        await results.aclose()  # the request is aborted now, not when somebody collects garbage
        if result is not None and not result.finished:
            _report(call.request, result, tokens)


def _report(request: GenerationRequest | ScoreRequest, result: RequestOutput, tokens: int) -> None:
    """The last output of a generation, a broken off one too, carries its times."""
    times = result.metrics
    if times is None:
        return
    request.on_stats(
        GenerationStats(
            model=request.model,
            prompt_tokens=len(result.prompt_token_ids or ()),
            cached_tokens=result.num_cached_tokens or 0,
            output_tokens=tokens,
            queue_seconds=max(0.0, times.scheduled_ts - times.queued_ts),
            ttft_seconds=times.first_token_latency,
            seconds=times.first_token_latency
            + max(0.0, times.last_token_ts - times.first_token_ts),
            finish_reason=result.outputs[0].finish_reason or "abort",
        )
    )


class _NotFinite(Exception):
    """A row of logits was not finite; AsyncLLM aborts the request and wraps this."""


def _refuse_not_finite(processor: OutputProcessor) -> None:
    """Put the error into a request's queue before the token that it is about.

    The queue keeps an error and drops what comes after it.
    """
    process = processor.process_outputs

    def checked(outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            if output.num_nans_in_logits:
                state = processor.request_states.get(output.request_id)
                if state is not None and state.queue is not None:
                    state.queue.put(_NotFinite())
        return process(outputs, *args, **kwargs)

    processor.process_outputs = checked
