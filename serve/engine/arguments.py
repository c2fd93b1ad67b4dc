"""vLLM's own command line, made from our settings: its defaults and its validation apply."""

import json
import logging
from argparse import Namespace

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from registry import Base
from registry.base_identity import chat_template
from registry.plain_template import PLAIN_NOTE, PLAIN_TEMPLATE
from serve.engine.toolkit import has_toolkit
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

CPU_MAX_MODEL_LEN = 8192
WORKER_EXTENSION = "serve.engine.worker.WorkerExtension"


def engine_arguments(settings: ServeSettings, base: Base) -> Namespace:
    """Everything that the engine and the serving objects are built from."""
    cpu, nf4 = current_platform.is_cpu(), settings.quantization == "nf4"
    dtype = settings.dtype
    if dtype == "auto":  # bf16 products are 10 to 100 times slower on CPUs without AVX-512
        dtype = "float32" if cpu and not nf4 else "bfloat16"
    options = [
        *("--model", str(base.path)),
        *("--served-model-name", base.id),
        *("--dtype", dtype),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        "--enable-lora",
        *("--max-loras", str(settings.max_loras)),
        *("--max-cpu-loras", str(settings.max_loaded)),
        *("--max-lora-rank", str(settings.max_lora_rank)),
        *("--worker-extension-cls", WORKER_EXTENSION),
        "--enable-auto-tool-choice",
        *("--tool-call-parser", settings.tool_call_parser),
        # A call's arguments always fit the tool's schema, however small the model.
        *("--tool-strict-level", "parameter"),
        "--enable-prompt-tokens-details",
        # Else the first schema that is asked for chooses for everybody; ours are priced for this.
        *("--structured-outputs-config", json.dumps({"backend": "xgrammar"})),
    ]
    if settings.workers > 1:
        options += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
        options += ["--pipeline-parallel-size", str(settings.pipeline_parallel_size)]
    if settings.distributed_executor_backend != "auto":
        options += ["--distributed-executor-backend", settings.distributed_executor_backend]
    if settings.fully_sharded_loras:
        options.append("--fully-sharded-loras")
    if not chat_template(base.path):
        logger.warning("%s %s", base.id, PLAIN_NOTE)
        options += ["--chat-template", PLAIN_TEMPLATE]
    if not settings.verbose or settings.log_format == "json":
        options.append("--no-use-tqdm-on-load")
    if settings.max_model_len:
        options += ["--max-model-len", str(settings.max_model_len)]
    if nf4:
        options += ["--quantization", "bitsandbytes"]
    if cpu:
        options += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 1024**3))]
        if not settings.max_model_len:
            longest = base.config.get("max_position_embeddings") or CPU_MAX_MODEL_LEN
            options += ["--max-model-len", str(min(longest, CPU_MAX_MODEL_LEN))]
    else:
        options += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
        if not has_toolkit() and _takes_flashinfer_first(base):
            options += ["--attention-backend", "TRITON_ATTN"]
    args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(options)
    validate_parsed_serve_args(args)
    return args


def _takes_flashinfer_first(base: Base) -> bool:
    """Whether vLLM would have FlashInfer attend: on Blackwell's data centre GPUs (10.x).

    Multi-head latent attention has other kernels, which Triton's do not stand in for.
    """
    config = base.config.get("text_config") or base.config
    return current_platform.is_device_capability_family(100) and "kv_lora_rank" not in config
