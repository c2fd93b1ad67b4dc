"""Which bases can be cut over how many GPUs."""

import pytest
from model_configs import LLAMA, MISTRAL, QWEN_MOE

from registry.base_shards import shard_problems, tensor_sizes

SMOLLM = {
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "num_hidden_layers": 30,
}


def test_the_sizes_that_a_base_can_be_cut_over() -> None:
    assert tensor_sizes(LLAMA, 8) == [1, 2, 4, 8]
    assert tensor_sizes(MISTRAL, 32) == [1, 2, 4, 8, 16, 32]  # beyond 8 the keys are repeated
    assert tensor_sizes(SMOLLM, 9) == [1, 3]  # 9 does not divide the MLP's width
    assert tensor_sizes({"text_config": SMOLLM}, 9) == [1, 3]
    assert tensor_sizes(QWEN_MOE, 8) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("config", "tensor", "pipeline", "said"),
    [
        (LLAMA, 3, 1, "attention heads"),
        (SMOLLM, 9, 1, "MLP width"),
        ({"num_attention_heads": 12, "num_key_value_heads": 4}, 6, 1, "key and value heads"),
        ({"vocab_size": 65}, 3, 1, "padded vocabulary"),
        ({"moe_intermediate_size": 10}, 4, 1, "experts' width"),
        (SMOLLM, 1, 31, "30 layers"),
    ],
)
def test_why_one_cannot_be_cut(
    config: dict[str, int], tensor: int, pipeline: int, said: str
) -> None:
    assert any(said in problem for problem in shard_problems(config, tensor, pipeline))


def test_what_a_config_does_not_say_is_not_held_against_it() -> None:
    assert shard_problems({}, 8, 8) == []
