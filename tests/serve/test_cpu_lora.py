"""The CPU LoRA product against plain arithmetic, row by row."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

from serve.engine.cpu_lora import LoraProbe, SegmentedLora, probe, register
from serve.engine.segments import BASE, group_rows
from serve.engine.stacked import StackedFactors

SLOTS, MAX_RANK, INPUTS = 5, 6, 12
CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}


@pytest.fixture(autouse=True)
def _as_in_the_engine() -> Iterator[None]:
    with torch.inference_mode():
        yield


def wrapper_for(
    kind: type[PunicaWrapperBase], slots: list[int], sampled: list[int] | None = None
) -> PunicaWrapperBase:
    """A wrapper that was told a step with the slot of each row; adapter `n + 1` is in slot `n`."""
    wrapper = kind(256, 64, CPU)
    tell(wrapper, slots, sampled)
    return wrapper


def tell(wrapper: PunicaWrapperBase, slots: list[int], sampled: list[int] | None = None) -> None:
    ids = tuple(slot + 1 for slot in slots)
    sampled_ids = ids if sampled is None else tuple(slot + 1 for slot in sampled)
    places = [slot + 1 for slot in range(SLOTS)]
    wrapper.update_metadata(LoRAMapping(ids, sampled_ids, is_prefill=True), places, SLOTS + 1, 100)


def stacks(
    ranks: list[int], outputs: int, dtype: torch.dtype, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's stacks, made outside inference mode as the model's are, with each slot's own rank."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):
        a = torch.zeros(SLOTS, 1, MAX_RANK, INPUTS, dtype=dtype)
        b = torch.zeros(SLOTS, 1, outputs, MAX_RANK, dtype=dtype)
    for slot, rank in enumerate(ranks):
        a[slot, 0, :rank].copy_(torch.randn(rank, INPUTS, generator=generator))
        b[slot, 0, :, :rank].copy_(torch.randn(outputs, rank, generator=generator))
    return a, b


def expected(
    y: torch.Tensor,
    x: torch.Tensor,
    slots: list[int],
    layers: list[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """The definition, in double precision: each row gets its own adapter's product, or nothing."""
    result = y.double()
    for row, slot in enumerate(slots):
        if slot == BASE:
            continue
        deltas = [b[slot, 0].double() @ (a[slot, 0].double() @ x[row].double()) for a, b in layers]
        result[row] += torch.cat(deltas)[: result.shape[1]]
    return result


def untouched(after: torch.Tensor, before: torch.Tensor, slots: list[int]) -> bool:
    """Whether the base model's rows are the same bit for bit (a sign of zero counts too)."""
    base = [row for row, slot in enumerate(slots) if slot == BASE]
    bits = torch.int16 if after.dtype == torch.bfloat16 else torch.int32
    return torch.equal(after[base].view(bits), before[base].view(bits))


mappings = st.one_of(
    st.lists(st.integers(BASE, SLOTS - 1), min_size=1, max_size=24),  # decoding
    st.lists(  # prefills, between them decoding requests
        st.tuples(st.integers(BASE, SLOTS - 1), st.integers(1, 20)), min_size=1, max_size=4
    ).map(lambda spans: [slot for slot, length in spans for _ in range(length)]),
)
ranks = st.lists(st.integers(0, MAX_RANK), min_size=SLOTS, max_size=SLOTS)


@settings(max_examples=100, deadline=None)
@given(
    slots=mappings,
    packed=st.lists(st.tuples(st.integers(1, 9), ranks), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scale=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_every_row_gets_its_own_adapters_product(
    slots: list[int],
    packed: list[tuple[int, list[int]]],
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    layers = [stacks(own, size, dtype, seed + i) for i, (size, own) in enumerate(packed)]
    sizes = tuple(size for size, _ in packed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(slots), INPUTS, generator=generator).to(dtype)
    before = torch.randn(len(slots), sum(sizes), generator=generator).to(dtype)
    after = before.clone()

    wrapper = wrapper_for(SegmentedLora, slots)
    a, b = zip(*layers, strict=True)
    wrapper.add_lora_linear(after, x, a, b, scale, sizes)

    assert untouched(after, before, slots)
    want = expected(before, x, slots, [(a * scale, b) for a, b in layers])
    magnitude = want.abs().amax().clamp(min=1.0)
    assert float((after.double() - want).abs().max() / magnitude) < TOLERANCE[dtype]


@given(slots=mappings)
def test_segments_cover_each_adapters_rows_once(slots: list[int]) -> None:
    covered: dict[int, int] = {}
    for segment in group_rows(np.array(slots, dtype=np.int64)):
        index = torch.arange(len(slots)).unsqueeze(1)
        rows = segment.gather(index).flatten().tolist()
        assert len(rows) == segment.count * segment.width
        for place, row in enumerate(rows):
            assert row not in covered
            covered[row] = segment.first + place // segment.width
    assert covered == {row: slot for row, slot in enumerate(slots) if slot != BASE}


def test_an_answer_is_the_same_alone_and_in_a_batch() -> None:
    slots = [3, BASE, 0, 1, 3, BASE, 4, 2]
    a, b = stacks([6, 4, 6, 2, 5], 7, torch.float32, 1)
    x = torch.randn(len(slots), INPUTS, generator=torch.Generator().manual_seed(2))
    together = torch.zeros(len(slots), 7)
    wrapper = wrapper_for(SegmentedLora, slots)
    wrapper.add_lora_linear(together, x, (a,), (b,), 1.0, (7,))
    for row, slot in enumerate(slots):
        alone = torch.zeros(1, 7)
        wrapper = wrapper_for(SegmentedLora, [slot])
        wrapper.add_lora_linear(alone, x[row : row + 1], (a,), (b,), 1.0, (7,))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


def test_a_step_of_the_base_model_does_nothing() -> None:
    wrapper = wrapper_for(SegmentedLora, [BASE, BASE])
    a, b = stacks([1] * SLOTS, 3, torch.float32, 0)
    y = torch.tensor([[-0.0, 0.0, 1.0]] * 2)
    before = y.clone()
    wrapper.add_lora_linear(y, torch.randn(2, INPUTS), (a,), (b,), 1.0, (3,))
    wrapper.add_lora_logits(y, torch.randn(2, INPUTS), a, b, 1.0)
    assert wrapper.no_lora
    assert untouched(y, before, [BASE, BASE])


def test_an_adapter_with_broken_weights_harms_nobody_else() -> None:
    slots = [0, 1, BASE, 2]
    a, b = stacks([6] * SLOTS, 4, torch.float32, 3)
    x = torch.randn(4, INPUTS)
    want = expected(torch.zeros(4, 4), x, slots, [(a, b)])
    a[1].fill_(torch.nan)
    b[1].fill_(torch.inf)
    y = torch.zeros(4, 4)
    wrapper_for(SegmentedLora, slots).add_lora_linear(y, x, (a,), (b,), 1.0, (4,))
    healthy = [0, 2, 3]
    torch.testing.assert_close(y[healthy].double(), want[healthy], rtol=1e-4, atol=1e-4)


def test_a_slot_taken_over_by_an_adapter_of_another_rank_uses_the_new_weights() -> None:
    a, b = stacks([2] * SLOTS, 4, torch.float32, 4)
    x = torch.randn(2, INPUTS)
    wrapper = wrapper_for(SegmentedLora, [0, 1])
    wrapper.add_lora_linear(torch.zeros(2, 4), x, (a,), (b,), 1.0, (4,))

    other_a, other_b = stacks([6] * SLOTS, 4, torch.float32, 5)
    for stack, other in ((a, other_a), (b, other_b)):  # as the layers' set_lora does
        stack[0] = 0
        stack[0, 0].copy_(other[0, 0], non_blocking=True)
    y = torch.zeros(2, 4)
    wrapper.add_lora_linear(y, x, (a,), (b,), 1.0, (4,))
    want = expected(torch.zeros(2, 4), x, [0, 1], [(a, b)])
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    fills=st.lists(
        st.tuples(st.integers(0, SLOTS - 1), st.lists(st.integers(0, MAX_RANK), min_size=2)),
        min_size=1,
        max_size=8,
    ),
    fresh=st.booleans(),
)
def test_a_slot_holds_what_was_written_last_and_nothing_of_before(
    fills: list[tuple[int, list[int]]], fresh: bool
) -> None:
    (a0, b0), (a1, b1) = (stacks([0] * SLOTS, size, torch.float32, 0) for size in (3, 4))
    layer = StackedFactors((a0, a1), (b0, b1))
    if fresh:
        layer.assume_empty()
    want: dict[int, list[tuple[torch.Tensor, torch.Tensor] | None]] = {}
    for slot, ranks in fills:
        for first in range(SLOTS):  # views are handed out meanwhile
            layer.factors(first, min(2, SLOTS - first))
        pairs = [
            (torch.randn(rank, INPUTS), torch.randn(size, rank)) if rank else None
            for rank, size in zip(ranks, (3, 4), strict=False)
        ]
        down, up = ([pair[half] if pair else None for pair in pairs] for half in (0, 1))
        assert layer.fits(down, up)
        layer.write(slot, down, up)
        want[slot] = pairs
    x = torch.randn(1, INPUTS)
    for slot in range(SLOTS):
        got = torch.zeros(1, 7)
        for down_view, up_view, columns in layer.factors(slot, 1):
            got[:, columns] += x @ down_view @ up_view
        both = [
            x @ pair[0].T @ pair[1].T if pair else torch.zeros(1, size)
            for pair, size in zip(want.get(slot, [None, None]), (3, 4), strict=True)
        ]
        torch.testing.assert_close(got, torch.cat(both, dim=1), rtol=1e-4, atol=1e-4)
        for stack, (down_part, up_part) in zip(
            ((a0, b0), (a1, b1)),
            [pair or (torch.zeros(0, INPUTS), None) for pair in want.get(slot, [None, None])],
            strict=True,
        ):
            rank = down_part.shape[0]
            assert not stack[0][slot, 0, rank:].any()
            assert not stack[1][slot, 0, :, rank:].any()
            assert up_part is None or torch.equal(stack[1][slot, 0, :, :rank], up_part)


def test_factors_that_do_not_fit_are_left_to_vllm() -> None:
    a, b = stacks([0] * SLOTS, 3, torch.float32, 0)
    layer = StackedFactors((a,), (b,))
    down, up = torch.zeros(2, INPUTS), torch.zeros(3, 2)
    assert layer.fits([down], [up])
    assert not layer.fits([down[:, 1:]], [up])
    assert not layer.fits([down], [up[1:]])
    assert not layer.fits([down], [up[:, 1:]])
    assert not layer.fits([torch.zeros(7, INPUTS)], [torch.zeros(3, 7)])
    assert not layer.fits([down, down], [up, up])
    assert not layer.fits([down], [None])
    assert not StackedFactors((a.clone(),), (b.clone(),)).fits([down], [up])


@pytest.mark.parametrize("width", [5, 7, 9])
def test_logits_follow_the_sampled_rows_and_either_padding(width: int) -> None:
    sampled = [BASE, 2, 0, BASE]
    a, b = stacks([3, 6, 4, 1, 2], 7, torch.float32, 6)
    x = torch.randn(4, INPUTS)
    y = torch.randn(4, width)
    before = y.clone()
    wrapper = wrapper_for(SegmentedLora, [BASE] * 3 + [2] * 9 + [0, BASE], sampled)
    wrapper.add_lora_logits(y, x, a, b, 1.0)
    assert untouched(y, before, sampled)
    common = min(width, 7)
    want = expected(before[:, :common], x, sampled, [(a, b)])
    torch.testing.assert_close(y[:, :common].double(), want, rtol=1e-4, atol=1e-4)
    assert torch.equal(y[:, common:], before[:, common:])


def test_logits_in_another_dtype_than_the_adapters() -> None:
    a, b = stacks([6] * SLOTS, 7, torch.bfloat16, 6)
    x = torch.randn(2, INPUTS)
    y = torch.zeros(2, 7)
    wrapper_for(SegmentedLora, [1, 4]).add_lora_logits(y, x, a, b, 1.0)
    want = expected(torch.zeros(2, 7), x, [1, 4], [(a, b)])
    torch.testing.assert_close(y.double(), want, rtol=0.05, atol=0.3)


def test_embeddings_and_the_halves_of_the_product_skip_the_base_model() -> None:
    slots = [BASE, 1, 1, BASE, 0, 2]
    a, b = stacks([6, 4, 3, 1, 2], 5, torch.float32, 7)
    x = torch.randn(len(slots), INPUTS)
    wrapper = wrapper_for(SegmentedLora, slots)
    halves = torch.zeros(1, len(slots), MAX_RANK)
    wrapper.add_shrink(halves, x, (a,), 1.0)
    assert not halves[0, [0, 3]].any()

    before = torch.randn(len(slots), 5)
    for add in (wrapper.add_lora_embedding, None):
        y = before.clone()
        if add is None:
            wrapper.add_expand(y, halves, (b,), (5,))
        else:
            add(y, halves[0], b, add_input=True)
        assert untouched(y, before, slots)
        want = expected(before, x, slots, [(a, b)])
        torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4)


def test_a_whole_layer_of_an_adapter_replaces_only_its_own_rows() -> None:
    slots = [1, BASE, 0, 1]
    weight = torch.randn(SLOTS, 1, 3, INPUTS)
    bias = torch.randn(SLOTS, 3)
    enabled = torch.tensor([False, True, True, False, False])
    x, before = torch.randn(4, INPUTS), torch.randn(4, 3)
    y = before.clone()
    wrapper_for(SegmentedLora, slots).apply_lora_full_linear(y, x, weight, bias, enabled)
    assert torch.equal(y[[1, 2]], before[[1, 2]])
    torch.testing.assert_close(y[[0, 3]], x[[0, 3]] @ weight[1, 0].T + bias[1])


def test_stacks_without_version_counters_are_read_whole() -> None:
    a, b = (stack.clone() for stack in stacks([1] * SLOTS, 4, torch.float32, 8))
    x = torch.randn(2, INPUTS)
    wrapper = wrapper_for(SegmentedLora, [0, 1])
    wrapper.add_lora_linear(torch.zeros(2, 4), x, (a,), (b,), 1.0, (4,))
    a[1].copy_(torch.randn(1, MAX_RANK, INPUTS))
    b[1].copy_(torch.randn(1, 4, MAX_RANK))
    y = torch.zeros(2, 4)
    wrapper.add_lora_linear(y, x, (a,), (b,), 1.0, (4,))
    want = expected(torch.zeros(2, 4), x, [0, 1], [(a, b)])
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4)


def test_rows_that_do_not_fit_the_step_are_refused() -> None:
    a, b = stacks([1] * SLOTS, 3, torch.float32, 0)
    wrapper = wrapper_for(SegmentedLora, [0, 1, BASE])
    with pytest.raises(ValueError, match="a step of 3 rows"):
        wrapper.add_lora_linear(torch.zeros(2, 3), torch.zeros(2, INPUTS), (a,), (b,), 1.0, (3,))
    with pytest.raises(ValueError, match="3 rows are sampled from, but 5"):
        wrapper.add_lora_logits(torch.zeros(5, 3), torch.zeros(5, INPUTS), a, b, 1.0)


def test_the_plugin_takes_the_platforms_seam_and_can_be_loaded_again() -> None:
    if not current_platform.is_cpu():
        pytest.skip("the plugin leaves other platforms alone")
    register()
    register()
    assert current_platform.get_punica_wrapper() == "serve.engine.cpu_lora.SegmentedLora"


def test_the_probe_tells_our_product_from_the_stock_one() -> None:
    class Layer:
        def __init__(self, kind: type[PunicaWrapperBase]) -> None:
            self.punica_wrapper = kind(8, 8, CPU)

    class Worker(LoraProbe):
        """What the probe reads of a worker: its LoRA layers."""

        def __init__(self, *kinds: type[PunicaWrapperBase]) -> None:
            self.modules = {str(number): Layer(kind) for number, kind in enumerate(kinds)}
            self.model_runner = self.lora_manager = self._adapter_manager = self

    ours = Worker(SegmentedLora, SegmentedLora).probe_cpu_lora()
    assert ours["active"]
    assert ours["wrapper"] == "serve.engine.cpu_lora.SegmentedLora"
    assert ours["max_error"] < 1e-5
    assert ours["base_rows_untouched"]

    stock = Worker(PunicaWrapperCPU).probe_cpu_lora()
    assert not stock["active"]
    assert not Worker(SegmentedLora, PunicaWrapperCPU).probe_cpu_lora()["active"]


def test_stock_vllm_still_adds_an_adapter_to_base_rows() -> None:
    """Why this module exists. When it fails, vLLM has fixed the leak: measure, then drop ours."""
    error, base_rows_untouched = probe(PunicaWrapperCPU)
    assert error < 1e-5
    assert not base_rows_untouched


def test_the_logits_of_a_prompt_need_no_rows_where_no_adapter_has_a_head() -> None:
    a, b = (torch.zeros_like(stack) for stack in stacks([2] * SLOTS, 3, torch.float32, 0))
    wrapper = wrapper_for(SegmentedLora, [1, 1, 1])
    y = torch.ones(5, 3)
    wrapper.add_lora_logits(y, torch.randn(5, INPUTS), a, b, 1.0)
    assert torch.equal(y, torch.ones(5, 3))
