"""The parts of a run's memory, and how they follow the settings."""

from dataclasses import replace
from typing import Any

import pytest
from model_configs import LLAMA, MISTRAL, TINY

from train.planner.architecture import Architecture
from train.planner.memory import GIB, TrainingMemory, Workload, training_memory, training_peak
from train.settings import TrainSettings


def memory(
    config: dict[str, Any] = MISTRAL, device: str = "cuda", **settings: Any
) -> TrainingMemory:
    dtype = "bfloat16" if device == "cuda" else "float32"
    workload = Workload.of(TrainSettings(**settings), dtype=dtype, device=device)
    return training_memory(Architecture.of(config), workload)


def test_the_peak_counts_everything() -> None:
    settings = TrainSettings(max_length=256)
    peak = training_peak(MISTRAL, settings, dtype="bfloat16", device="cuda")
    parts = memory(max_length=256)
    assert peak == parts.total == parts.peak + parts.process
    assert parts.step == (
        parts.weights
        + parts.adapter
        + parts.gradients
        + parts.optimizer
        + parts.activations
        + parts.temporary
    )
    assert 4 * GIB < peak < 24 * GIB  # the QLoRA of a 7B model that people know to fit


def test_the_adapter_is_float32_as_are_its_gradients() -> None:
    parts = memory(LLAMA, rank=16)
    # q, k, v, o: 4096 to 4096; gate, up: 4096 to 11008; down: back. The known 40 M of rank 16.
    elements = 32 * 16 * (4 * 8192 + 3 * (4096 + 11008))
    assert parts.adapter == parts.gradients == 4 * elements
    assert elements == 39_976_960


def test_only_the_named_targets_are_adapted() -> None:
    few, all_linear = memory(LLAMA, targets=("q_proj", "v_proj")), memory(LLAMA)
    assert few.adapter == 4 * 32 * 16 * 2 * 8192
    assert few.activations <= all_linear.activations


def test_optimisers() -> None:
    wide = memory(optimizer="adamw")
    narrow = memory(optimizer="adamw_8bit")
    assert wide.optimizer == 2 * wide.adapter
    assert 0.25 < narrow.optimizer / wide.optimizer < 0.26
    assert memory(optimizer="auto") == memory(optimizer="paged_adamw_8bit")
    assert memory(device="cpu", optimizer="auto") == memory(device="cpu", optimizer="adamw")


def test_8_bit_states_of_small_tensors_stay_in_32_bits() -> None:
    tiny = memory(TINY["llama"], rank=4, optimizer="adamw_8bit")
    assert tiny.optimizer == memory(TINY["llama"], rank=4, optimizer="adamw").optimizer


def test_the_8_bit_states_are_those_of_bitsandbytes() -> None:
    import bitsandbytes
    import torch

    config = {**TINY["llama"], "hidden_size": 512, "intermediate_size": 1024}
    model = Architecture.of(config)
    parameters = []
    for linear in model.linears:
        for features in (linear.inputs, linear.outputs):
            parameters.append(torch.nn.Parameter(torch.zeros(16, features)))
            parameters[-1].grad = torch.ones_like(parameters[-1])
    optimizer = bitsandbytes.optim.AdamW8bit(parameters)
    optimizer.step()
    real = sum(
        tensor.numel() * tensor.element_size()
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if torch.is_tensor(tensor) and not name.startswith("qmap")  # code books, which are shared
    )
    assert memory(config, rank=16, optimizer="adamw_8bit").optimizer == pytest.approx(real, rel=0.1)


def test_recomputation_trades_activations_for_time() -> None:
    kept = memory(gradient_checkpointing=False)
    recomputed = memory(gradient_checkpointing=True)
    assert recomputed.activations < kept.activations / 10
    assert memory() == recomputed
    assert memory(device="cpu") == memory(device="cpu", gradient_checkpointing=False)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"max_length": 256}, {"max_length": 512}),
        ({"batch_size": 2}, {"batch_size": 4}),
        ({"rank": 8}, {"rank": 32}),
        ({"quantization": "nf4"}, {"quantization": "int8"}),
        ({"quantization": "int8"}, {"quantization": "none"}),
        ({"dropout": 0.0}, {"dropout": 0.1}),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_takes_more(device: str, less: dict[str, Any], more: dict[str, Any]) -> None:
    assert memory(device=device, **less).step < memory(device=device, **more).step


def test_a_checkpoint_of_another_width_is_mapped_while_it_is_read() -> None:
    stored = memory({**MISTRAL, "torch_dtype": "float32"}, device="cpu")
    converted = memory(device="cpu")
    weights = Architecture.of(MISTRAL).parameters
    assert stored.loading == stored.weights > 4 * weights
    assert converted.loading == converted.weights + 2 * weights


def test_fewer_trained_tokens_need_fewer_logits() -> None:
    model = Architecture.of(MISTRAL)
    workload = Workload.of(TrainSettings(), dtype="bfloat16", device="cuda")
    answers = replace(workload, batch=replace(workload.batch, trained=64))
    saved = training_memory(model, workload).step - training_memory(model, answers).step
    assert 0 < saved <= 12 * 32000 * 8 * (1024 - 64)


def test_a_length_above_max_length_is_none() -> None:
    settings = TrainSettings(max_length=128)
    workload = Workload.of(settings, dtype="float32", device="cpu", length=4096, trained=4096)
    assert (workload.batch.length, workload.batch.trained) == (128, 128)
