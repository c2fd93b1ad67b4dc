"""AsyncLLM, observed: the figures of each generation, and no token drawn from broken numbers.

The worker counts the rows of logits that are not finite (`serve.engine.worker`). Where one is
reported, the request ends before its token goes anywhere, in a stream as in a whole answer.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.output_processor import OutputProcessor

from serve.engine.protocol import GenerationRequest, ScoreRequest
from serve.engine.tally import Tally
from serve.errors import EngineNotReady, OutputNotFinite, RequestError

CLOSE_SECONDS = 1.0


@dataclass
class Call:
    """One request on its way through vLLM's serving objects, which turn exceptions into text."""

    request: GenerationRequest | ScoreRequest
    error: RequestError | None = None
    """What really ended it."""
    began: float = field(default_factory=time.monotonic)
    results: list[AsyncGenerator[RequestOutput, None]] = field(default_factory=list)
    """Of its prompts."""
    ends: list[asyncio.Event] = field(default_factory=list)
    """Of those that were begun."""

    async def close(self) -> None:
        """End what vLLM has left open: it would end some time later, with the garbage."""
        for each in self.results:
            with suppress(RuntimeError):  # a task of vLLM's is just being cancelled in it
                await each.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                for end in self.ends:
                    await end.wait()


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
    """AsyncLLM that reports each generation at its end and refuses what is not finite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tallies: dict[str, Tally] = {}
        _observe(self.output_processor, self._tallies)

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM's. Not a coroutine: whose request it is, is known only while it's called."""
        call = _current.get()
        results = super().generate(prompt, sampling_params, request_id, **options)
        call.results.append(self._observed(call, request_id, results))
        return call.results[-1]

    async def _observed(
        self, call: Call, request_id: str, results: AsyncGenerator[RequestOutput, None]
    ) -> AsyncGenerator[RequestOutput, None]:
        tally = self._tallies[request_id] = Tally(call.request, call.began)
        call.ends.append(end := asyncio.Event())
        failed = False
        try:
            async for result in results:
                yield result
        except EngineDeadError:
            call.error, failed = stopped(), True
            raise
        except EngineGenerateError as error:
            failed = True
            if isinstance(error.__cause__, _NotFinite):
                call.error = OutputNotFinite(
                    f"The output of `{call.request.model}` is not finite; "
                    "nothing of it is delivered."
                )
            raise
        finally:
            try:
                await results.aclose()  # it is aborted now, not when somebody collects garbage
            finally:
                del self._tallies[request_id]
                tally.report("error" if failed else "abort")
                end.set()


class _NotFinite(Exception):
    """A row of logits was not finite; AsyncLLM aborts the request and wraps this."""


def _observe(processor: OutputProcessor, tallies: Mapping[str, Tally]) -> None:
    """See what the engine gives before vLLM does with it what it does.

    Where numbers are not finite, the error is put into the request's queue before the token that
    it is about: the queue keeps an error and drops what comes after it.
    """
    process = processor.process_outputs

    def observed(outputs: list[Any], at: float, *args: Any, **kwargs: Any) -> Any:
        seen = []
        for output in outputs:
            state = processor.request_states.get(output.request_id)
            if state is None:  # it was aborted
                continue
            if output.num_nans_in_logits and state.queue is not None:
                state.queue.put(_NotFinite())
            if (tally := tallies.get(state.external_req_id)) is not None:
                tally.saw(state, output, at)
                seen.append((tally, state, output))
        done = process(outputs, at, *args, **kwargs)
        for tally, state, output in seen:
            ended = state.request_id not in processor.request_states
            tally.processed(state, output, ended=ended)
        return done

    processor.process_outputs = observed
