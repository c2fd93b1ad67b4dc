"""Whether a base can be cut for several GPUs, from its config.json alone.

Tensor parallelism gives each GPU some of a layer's heads, of its MLP's width and of the vocabulary;
pipeline parallelism gives each some of the layers. An adapter is cut as its base is: one that
passed preflight has the base's shapes, so what is said here holds for all of them.
"""

from collections.abc import Mapping
from typing import Any

VOCABULARY_BLOCK = 64
"""The engine pads the vocabulary to a multiple of this before it cuts it."""


def shard_problems(config: Mapping[str, Any], tensor: int, pipeline: int = 1) -> list[str]:
    """Why a base of this config cannot be cut `tensor` × `pipeline` ways; empty where it can.

    What the config does not say is not checked.
    """
    config = config.get("text_config") or config
    heads = _size(config, "num_attention_heads")
    groups = _size(config, "num_key_value_heads") or heads
    sizes = {
        "attention heads": heads,
        "MLP width": _size(config, "intermediate_size"),
        "experts' width": _size(config, "moe_intermediate_size"),
        "padded vocabulary": -(-_size(config, "vocab_size") // VOCABULARY_BLOCK) * VOCABULARY_BLOCK,
    }
    problems = [
        f"{size} ({what}) cannot be divided by {tensor}"
        for what, size in sizes.items()
        if size % tensor
    ]
    if groups and groups % tensor and tensor % groups:
        problems.append(f"{groups} (key and value heads) neither divide {tensor} nor it them")
    layers = _size(config, "num_hidden_layers")
    if layers and layers < pipeline:
        problems.append(f"{layers} layers are too few for {pipeline} stages")
    return problems


def tensor_sizes(config: Mapping[str, Any], most: int) -> list[int]:
    """The numbers of GPUs, up to `most`, that a base's layers can be cut over."""
    return [tensor for tensor in range(1, most + 1) if not shard_problems(config, tensor)]


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) else 0
