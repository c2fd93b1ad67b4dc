"""What a model's weights take in each format, as bitsandbytes lays them out.

4-bit: T. Dettmers et al., "QLoRA: efficient finetuning of quantized LLMs" (2023), sections 3 and 4;
8-bit: T. Dettmers et al., "LLM.int8(): 8-bit matrix multiplication for transformers at scale"
(2022). Linear modules are quantised; embeddings, norms, the head and fused experts are not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from train.planner.architecture import Architecture, Layer, Linear

Quantization = Literal["none", "int8", "int4", "nf4"]

_BLOCK = 64
"""Weights that share a scale."""
_NESTED_BLOCK = 256
"""Scales that share a scale, with double quantisation."""


def _blocks(elements: int, size: int) -> int:
    return -(-elements // size)


def packed_bytes(elements: int) -> int:
    """The 4-bit numbers alone, two a byte."""
    return _blocks(elements, 2)


def nf4_bytes(elements: int, *, double: bool = True) -> int:
    """A 4-bit weight: the packed weight, its scales, the code book.

    With double quantisation scales are 8-bit, with a scale of theirs, a code book and an offset.
    """
    scales = _blocks(elements, _BLOCK)
    packed = packed_bytes(elements) + 16 * 4
    if not double:
        return packed + 4 * scales
    return packed + scales + 4 * _blocks(scales, _NESTED_BLOCK) + 256 * 4 + 4


def int8_bytes(linear: Linear) -> int:
    """An LLM.int8() weight: a byte an element and a float32 scale a row."""
    return linear.weight + 4 * linear.outputs


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How weights are held: `width` bytes an element, linear modules quantised or not."""

    width: int
    quantization: Quantization = "none"

    def linear(self, linear: Linear) -> int:
        """Bytes of one linear module, its bias in `width`."""
        bias = (linear.parameters - linear.weight) * self.width
        sizes: dict[Quantization, Callable[[], int]] = {
            "none": lambda: linear.weight * self.width,
            "int8": lambda: int8_bytes(linear),
            "int4": lambda: nf4_bytes(linear.weight, double=False),
            "nf4": lambda: nf4_bytes(linear.weight),
        }
        return sizes[self.quantization]() + bias

    def layer(self, layer: Layer) -> int:
        """Bytes of one decoder layer."""
        plain = layer.norms + (layer.experts.parameters if layer.experts else 0)
        return sum(self.linear(linear) for linear in layer.linears) + plain * self.width

    def linears(self, model: Architecture) -> int:
        """Bytes of all that is quantised."""
        return sum(self.linear(linear) for linear in model.linears)

    def rest(self, model: Architecture) -> int:
        """Bytes of embeddings, norms, experts and the head."""
        plain = model.parameters - sum(linear.parameters for linear in model.linears)
        return plain * self.width

    def total(self, model: Architecture) -> int:
        """Bytes of the whole model."""
        return self.linears(model) + self.rest(model)

    def largest_layer(self, model: Architecture) -> int:
        """Bytes of the largest layer, or of the embedding where that is larger."""
        return max(model.embedding * self.width, *(self.layer(layer) for layer in model.layers))
