"""vLLM in-process: the one seam between Lorikeet and vllm 0.32, and the only importer of it.

The engine runs in a process of its own (EngineCore); this side renders prompts, reads the answers
and shapes them with vLLM's own OpenAI serving objects. `serve.engine.environment` is applied before
this module is imported.
"""

import asyncio
import json
import logging
from argparse import Namespace
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.prometheus import get_prometheus_registry

from registry import Base
from serve.engine.protocol import (
    Answer,
    EngineAdapter,
    GenerationRequest,
    GenerationStats,
    StatsObserver,
)
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

CPU_MAX_MODEL_LEN = 8192
LORA_TOLERANCE = 1e-4
LORA_PROBE = "serve.engine.cpu_lora.LoraProbe"
UNBOUNDED_METRIC = "vllm:lora_requests_info"


class VLLMEngine:
    """The real engine. One instance is started once."""

    def __init__(self, settings: ServeSettings, base: Base) -> None:
        self.max_loras = settings.max_loras
        self.max_loaded = settings.max_loaded
        self._settings = settings
        self._base = base
        self._llm: ObservedLLM | None = None
        self._state = State()

    async def start(self, observe: StatsObserver) -> None:
        """Build the engine in a thread (its start polls), then vLLM's serving objects."""
        args = self._arguments()
        try:
            self._llm = await asyncio.to_thread(self._build, args, observe)
            tasks = await self._llm.get_supported_tasks()
            await init_app_state(self._llm, self._state, args, tasks)
            await self._verify_lora_product()
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
        """Stop EngineCore and forget it."""
        llm, self._llm = self._llm, None
        if llm is not None:
            if llm.output_handler is not None:  # else it reports the end as a failure
                llm.output_handler.cancel()
            await asyncio.to_thread(llm.shutdown)

    @property
    def alive(self) -> bool:
        """Whether EngineCore runs; its death is noticed within a second."""
        return self._llm is not None and not self._llm.errored

    async def load(self, adapter: EngineAdapter) -> None:
        """`add_lora`; afterwards requests that name the adapter find it."""
        llm = self._running()
        request = LoRARequest(adapter.name, adapter.id, str(adapter.path))
        try:
            await llm.add_lora(request)
        except EngineDeadError as error:
            raise EngineNotReady("the engine has stopped") from error
        except Exception as error:
            raise AdapterUnavailable(
                f"the engine could not load adapter {self._public_name(request)}"
            ) from error
        self._state.openai_serving_models.lora_requests[adapter.name] = request

    async def unload(self, adapter: EngineAdapter) -> None:
        """`remove_lora`, confirmed by `list_loras`."""
        llm = self._running()
        self._state.openai_serving_models.lora_requests.pop(adapter.name, None)
        try:
            await llm.remove_lora(adapter.id)
            remaining = await llm.list_loras()
        except EngineDeadError as error:
            raise EngineNotReady("the engine has stopped") from error
        if adapter.id in remaining:
            raise AdapterUnavailable(f"the engine still holds adapter {adapter.name}")

    async def generate(self, request: GenerationRequest) -> Answer:
        """Hand the request to vLLM's serving object for its endpoint."""
        self._running()
        body = {
            **request.body,
            "model": request.adapter.name if request.adapter else self._base.id,
            "request_id": request.request_id,
            "cache_salt": request.tenant,
        }
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
            raise _translated(error) from error
        if isinstance(answer, ErrorResponse):
            raise _from_response(answer)
        if isinstance(answer, AsyncGenerator):
            return _events(answer)
        dumped: dict[str, Any] = answer.model_dump(exclude_none=False)
        return dumped

    def metrics(self) -> bytes:
        """vLLM's `vllm:*` families as it declares them."""
        skipped = () if self._settings.lora_requests_info else (UNBOUNDED_METRIC,)
        return generate_latest(_Filtered(get_prometheus_registry(), skipped))

    def _running(self) -> "ObservedLLM":
        if self._llm is None or self._llm.errored:
            raise EngineNotReady("the engine is not running; try again in a moment.")
        return self._llm

    def _public_name(self, lora: LoRARequest | None = None) -> str:
        return self._base.id if lora is None else lora.lora_name.partition("+")[0]

    def _build(self, args: Namespace, observe: StatsObserver) -> "ObservedLLM":
        config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
            UsageContext.OPENAI_API_SERVER
        )
        llm = ObservedLLM.from_vllm_config(
            config, usage_context=UsageContext.OPENAI_API_SERVER, enable_log_requests=False
        )
        assert isinstance(llm, ObservedLLM)
        llm.observe = observe
        llm.public_name = self._public_name
        return llm

    def _arguments(self) -> Namespace:
        """vLLM's own command line, so that its defaults and its validation apply."""
        settings, cpu = self._settings, current_platform.is_cpu()
        nf4 = settings.quantization == "nf4"
        dtype = settings.dtype
        if dtype == "auto":  # bf16 products are 10 to 100 times slower on CPUs without AVX-512
            dtype = "float32" if cpu and not nf4 else "bfloat16"
        options = [
            *("--model", str(self._base.path)),
            *("--served-model-name", self._base.id),
            *("--dtype", dtype),
            *("--max-num-seqs", str(settings.max_num_seqs)),
            "--enable-lora",
            *("--max-loras", str(settings.max_loras)),
            *("--max-cpu-loras", str(settings.max_loaded)),
            *("--max-lora-rank", str(settings.max_lora_rank)),
            "--enable-auto-tool-choice",
            *("--tool-call-parser", settings.tool_call_parser),
            # A call's arguments always fit the tool's schema, however small the model.
            *("--tool-strict-level", "parameter"),
            "--enable-prompt-tokens-details",
        ]
        if not settings.verbose:
            options.append("--no-use-tqdm-on-load")
        if settings.max_model_len:
            options += ["--max-model-len", str(settings.max_model_len)]
        if nf4:
            options += ["--quantization", "bitsandbytes"]
        if cpu:
            options += ["--worker-extension-cls", LORA_PROBE]
            options += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 1024**3))]
            if not settings.max_model_len:
                longest = self._base_positions() or CPU_MAX_MODEL_LEN
                options += ["--max-model-len", str(min(longest, CPU_MAX_MODEL_LEN))]
        else:
            options += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
        args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(options)
        validate_parsed_serve_args(args)
        return args

    def _base_positions(self) -> int | None:
        config = json.loads((self._base.path / "config.json").read_text())
        positions: int | None = config.get("max_position_embeddings")
        return positions

    async def _verify_lora_product(self) -> None:
        """Ask the worker that our CPU product is in place: stock vLLM leaks between adapters.

        Raises: EngineFailed.
        """
        if not current_platform.is_cpu():
            return
        for report in await self._running().collective_rpc("probe_cpu_lora"):
            exact = report["base_rows_untouched"] and report["max_error"] < LORA_TOLERANCE
            if not (report["active"] and exact):
                raise EngineFailed(
                    f"the engine's LoRA product is not Lorikeet's, or not exact: {report}",
                    remedy="install lorikeet into the environment of vllm (make install), "
                    "which registers its vLLM plug-in",
                )


class ObservedLLM(AsyncLLM):  # type: ignore[misc]
    """AsyncLLM that reports each finished generation; it changes nothing else."""

    observe: StatsObserver
    public_name: Any

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM's; the last output of a request carries its times."""
        cached = prompt = output = 0
        async for result in super().generate(*args, **kwargs):
            prompt = len(result.prompt_token_ids or ())
            cached = max(cached, result.num_cached_tokens or 0)
            delta = sum(len(choice.token_ids) for choice in result.outputs)
            output += delta
            if result.finished and (times := result.metrics) is not None:
                self.observe(
                    GenerationStats(
                        model=self.public_name(result.lora_request),
                        prompt_tokens=prompt,
                        cached_tokens=cached,
                        output_tokens=output,
                        queue_seconds=max(0.0, times.scheduled_ts - times.queued_ts),
                        ttft_seconds=times.first_token_latency,
                        seconds=times.first_token_latency
                        + max(0.0, times.last_token_ts - times.first_token_ts),
                        finish_reason=result.outputs[0].finish_reason or "unknown",
                    )
                )
            yield result


class _Filtered:
    """A view of a Prometheus registry without some families."""

    def __init__(self, registry: CollectorRegistry, skipped: tuple[str, ...]) -> None:
        self._registry, self._skipped = registry, skipped

    def collect(self) -> Any:
        return (f for f in self._registry.collect() if f.name not in self._skipped)


async def _events(stream: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """vLLM's server-sent events; an error of the engine is raised, not sent as an event."""
    try:
        async for event in stream:
            if event.startswith('data: {"error"'):
                raise _from_response(ErrorResponse.model_validate_json(event[len("data: ") :]))
            yield event
    except RequestError:
        raise
    except Exception as error:
        raise _translated(error) from error
    finally:
        await stream.aclose()


def _translated(error: Exception) -> RequestError:
    """Any exception that vLLM raises for a request, as one of ours."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineNotReady("the engine has stopped; try again in a moment.")
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
    if "EngineCore" in error.message or "EngineDead" in error.message:
        return EngineNotReady("the engine has stopped; try again in a moment.")
    logger.error("engine error: %s", error.message, exc_info=cause)
    return Internal("the server had an error while it answered this request.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
