"""Hugging Face's model memory calculator, to its last printed digit, then and now.

The formulas are those of accelerate's `commands/estimate.py` (`estimate_training_usage`) and of the
space hf-accelerate/model-memory-usage: the model is `AutoModel`, so the output head is not counted;
sizes are float32's, divided by 2, 4 or 8; units are of 1024. What the source material prints was
made with a transformers that kept a float32 cache of rotary cosines and sines, over all positions,
in every layer; today's computes them when they are needed.
"""

from dataclasses import dataclass

from train.planner.architecture import Architecture

_FLOAT32 = 4
DIVISORS = {"float32": 1, "float16/bfloat16": 2, "int8": 4, "int4": 8}


@dataclass(frozen=True, slots=True)
class InferenceRow:
    """A line of the calculator's first table, in bytes; `adam` is its "training using Adam"."""

    dtype: str
    largest_layer: float
    total: float
    adam: float


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A line of its second table, for a batch of 1: the peak at each part of a step, in bytes."""

    dtype: str
    model: float
    gradients: float
    backward: float
    step: float


@dataclass(frozen=True, slots=True)
class Calculator:
    """The calculator on a model; with `rope_caches` as it was, without as it is today."""

    model: Architecture
    rope_caches: bool

    @property
    def total(self) -> int:
        """Bytes in float32, without the output head."""
        parameters = self.model.parameters - self.model.head
        return _FLOAT32 * parameters + len(self.model.layers) * self._cache

    @property
    def largest_layer(self) -> int:
        """Bytes in float32 of the largest layer, or of the embedding."""
        layers = (_FLOAT32 * layer.parameters + self._cache for layer in self.model.layers)
        return max(_FLOAT32 * self.model.embedding, *layers)

    def inference(self) -> list[InferenceRow]:
        """The first table."""
        return [
            InferenceRow(
                dtype,
                self.largest_layer / divisor,
                self.total / divisor,
                4 * self.total / divisor,
            )
            for dtype, divisor in DIVISORS.items()
        ]

    def training(self) -> list[TrainingRow]:
        """The second table; in 16 bits the weights are kept in float32 and copied."""
        whole = self.total
        return [
            TrainingRow("float32", whole, whole, 2 * whole, 4 * whole),
            TrainingRow("float16/bfloat16", whole, 1.5 * whole, 2 * whole, 2 * whole),
        ]

    @property
    def _cache(self) -> int:
        """Bytes of a layer's cosines and sines: (positions, head_dim) each, in float32."""
        if not self.rope_caches:
            return 0
        return 2 * self.model.positions * self.model.head_dim * _FLOAT32


def as_printed(size: float) -> str:
    """A size as accelerate's `convert_bytes` prints it: two digits, in units of 1024."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1024:
            return f"{round(size, 2)} {unit}"
        size /= 1024
    return f"{round(size, 2)} PB"
