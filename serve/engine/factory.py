"""Settings to engine; the heavy imports happen here, and only for the engine that is wanted."""

from registry import Base, RegistrySettings
from serve.engine.protocol import Engine
from serve.settings import ServeSettings


def create_engine(settings: ServeSettings, base: Base, registry: RegistrySettings) -> Engine:
    """An engine that is not started yet."""
    if settings.engine == "echo":
        from serve.engine.echo import EchoEngine

        return EchoEngine(max_loras=settings.max_loras, max_loaded=settings.max_loaded)
    from serve.engine.environment import apply_engine_environment
    from serve.engine.process import begin

    apply_engine_environment(settings, registry.home / "cache" / "vllm")
    begin()
    from serve.engine.vllm import VLLMEngine

    return VLLMEngine(settings, base)
