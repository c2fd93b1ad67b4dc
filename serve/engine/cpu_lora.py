"""The LoRA product on CPUs: one dense product for each adapter, and none for the base model.

vLLM's own CPU implementation copies the adapter's weights once for every token, and it looks up the
base model's tokens with slot -1, which is the last slot: a base request batched with another
team's adapter answers with that adapter's weights added. This module replaces it through vLLM's
`vllm.general_plugins` entry points (`serve.engine.cpu_lora:register`), in every process of vLLM,
and does nothing where vLLM doesn't run on the CPU.

A plugin that fails to load is only logged by vLLM, so the server asks the worker before it opens:
start the engine with `worker_extension_cls="serve.engine.cpu_lora.LoraProbe"` and call
`await engine.collective_rpc("probe_cpu_lora")`.
"""

from typing import Any, TypedDict

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.platforms import current_platform

from serve.engine.segments import Segment, group_rows
from serve.engine.stacked import StackedFactors


def register() -> None:
    """Make vLLM use `SegmentedLora` on the CPU. Safe to call any number of times."""
    if not current_platform.is_cpu():
        return
    platform = type(current_platform)
    if platform.get_punica_wrapper() != _QUALIFIED_NAME:
        platform.get_punica_wrapper = staticmethod(lambda: _QUALIFIED_NAME)


class SegmentedLora(PunicaWrapperBase):  # type: ignore[misc]
    """vLLM's seam for LoRA products, on dense products over the rows of each adapter.

    Every method changes `y` in place and leaves the base model's rows as they are, bit for bit.
    """

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_batches: int,
        device: torch.device | str,
        **_: Any,
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device)
        self._segments: tuple[Segment, ...] = ()
        self._rows = 0
        self._sampled: tuple[Segment, ...] | None = None
        self._stacks: dict[int, StackedFactors] = {}

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **_: Any,
    ) -> None:
        """Take in a step: the adapter of each row, and of each row that is sampled from."""
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self._segments = group_rows(self.token_lora_indices.numpy())
        self._rows = len(mapping.index_mapping)
        self._sampled = None
        self.is_prefill = mapping.is_prefill
        self.no_lora = not self._segments

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add each adapter's product for the projections packed in one linear layer.

        `y` is (rows, sum of `output_slices`), `x` (rows, inputs).
        """
        if self._segments:
            stacks = self.stacks_of(lora_a_stacked, lora_b_stacked)
            if x.shape[0] < self._rows:
                raise ValueError(f"a step of {self._rows} rows, but a layer was given {x.shape[0]}")
            _add_product(y, x, stacks, self._segments, scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add each adapter's product to the logits `y` (sampled rows, vocabulary).

        The logits of a prompt (`prompt_logprobs`) are of other rows than the step samples from, and
        nobody says whose: that is refused unless no adapter has a head to add.
        """
        segments = self._sampled_segments()
        if segments:
            y = y.view(-1, y.shape[-1])
            x = x.view(-1, x.shape[-1])
            sampled = self.sampler_indices.shape[0]
            if x.shape[0] != sampled:
                if not lora_a_stacked.any():
                    return
                raise ValueError(f"{sampled} rows are sampled from, but {x.shape[0]} have logits")
            stacks = self.stacks_of((lora_a_stacked,), (lora_b_stacked,))
            _add_product(y, x, stacks, segments, scale)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        """Add `x` (rows, max rank; already looked up) times each adapter's second factor."""
        self.add_expand(y, (x,), (lora_b_stacked,), (y.shape[-1],), add_inputs=add_inputs)

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **_: Any,
    ) -> None:
        """Set the adapters' rows of each `y[i]` (rows, max rank) to the first half of the product.

        Only fully sharded layers take the halves one by one; the others come as one.
        """
        x = x.view(-1, x.shape[-1])
        for target, stack in zip(y, lora_a_stacked, strict=True):
            for segment in self._segments:
                product = _each_slot(segment, segment.gather(x).to(stack.dtype), stack)
                _write(target, segment, product.mul_(scale), add=False)

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        """Add the second half of the product to each slice of `y`, or set it."""
        y = y.view(-1, y.shape[-1])
        start = offset_start
        for half, stack, size in zip(x, lora_b_stacked, output_slices, strict=True):
            for segment in self._segments:
                product = _each_slot(segment, segment.gather(half).to(stack.dtype), stack)
                width = min(size, product.shape[-1])
                _write(y[:, start : start + width], segment, product[:, :width], add=add_inputs)
            start += size

    def apply_lora_full_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        weight_stacked: torch.Tensor,
        bias_stacked: torch.Tensor,
        module_enabled: torch.Tensor,
    ) -> None:
        """Replace `y` (requests, labels) by the adapter's own layer where it brings a whole one."""
        own = torch.zeros_like(y, dtype=torch.float32)
        for segment in self._sampled_segments():
            product = _each_slot(
                segment, segment.gather(x).to(weight_stacked.dtype), weight_stacked
            )
            _write(own, segment, product, add=False)
        y.copy_(self._select_full_linear_output(y, own, bias_stacked, module_enabled))

    def _sampled_segments(self) -> tuple[Segment, ...]:
        if self._sampled is None:
            self._sampled = group_rows(self.sampler_indices.numpy())
        return self._sampled

    def stacks_of(self, a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> StackedFactors:
        """A layer's stacks live as long as the model, so their identity is the layer's."""
        stacks = self._stacks.get(id(a[0]))
        if stacks is None:
            stacks = self._stacks[id(a[0])] = StackedFactors(a, b)
        return stacks


_QUALIFIED_NAME = f"{SegmentedLora.__module__}.{SegmentedLora.__qualname__}"


def _add_product(
    y: torch.Tensor,
    x: torch.Tensor,
    stacks: StackedFactors,
    segments: tuple[Segment, ...],
    scale: float,
) -> None:
    for segment in segments:
        factors = stacks.factors(segment.first, segment.count)
        if not factors:
            continue
        rows, outputs = segment.gather(x), segment.gather(y)
        shaped, product = outputs, torch.mm
        if segment.count > 1:
            product = torch.bmm
            rows = rows.view(segment.count, segment.width, -1)
            shaped = outputs.view(segment.count, segment.width, -1)
        for down, up, columns in factors:
            target = shaped[..., columns]
            if target.shape[-1] != up.shape[-1]:
                up = up[..., : target.shape[-1]]
            half = product(rows if rows.dtype == down.dtype else rows.to(down.dtype), down)
            if scale != 1.0:
                half.mul_(scale)
            if segment.count > 1 or target.dtype != up.dtype:
                target.add_(product(half, up))
            else:
                target.addmm_(half, up)
        segment.scatter(y, outputs)


def _each_slot(segment: Segment, rows: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
    """`rows` (count * width, inputs) times the transposed weights of each slot of the segment."""
    weights = stack[segment.first : segment.first + segment.count]
    weights = weights.view(segment.count, *weights.shape[-2:]).transpose(1, 2)
    return torch.bmm(rows.view(segment.count, segment.width, -1), weights).flatten(0, 1)


def _write(y: torch.Tensor, segment: Segment, product: torch.Tensor, *, add: bool) -> None:
    rows = segment.gather(y)
    if add:
        rows.add_(product)
    else:
        rows[:, : product.shape[-1]] = product
    segment.scatter(y, rows)


class ProbeReport(TypedDict):
    """What a worker found about its own LoRA product; plain values that cross processes."""

    active: bool
    wrapper: str
    max_error: float
    base_rows_untouched: bool


class LoraProbe:
    """A worker extension: asks a running worker whether its LoRA product is the one above."""

    def probe_cpu_lora(self) -> ProbeReport:
        """Run the worker's own kind of wrapper on a tiny step and compare with plain arithmetic.

        `active` is true only where every LoRA layer of the model uses `SegmentedLora`.
        """
        manager = self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]
        wrappers = {type(module.punica_wrapper) for module in manager.modules.values()}
        wrapper = wrappers.pop()
        active = not wrappers and wrapper is SegmentedLora
        error, untouched = probe(wrapper)
        return ProbeReport(
            active=active,
            wrapper=f"{wrapper.__module__}.{wrapper.__qualname__}",
            max_error=error,
            base_rows_untouched=untouched,
        )


def probe(wrapper: type[PunicaWrapperBase]) -> tuple[float, bool]:
    """Largest error of a CPU `wrapper` on two adapters around the base model's rows.

    Also whether these rows came out bit for bit as they went in.
    """
    slots = (1, -1, 0, 0, -1, 1, -1)
    ids = tuple(slot + 1 for slot in slots)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(slots), 8, generator=generator)
    a = torch.randn(2, 1, 4, 8, generator=generator)
    b = torch.randn(2, 1, 6, 4, generator=generator)
    before = torch.randn(len(slots), 6, generator=generator)
    product = wrapper(len(slots), len(slots), torch.device("cpu"))
    product.update_metadata(LoRAMapping(ids, ids, is_prefill=True), [1, 2], 3, 16)
    after = before.clone()
    product.add_lora_linear(after, x, (a,), (b,), 1.0, (6,))
    error, untouched = 0.0, True
    for row, slot in enumerate(slots):
        if slot < 0:
            untouched &= torch.equal(after[row], before[row])
        else:
            expected = before[row] + b[slot, 0] @ (a[slot, 0] @ x[row])
            error = max(error, float((after[row] - expected).abs().max()))
    return error, untouched
