"""Adapters with random weights: the load of real ones, without training."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from registry.base_modules import linear_modules


def write_random_adapter(
    folder: Path, base: Path, *, rank: int, seed: int, modules: int | None = None
) -> Path:
    """Write a PEFT adapter for the base in `base` into `folder` and return it.

    It is on all linear modules, or on the first few. The product is a few per cent of what the
    base computes: answers change, and stay text.
    """
    random = np.random.default_rng(seed)
    shapes = dict(islice(linear_modules(base).items(), modules))
    tensors = {}
    for module, (outputs, inputs) in shapes.items():
        prefix = f"base_model.model.{module}"
        a = random.standard_normal((rank, inputs), dtype=np.float32) / inputs**0.5
        b = random.standard_normal((outputs, rank), dtype=np.float32) * np.float32(0.01)
        tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in shapes}),
        "inference_mode": True,
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
