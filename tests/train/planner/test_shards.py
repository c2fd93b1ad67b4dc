"""What each of several GPUs holds, of a served model and of one that is trained in shards."""

from typing import Any

import pytest
from model_configs import LLAMA, LLAMA_70B, MISTRAL, MIXTRAL, TINY

from registry import UsageError
from registry.base_shards import tensor_sizes
from train.planner.architecture import Architecture
from train.planner.fsdp import fsdp_memory
from train.planner.memory import GIB, Workload, training_memory
from train.planner.plan import Plan
from train.planner.serving import Serving
from train.planner.shards import Spread
from train.settings import TrainSettings


def serving(config: dict[str, Any], tensor: int = 1, pipeline: int = 1) -> Serving:
    return Serving(Architecture.of(config), 16, Spread(tensor, pipeline))


@pytest.mark.parametrize(
    "config", [LLAMA, LLAMA_70B, MISTRAL, MIXTRAL], ids=lambda c: c["model_type"]
)
def test_shares_make_the_whole_but_for_what_every_gpu_has(config: dict[str, Any]) -> None:
    whole = Architecture.of(config)
    share = Spread(tensor=4).share(whole)
    norms = sum(layer.norms for layer in whole.layers) + whole.hidden
    routers = sum(
        layer.experts.count * layer.experts.hidden for layer in whole.layers if layer.experts
    )
    repeated = norms + routers
    assert 4 * (share.parameters - repeated) + repeated == whole.parameters


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_family_can_be_shared_out(name: str) -> None:
    config = TINY[name]
    whole = Architecture.of(config)
    for tensor in tensor_sizes(config, 4):
        share = Spread(tensor).share(whole)
        assert whole.parameters / tensor <= share.parameters <= whole.parameters


def test_keys_and_values_are_repeated_where_there_are_more_gpus_than_heads() -> None:
    one = serving(LLAMA_70B).kv_token
    assert one == 2 * 80 * 8 * 128 * 2  # 320 KiB
    assert serving(LLAMA_70B, 8).kv_token == one // 8
    assert serving(LLAMA_70B, 16).kv_token == one // 8
    assert serving(LLAMA_70B, pipeline=4).kv_token == one // 4


def test_a_slot_is_cut_on_one_side_of_each_product() -> None:
    """vLLM 0.32 cuts B of a layer that is cut by outputs, and A of one that is cut by inputs."""
    rank, hidden, inner, vocabulary = 64, 4096, 11008, 32000
    by_outputs = 3 * (hidden + hidden // 4) + 2 * (hidden + inner // 4)
    by_inputs = (hidden // 4 + hidden) + (inner // 4 + hidden)
    ends = 2 * (vocabulary + hidden)
    assert serving(LLAMA, 4).slot == 2 * rank * (32 * (by_outputs + by_inputs) + ends)


def test_the_later_stages_take_what_is_left_over_but_the_last() -> None:
    """As vLLM's `get_pp_indices` has it."""
    whole = Architecture.of({**LLAMA, "num_hidden_layers": 10})
    stages = Spread(pipeline=4)._stages(whole)
    assert [len(stage) for stage in stages] == [2, 3, 3, 2]
    assert [len(stage) for stage in Spread(pipeline=3)._stages(whole)] == [3, 4, 3]


def test_stages_hold_one_end_of_the_model() -> None:
    whole = Architecture.of(LLAMA)
    half = Spread(pipeline=2).share(whole)
    assert len(half.layers) == 16
    assert half.head == 0
    assert half.embedding == whole.embedding


def plan(config: dict[str, Any], **options: Any) -> Plan:
    return Plan.of(config, TrainSettings(), (24, 48, 80), **options)


def test_the_fewest_gpus_that_a_model_fits_on() -> None:
    planned = plan(LLAMA_70B, gpus=8)
    rows = {(row.card, row.quantization): row for row in planned.several.rows(planned.cards)}
    assert planned.several.sizes == (1, 2, 4, 8)
    assert rows[80, "none"].fewest == 4  # 129 GiB of weights: two cards have no room for chats
    assert rows[80, "nf4"].fewest == 1
    assert rows[24, "none"].fewest is None
    for row in rows.values():
        chats = [each or 0 for each in row.chats]
        assert chats == sorted(chats)
    assert planned.several.serving.spread == Spread(tensor=8)


def test_spreads_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="takes 8 GPUs, and --gpus is 4"):
        plan(LLAMA_70B, gpus=4, tensor=8)
    with pytest.raises(UsageError, match="cannot be cut 3"):
        plan(LLAMA_70B, gpus=4, tensor=3)


def test_qlora_in_shards_is_near_a_published_figure() -> None:
    """Llama-2-70B on two GPUs, 2 rows of 2,048 tokens each, rank 8, no offloading: 35.6 GB on each.

    PEFT's documentation, "Use PEFT QLoRA and FSDP for finetuning large models on multiple GPUs";
    the driver's figure, with what PyTorch's allocator has set aside.
    """
    settings = TrainSettings(batch_size=2, max_length=2048, rank=8, dropout=0.1)
    workload = Workload.of(settings, dtype="bfloat16", device="cuda")
    planned = fsdp_memory(Architecture.of(LLAMA_70B), workload, 2)
    assert planned.total == pytest.approx(35.6e9, rel=0.2)


def test_more_gpus_take_less_each_and_never_less_than_a_layer() -> None:
    model = Architecture.of(LLAMA_70B)
    workload = Workload.of(TrainSettings(batch_size=1), dtype="bfloat16", device="cuda")
    totals = [fsdp_memory(model, workload, gpus).total for gpus in (2, 4, 8, 512)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] > training_memory(model, workload).activations + 2 * GIB
    methods = {method.name: method for method in plan(LLAMA_70B, gpus=4).methods}
    assert methods["QLoRA, 4 GPUs"].memory.total < methods["QLoRA"].memory.total
