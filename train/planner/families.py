"""What a model's config.json leaves to its class: the families that the planner knows.

Read from the configuration and modelling files of transformers 5.19; a test counts the parameters
of every family against transformers' own model on torch's meta device.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Family:
    """Defaults and layout of one `model_type`.

    `norms` are the RMS norms over the hidden size in a layer; `query_norm` says whether queries and
    keys are normed, by head or whole. `vocabulary_slots`: vLLM 0.32 gives an adapter's slot room
    for the embedding and the output head too.
    """

    tied: bool = False
    head_dim: int | None = None
    norms: int = 2
    query_norm: Literal["none", "head", "whole"] = "none"
    qkv_bias: Literal["always", "never", "attention_bias", "qkv_bias"] = "attention_bias"
    output_bias: bool = True
    """Whether the attention's output takes the config's `attention_bias`."""
    mlp_bias: bool = False
    """Whether the MLP takes the config's `mlp_bias`."""
    fused: bool = False
    """One linear module for queries, keys and values, and one for gate and up."""
    experts: str | None = None
    """The config's key of how many experts a layer has."""
    shared_expert: bool = False
    """Whether one more MLP beside the experts sees every token."""
    window: Literal["never", "all", "late", "pattern"] = "never"
    """Layers with a sliding window: all; those after max_window_layers; by a pattern."""
    window_default: int | None = None
    pattern: int = 1
    """With a window by a pattern: each n-th layer has none."""
    vocabulary_slots: bool = False


_LLAMA = Family(mlp_bias=True, vocabulary_slots=True)
_GEMMA_WINDOW = 4096

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": Family(qkv_bias="never", window="all", window_default=4096, vocabulary_slots=True),
    "mixtral": Family(
        qkv_bias="never", experts="num_local_experts", window="all", vocabulary_slots=True
    ),
    "qwen2": Family(qkv_bias="always", output_bias=False, window="late"),
    "qwen2_moe": Family(
        qkv_bias="qkv_bias", output_bias=False, experts="num_experts", shared_expert=True
    ),
    "qwen3": Family(head_dim=128, query_norm="head", window="late", vocabulary_slots=True),
    "qwen3_moe": Family(query_norm="head", experts="num_experts", vocabulary_slots=True),
    "gemma": Family(tied=True, head_dim=256),
    "gemma2": Family(
        tied=True,
        head_dim=256,
        norms=4,
        window="pattern",
        window_default=_GEMMA_WINDOW,
        pattern=2,
    ),
    "gemma3_text": Family(
        tied=True,
        head_dim=256,
        norms=4,
        query_norm="head",
        window="pattern",
        window_default=_GEMMA_WINDOW,
        pattern=6,
    ),
    "phi3": Family(qkv_bias="never", fused=True, window="all", vocabulary_slots=True),
    "smollm3": Family(tied=True, mlp_bias=True),
    "granite": Family(mlp_bias=True, vocabulary_slots=True),
    "olmo2": Family(query_norm="whole"),
    "olmoe": Family(query_norm="whole", experts="num_experts"),
}
