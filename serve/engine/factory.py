"""Settings to engine; the heavy imports happen here, and only for the engine that is wanted."""

import os

from registry import Base, RegistrySettings
from serve.engine.protocol import Engine
from serve.settings import ServeSettings


def create_engine(settings: ServeSettings, base: Base, registry: RegistrySettings) -> Engine:
    """An engine that is not started yet.

    Raises: UsageError where the base cannot be spread over the GPUs as the settings say.
    """
    if settings.engine == "echo":
        from serve.engine.echo import EchoEngine

        return EchoEngine(
            max_loras=settings.max_loras,
            max_loaded=settings.max_loaded,
            token_seconds=settings.echo_token_seconds,
            load_seconds=settings.echo_load_seconds,
        )
    from serve.engine.environment import apply_engine_environment
    from serve.engine.process import begin

    apply_engine_environment(settings, registry.home / "cache" / "vllm")
    if settings.workers > 1:
        from serve.engine.parallelism import check_parallelism, visible_gpus

        cores = len(os.sched_getaffinity(0))
        check_parallelism(settings, base.config, gpus=visible_gpus(), cores=cores)
    begin()
    from serve.engine.vllm import VLLMEngine

    return VLLMEngine(settings, base)
