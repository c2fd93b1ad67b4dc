"""vLLM in-process: the seam between Lorikeet and vllm 0.32.

The engine runs in a process of its own (EngineCore); this side renders prompts, reads the answers
and shapes them with vLLM's own OpenAI serving objects. `serve.engine.environment` is applied before
this module is imported.
"""

import asyncio
import logging
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable
from http import HTTPStatus
from typing import Any, TypeVar

import vllm
import vllm.v1.engine.utils as engine_utils
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.network_utils import close_sockets
from vllm.v1.engine.core_client import BackgroundResources
from vllm.v1.engine.exceptions import EngineDeadError

from registry import Base
from serve.engine.arguments import engine_arguments
from serve.engine.exposition import vllm_metrics
from serve.engine.observed import Call, ObservedLLM, called_for, stopped
from serve.engine.process import EngineContext
from serve.engine.protocol import (
    Answer,
    EngineAdapter,
    GenerationRequest,
    ScoreRequest,
    SequenceScore,
)
from serve.engine.scoring import score_sequence
from serve.errors import (
    AdapterUnavailable,
    BadRequest,
    EngineFailed,
    EngineNotReady,
    Internal,
    ModelNotFound,
    Overloaded,
    RequestError,
)
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_SECONDS = 5.0
"""How long EngineCore may take to end before it is killed."""
LOOK_SECONDS = 0.004
"""How often the engine is asked whether an adapter is prepared."""
LORA_TOLERANCE = 1e-4
ERROR_EVENT = 'data: {"error"'


class VLLMEngine:
    """The real engine."""

    def __init__(self, settings: ServeSettings, base: Base) -> None:
        self.max_loras = settings.max_loras
        self.max_loaded = settings.max_loaded
        self._settings = settings
        self._base = base
        self._llm: ObservedLLM | None = None
        self._state = State()

    async def start(self) -> None:
        """Build the engine in a thread (its start polls), then vLLM's serving objects."""
        args = engine_arguments(self._settings, self._base)
        self._state = State()
        try:
            self._llm = await asyncio.to_thread(_build, args)
            self._llm._run_output_handler()  # from now on its end tells that the engine is dead
            tasks = await self._call(self._llm.get_supported_tasks())
            await init_app_state(self._llm, self._state, args, tasks)
            await self._prepare_workers()
        except EngineFailed:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            raise EngineFailed(
                f"the engine did not start: {_first_line(error)}",
                remedy="run again with --verbose to see the engine's own log",
            ) from error
        # What the client reads is the version; the digest is the engine's own affair.
        self._state.openai_serving_models.model_name = self._public_name

    async def stop(self) -> None:
        """Stop EngineCore, which is killed where it does not end in time, and forget it."""
        llm, self._llm = self._llm, None
        self._state = State()
        if llm is None:
            return
        llm.output_processor.propagate_error(EngineDeadError())
        if llm.output_handler is not None:  # else it reports the end as a failure
            llm.output_handler.cancel()
        await asyncio.to_thread(_shut_down, llm)
        _close(llm.engine_core.resources)

    @property
    def alive(self) -> bool:
        """Whether EngineCore runs; its death is noticed within a second."""
        return self._llm is not None and not self._llm.errored

    async def ping(self) -> None:
        """Ask EngineCore for its list of adapters, which it answers between two steps."""
        await self._call(self._running().list_loras())

    async def load(self, adapter: EngineAdapter) -> float:
        """Have the adapter prepared beside the engine's loop, then registered between two steps."""
        llm, started = self._running(), time.monotonic()
        try:
            await self._workers("prepare_lora", adapter.name, adapter.id, str(adapter.path))
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if all(await self._workers("lora_prepared", adapter.id)):
                    break
            prepared = time.monotonic() - started
            await self._workers("register_lora", adapter.id)
        except EngineNotReady:
            raise
        except Exception as error:
            await self._workers("forget_lora", adapter.id)
            raise AdapterUnavailable(
                f"the engine could not load adapter {_public(adapter.name)}"
            ) from error
        except asyncio.CancelledError:
            self._forgetting = asyncio.ensure_future(
                llm.collective_rpc("forget_lora", args=(adapter.id,))
            )
            raise
        request = LoRARequest(adapter.name, adapter.id, str(adapter.path))
        self._state.openai_serving_models.lora_requests[adapter.name] = request
        return prepared

    async def unload(self, adapter: EngineAdapter) -> None:
        """Drop the name, then the weights."""
        self._running()
        self._state.openai_serving_models.lora_requests.pop(adapter.name, None)
        if not all(await self._workers("forget_lora", adapter.id)):
            raise AdapterUnavailable(f"the engine still holds adapter {_public(adapter.name)}")

    async def generate(self, request: GenerationRequest) -> Answer:
        """Hand the request to vLLM's serving object for its endpoint."""
        self._running()
        body = {
            **request.body,
            "model": request.adapter.name if request.adapter else self._base.id,
            "request_id": request.request_id,
            "cache_salt": request.cache_salt,
        }
        with called_for(request) as call:
            try:
                if request.endpoint == "chat":
                    answer = await self._state.openai_serving_chat.create_chat_completion(
                        ChatCompletionRequest(**body)
                    )
                else:
                    answer = await self._state.openai_serving_completion.create_completion(
                        CompletionRequest(**body)
                    )
            except Exception as error:
                raise call.error or _translated(error) from error
            except asyncio.CancelledError:
                await call.close()
                raise
        if isinstance(answer, AsyncGenerator):
            return _events(call, answer)
        if call.error is not None:
            raise call.error
        if isinstance(answer, ErrorResponse):
            raise _from_response(answer)
        dumped: dict[str, Any] = answer.model_dump(exclude_none=False)
        return dumped

    async def score(self, request: ScoreRequest) -> list[SequenceScore]:
        """Have vLLM read the sequences as prompts, one after another."""
        scores = []
        for index, sequence in enumerate(request.sequences):
            with called_for(request) as call:
                try:
                    llm, name = self._running(), f"{request.request_id}-{index}"
                    scores.append(await score_sequence(llm, request, name, sequence))
                except Exception as error:
                    raise call.error or _translated(error) from error
        return scores

    @property
    def facts(self) -> dict[str, str]:
        """vLLM's version, and how the base's weights are held."""
        dtype = str(self._running().model_config.dtype).removeprefix("torch.")
        quantization = self._settings.quantization
        return {"vllm": vllm.__version__, "dtype": dtype, "quantization": quantization}

    def metrics(self) -> bytes:
        """vLLM's `vllm:*` families."""
        return vllm_metrics()

    def _running(self) -> ObservedLLM:
        if self._llm is None or self._llm.errored:
            raise stopped()
        return self._llm

    async def _call(self, work: Awaitable[T]) -> T:
        """The result of a call to EngineCore; vLLM leaves the caller waiting when that dies.

        Raises: EngineNotReady.
        """
        assert self._llm is not None
        handler = self._llm.output_handler
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, handler}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise stopped()
            return task.result()
        except EngineDeadError as error:
            raise stopped() from error
        finally:
            task.cancel()

    async def _workers(self, method: str, *args: Any) -> list[Any]:
        """What each worker's extension answers."""
        return await self._call(self._running().collective_rpc(method, args=args))

    def _public_name(self, lora: LoRARequest | None = None) -> str:
        return self._base.id if lora is None else _public(lora.lora_name)

    async def _prepare_workers(self) -> None:
        """Start our part of each worker; on a CPU make sure that its LoRA product is ours.

        Stock vLLM leaks between adapters there. Raises: EngineFailed.
        """
        await self._workers("start_lorikeet")
        if not current_platform.is_cpu():
            return
        for report in await self._workers("probe_cpu_lora"):
            exact = report["base_rows_untouched"] and report["max_error"] < LORA_TOLERANCE
            if not (report["active"] and exact):
                raise EngineFailed(
                    f"the engine's LoRA product is not Lorikeet's, or not exact: {report}",
                    remedy="install lorikeet into the environment of vllm (make install), "
                    "which registers its vLLM plug-in",
                )


def _build(args: Namespace) -> ObservedLLM:
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
        UsageContext.OPENAI_API_SERVER
    )
    engine_utils.get_mp_context = EngineContext
    llm = ObservedLLM.from_vllm_config(
        config, usage_context=UsageContext.OPENAI_API_SERVER, enable_log_requests=False
    )
    assert isinstance(llm, ObservedLLM)
    return llm


async def _events(call: Call, stream: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """vLLM's server-sent events; an error of the engine is raised, not sent as an event."""
    try:
        async for event in stream:
            if event.startswith(ERROR_EVENT):
                raise call.error or _from_response(
                    ErrorResponse.model_validate_json(event[len("data: ") :])
                )
            yield event
    except RequestError:
        raise
    except Exception as error:
        raise call.error or _translated(error) from error
    finally:
        await stream.aclose()
        await call.close()


def _translated(error: Exception) -> RequestError:
    """Any exception that vLLM raises for a request, as one of ours."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EngineDeadError):
        return stopped()
    return _from_response(create_error_response(error), error)


def _from_response(response: ErrorResponse, cause: Exception | None = None) -> RequestError:
    error = response.error
    if error.code == HTTPStatus.NOT_FOUND:
        return ModelNotFound(error.message, param="model", code="model_not_found")
    if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
        return Overloaded(error.message)
    if error.param == "input_tokens":
        message = error.message.partition(" (parameter=")[0]
        return BadRequest(message, param="messages", code="context_length_exceeded")
    if 400 <= error.code < 500:
        return BadRequest(error.message, param=error.param)
    logger.error("engine error: %s", error.message, exc_info=cause)
    return Internal("the server had an error while it answered this request.")


def _shut_down(llm: ObservedLLM) -> None:
    """End EngineCore: asked first, killed after STOP_SECONDS; and see that it is gone."""
    manager = llm.engine_core.resources.engine_manager
    llm.shutdown(STOP_SECONDS)
    for process in manager.processes:
        process.kill()
        process.join(STOP_SECONDS)


def _close(resources: BackgroundResources) -> None:
    """Free the sockets and threads of an engine that has ended, which vLLM leaves to chance."""
    close_sockets(
        (
            resources.output_socket,
            resources.input_socket,
            resources.first_req_send_socket,
            resources.first_req_rcv_socket,
            resources.stats_update_socket,
        )
    )
    resources.ctx.term()


def _public(name: str) -> str:
    return name.partition("+")[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
