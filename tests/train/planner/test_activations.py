"""What the planner says is kept for the backward pass, against what autograd really keeps."""

from typing import Any

import pytest
from model_configs import TINY

from train.planner.activations import Activations, Adapted, Batch
from train.planner.architecture import Architecture

ROWS, LENGTH, TRAINED, RANK = 3, 96, 5, 4
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def kept_bytes(
    config: dict[str, Any], *, padded: bool, dropout: float, targets: list[str], full: bool
) -> int:
    """Bytes of the storages that a forward pass and its loss save, weights not among them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from train.batches import answer_logits, answer_loss

    torch.manual_seed(0)
    fields = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **fields))
    if not full:
        model = get_peft_model(
            model, LoraConfig(r=RANK, target_modules=targets, lora_dropout=dropout)
        )
    model.train()
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    if padded:
        mask[0, :2] = 0
    ids = torch.randint(0, config["vocab_size"], (ROWS, LENGTH))
    labels = torch.full_like(ids, -100)
    labels[:, -TRAINED:] = ids[:, -TRAINED:]
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    batch = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "position_ids": torch.arange(LENGTH).expand(ROWS, LENGTH),
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, targets_of = answer_logits(model, batch)
        loss = answer_loss(logits, targets_of)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("name", "padded", "dropout", "targets", "full"),
    [
        ("llama", False, 0.0, LINEAR, False),
        ("llama", True, 0.0, LINEAR, False),
        ("llama", True, 0.1, LINEAR, False),
        ("llama", True, 0.0, ["q_proj", "v_proj"], False),
        ("llama", True, 0.0, LINEAR, True),
        ("qwen2", False, 0.0, LINEAR, False),
        ("qwen3", False, 0.0, LINEAR, False),
        ("gemma", False, 0.0, LINEAR, False),
        ("gemma3_text", False, 0.0, LINEAR, False),
        ("olmo2", False, 0.0, LINEAR, False),
        ("mistral", False, 0.0, LINEAR, False),
        ("phi3", False, 0.0, FUSED, False),
        ("phi3", True, 0.0, FUSED, False),
        ("mixtral", False, 0.0, LINEAR[:4], False),
    ],
)
def test_kept_activations(
    name: str, padded: bool, dropout: float, targets: list[str], full: bool
) -> None:
    config = {**TINY[name], **WIDE}
    real = kept_bytes(config, padded=padded, dropout=dropout, targets=targets, full=full)
    planned = Activations(
        Architecture.of(config),
        Adapted(
            rank=None if full else RANK,
            names=None if full else frozenset(targets),
            dropout=dropout > 0,
        ),
        Batch(ROWS, LENGTH, TRAINED, padded),
        width=4,
    )
    log_probabilities = planned.logits() // 3
    assert planned.all_layers() + log_probabilities == pytest.approx(real, rel=0.05)
