"""Engines: the protocol, vLLM (the only importer of vllm) and the deterministic echo engine."""

from serve.engine.protocol import (
    Answer,
    Engine,
    EngineAdapter,
    GenerationRequest,
    GenerationStats,
    ScoreRequest,
    SequenceScore,
    StatsObserver,
)

__all__ = [
    "Answer",
    "Engine",
    "EngineAdapter",
    "GenerationRequest",
    "GenerationStats",
    "ScoreRequest",
    "SequenceScore",
    "StatsObserver",
]
