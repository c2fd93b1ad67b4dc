"""Which linear modules a base model has, and their shapes, from its files alone.

Read from the headers of its safetensors files; from config.json where the weights are stored
quantised, their shapes then being packed.
"""

import json
from pathlib import Path
from typing import Any

from registry.tensor_header import FLOAT_TYPES, BadHeader, read_header

Shape = tuple[int, int]
"""Of a linear module's weight: out features, in features."""

_LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3"})
_VOCABULARY = ("embed_tokens", "lm_head", "wte", "wpe")


def linear_modules(folder: Path) -> dict[str, Shape]:
    """Shape of each linear module of the base in `folder` by name; empty where unknown.

    Raises OSError or ValueError where its files cannot be read.
    """
    config = json.loads((folder / "config.json").read_bytes())
    if not isinstance(config, dict):
        raise ValueError("config.json holds no JSON object")
    if config.get("quantization_config"):
        return _from_config(config)
    modules: dict[str, Shape] = {}
    try:
        for shard in sorted(folder.glob("*.safetensors")):
            for name, tensor in read_header(shard).items():
                module, _, kind = name.rpartition(".")
                if (
                    kind == "weight"
                    and len(tensor.shape) == 2
                    and tensor.dtype in FLOAT_TYPES
                    and module.rpartition(".")[2] not in _VOCABULARY
                ):
                    modules[module] = (tensor.shape[0], tensor.shape[1])
    except BadHeader as error:
        raise ValueError(str(error)) from error
    return modules


def _from_config(config: dict[str, Any]) -> dict[str, Shape]:
    """The modules of a Llama-like model: grouped-query attention and a gated MLP."""
    if config.get("model_type") not in _LLAMA_LIKE:
        return {}
    try:
        hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        groups = int(config.get("num_key_value_heads") or heads)
        width = int(config.get("head_dim") or hidden // heads)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"config.json does not give the model's shape: {error}") from error
    shapes = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (groups * width, hidden),
        "self_attn.v_proj": (groups * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{layer}.{module}": shape
        for layer in range(layers)
        for module, shape in shapes.items()
    }
