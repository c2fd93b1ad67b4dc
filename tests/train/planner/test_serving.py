"""KV cache, slots of adapters, and what fits on a card."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_configs import LLAMA, MISTRAL, MIXTRAL, TINY
from safetensors.numpy import load_file

from train.planner.architecture import Architecture
from train.planner.memory import GIB
from train.planner.serving import CHAT_TOKENS, Serving
from train.settings import SERVABLE_RANK

MIB = 1024**2


def serving(config: dict[str, Any] = MISTRAL, rank: int = 16) -> Serving:
    return Serving(Architecture.of(config), rank)


def test_keys_and_values_of_a_token() -> None:
    assert serving(MISTRAL).kv_token == 2 * 32 * 8 * 128 * 2  # grouped: 8 of 32 heads
    assert serving(LLAMA).kv_token == 2 * 32 * 32 * 128 * 2
    assert serving(MISTRAL).kv_chat() == 512 * MIB
    assert serving(LLAMA).kv_chat() == 2048 * MIB


def test_a_block_of_the_cache_is_whole() -> None:
    plan = serving()
    assert plan.kv_chat(1) == plan.kv_chat(16) == 16 * plan.kv_token
    assert plan.kv_chat(17) == 32 * plan.kv_token


def test_a_sliding_window_bounds_the_cache() -> None:
    windowed = serving({**MISTRAL, "sliding_window": 1024})
    assert windowed.kv_chat() == windowed.kv_chat(1024) == 1024 * windowed.kv_token
    mixed = serving({**TINY["gemma2"], "sliding_window": 1024})
    assert mixed.kv_chat() == (mixed.kv_token // 4) * 2 * (1024 + CHAT_TOKENS)


def test_an_adapters_file_is_that_of_peft(
    tiny_base: Path, make_adapter: Any, tmp_path: Path
) -> None:
    folder = make_adapter(tmp_path / "adapter", tiny_base, rank=8)
    config = json.loads((tiny_base / "config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors").values()
    assert serving(config, rank=8).adapter_file == sum(tensor.nbytes for tensor in tensors)


def test_a_slot_has_the_servers_rank_whatever_the_adapters() -> None:
    assert serving(rank=8).slot == serving(rank=64).slot
    assert serving(rank=8).slot_rank == SERVABLE_RANK
    assert serving(rank=65).slot_rank == 128
    linears = 32 * (2 * 8192 + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    vocabulary = 2 * (32000 + 4096)
    assert serving().slot == 2 * 64 * (linears + vocabulary)


def test_experts_make_slots_large() -> None:
    assert serving(MIXTRAL).slot > 5 * serving(MISTRAL).slot


def test_nf4_weights_of_experts() -> None:
    """vLLM's plugin quantises experts, which transformers does not."""
    plan = serving(MIXTRAL)
    assert plan.weights("none") == 2 * plan.model.parameters
    assert 0.5 * plan.model.parameters < plan.weights("nf4") < 0.6 * plan.model.parameters


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("card", [24, 48, 80])
def test_a_card_is_never_overfull(card: int, quantization: Any) -> None:
    plan = serving()
    on = plan.on(card, quantization)
    room = 0.9 * card * GIB - plan.weights(quantization) - plan.reserve
    for fit in on.fits:
        left = room - fit.slots * plan.slot
        if fit.chats is None:
            assert left < plan.kv_chat()
        else:
            assert fit.chats * plan.kv_chat() <= left < (fit.chats + 1) * plan.kv_chat()
    assert on.most_slots * plan.slot + plan.kv_chat() <= room
    assert (on.most_slots + 1) * plan.slot + plan.kv_chat() > room


def test_a_model_that_does_not_fit() -> None:
    on = serving(MIXTRAL).on(24)
    assert on.free < 0
    assert on.most_slots == 0
    assert {fit.chats for fit in on.fits} == {None}
