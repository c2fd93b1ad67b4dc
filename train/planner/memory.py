"""The memory of a training run at its peak, from the model's config and the run's settings.

    training_peak(config, settings, dtype="float32", device="cpu")

A step's peak is at the start of its backward pass, when all that was kept is there: with the loss's
gradients over the vocabulary, or a moment later with one layer's. Loading may be higher still, on
a CPU, where the checkpoint is mapped into memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from train.planner.activations import Activations, Adapted, Batch
from train.planner.architecture import Architecture
from train.planner.weights import Quantization, WeightFormat
from train.settings import TrainSettings

Device = Literal["cpu", "cuda"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]

MIB = 1024**2
GIB = 1024**3
PROCESS_BYTES = {"cpu": 585 * MIB, "cuda": 640 * MIB}
"""Python with torch and the training libraries: measured on a CPU (resident set after the imports,
and what the first step loads). On a GPU the CUDA context and the workspaces of cuBLAS: assumed."""

_FLOAT32 = 4
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_SMALLEST_8BIT = 4096
"""bitsandbytes keeps the states of a smaller tensor in 32 bits."""
_BLOCK_8BIT = 256


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of a run, by what they are for; `loading` is the peak before the first step."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int
    loading: int
    process: int

    @property
    def step(self) -> int:
        """The peak of a step, the process itself not counted."""
        kept = self.weights + self.adapter + self.gradients + self.optimizer
        return kept + self.activations + self.temporary

    @property
    def peak(self) -> int:
        """The peak of the run, the process itself not counted."""
        return max(self.step, self.loading)

    @property
    def total(self) -> int:
        """The peak of the run as the operating system, or the GPU's driver, sees it."""
        return self.peak + self.process

    def as_dict(self) -> dict[str, int]:
        """All of it, in bytes."""
        return {
            "weights": self.weights,
            "adapter": self.adapter,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "temporary": self.temporary,
            "loading": self.loading,
            "process": self.process,
            "peak": self.peak,
            "total": self.total,
        }


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model is trained: by full fine-tuning where `adapted.rank` is None, else by LoRA."""

    adapted: Adapted
    batch: Batch
    quantization: Quantization
    optimizer: Optimizer
    recomputes: bool
    dtype: str
    device: Device

    @classmethod
    def of(
        cls,
        settings: TrainSettings,
        *,
        dtype: str,
        device: str,
        length: int | None = None,
        trained: int | None = None,
    ) -> "Workload":
        """The workload of a run with `settings`, all rows `length` tokens long (max_length).

        Logits are at `trained` positions of each row; by default at all of them, the worst case.
        """
        where: Device = "cpu" if device == "cpu" else "cuda"
        length = min(length or settings.max_length, settings.max_length)
        optimizer = settings.optimizer
        if optimizer == "auto":
            optimizer = "adamw" if where == "cpu" else "paged_adamw_8bit"
        recomputes = settings.gradient_checkpointing
        targets = settings.targets
        return cls(
            adapted=Adapted(
                rank=settings.rank,
                names=None if targets == "all-linear" else frozenset(targets),
                dropout=settings.dropout > 0,
            ),
            batch=Batch(
                rows=settings.batch_size,
                length=length,
                trained=min(trained or length, length),
                padded=settings.batch_size > 1 or settings.packing,
            ),
            quantization=settings.quantization,
            optimizer=optimizer,
            recomputes=where == "cuda" if recomputes == "auto" else recomputes,
            dtype=dtype,
            device=where,
        )


def training_peak(
    config: Mapping[str, Any], settings: TrainSettings, *, dtype: str, device: str
) -> int:
    """Bytes that a run with `settings` takes at its peak, on a "cpu" in RAM, else on the GPU.

    `config` is the base's config.json, `dtype` that of the arithmetic ("float32", "bfloat16"). All
    rows are taken to be max_length tokens long and trained throughout; the process itself is
    counted. Raises UnknownBase for a model that is not covered.
    """
    workload = Workload.of(settings, dtype=dtype, device=device)
    return training_memory(Architecture.of(config), workload).total


def training_memory(model: Architecture, workload: Workload) -> TrainingMemory:
    """The memory of `workload` on `model`, by what it is for."""
    width = _WIDTHS[workload.dtype]
    full = workload.adapted.rank is None
    trained = workload.adapted.parameters(model)
    activations = Activations(
        model,
        workload.adapted,
        workload.batch,
        width,
        workload.device,
        int8=workload.quantization == "int8",
    )
    weights, loading = _weights(model, workload, width)
    layer = activations.backward() + _largest_weight(model, workload, width)
    if workload.recomputes:
        kept = activations.checkpoints()
        temporary = max(activations.logits(), activations.largest_layer() + layer)
    else:
        kept = activations.all_layers()
        temporary = max(activations.logits(), layer)
    return TrainingMemory(
        weights=weights,
        adapter=0 if full else _FLOAT32 * trained,
        gradients=_FLOAT32 * trained,
        optimizer=_optimizer(model, workload),
        activations=kept,
        temporary=temporary,
        loading=loading,
        process=PROCESS_BYTES[workload.device],
    )


def _weights(model: Architecture, workload: Workload, width: int) -> tuple[int, int]:
    """Bytes of the base's weights while training, and at the peak of loading them.

    Full fine-tuning holds them in float32, and autocast a copy of each in the arithmetic's width.
    A CPU's weights that are stored in the arithmetic's width stay in the mapped checkpoint, which
    counts as a whole, and so do its pages while the others are read.
    """
    if workload.adapted.rank is None:
        held = model.parameters * (_FLOAT32 + (width if width < _FLOAT32 else 0))
        return held, held
    form = WeightFormat(width, workload.quantization)
    if workload.device == "cuda":
        held = form.total(model)
        return held, held
    mapped = model.parameters * model.stored_bytes
    if model.stored_bytes == width:
        held = mapped if workload.quantization == "none" else mapped + form.linears(model)
        return held, held
    return form.total(model), mapped + form.total(model)


def _largest_weight(model: Architecture, workload: Workload, width: int) -> int:
    """The one weight that is de-quantised at a time."""
    if workload.quantization == "none":
        return 0
    return width * max(linear.weight for linear in model.linears)


def _optimizer(model: Architecture, workload: Workload) -> int:
    """AdamW's two moments, in float32 or in 8 bits with a float32 scale a block of 256.

    T. Dettmers et al., "8-bit optimizers via block-wise quantization" (2022).
    """
    adapted = workload.adapted
    moments = 2 * adapted.parameters(model)
    if workload.optimizer == "adamw":
        return _FLOAT32 * moments
    small = 0
    if adapted.rank is not None:
        halves = (
            adapted.rank * features
            for linear in model.linears
            if adapted.covers(linear)
            for features in (linear.outputs, linear.inputs)
        )
        small = 2 * sum(half for half in halves if half < _SMALLEST_8BIT)
    return _FLOAT32 * small + (moments - small) + _FLOAT32 * ((moments - small) // _BLOCK_8BIT)
