"""How long a run would take on this machine, and how much memory: estimates, said to be such.

Time is the run's floating-point operations over the speed of a matrix product that is measured
here. A frozen layer of N weights costs 2N operations a token forward and 2N backward, for the
gradient of its input alone (J. Kaplan et al., "Scaling laws for neural language models", 2020,
section 2.1, less the gradient of the weights); recomputing activations adds 2N, attention and
the output head are added. What a run spends beside products (dequantising, norms, softmax) takes
about as long again on small models: EFFICIENCY.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry import Base, UnknownBase
from registry.base_modules import linear_modules
from train.data.masking import EncodedChat
from train.hardware import Hardware, detect
from train.settings import TrainSettings

EFFICIENCY = 0.5
"""Share of the measured speed that a training step reaches."""
_MEASURED_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the training alone, without evaluation. `memory_bytes` None: the planner cannot tell."""

    steps: int
    tokens: int
    operations: float
    operations_per_second: float
    seconds: float
    memory_bytes: int | None
    device: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def estimate_run(rows: Sequence[EncodedChat], settings: TrainSettings, base: Base) -> Estimate:
    """Time and memory of training on `rows`, which there is at least one of."""
    hardware = detect(settings)
    count = min(len(rows), settings.max_rows or len(rows))
    a_step = settings.batch_size * settings.gradient_accumulation
    steps = max(1, math.ceil(math.ceil(count / a_step) * settings.epochs))
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
    tokens_a_row = sum(row.length for row in rows) / len(rows)
    trained_a_row = sum(row.trained_tokens for row in rows) / len(rows)
    seen = min(steps * a_step, count * settings.epochs)
    passes = 3 if _recomputes(settings, hardware) else 2
    operations = seen * (
        tokens_a_row * _layers(base) * 2 * passes
        + tokens_a_row * _attention(base, tokens_a_row) * (passes + 1)
        + trained_a_row * _head(base) * 4
    )
    speed = _speed(hardware, base, round(tokens_a_row * settings.batch_size))
    return Estimate(
        steps=steps,
        tokens=round(seen * tokens_a_row),
        operations=operations,
        operations_per_second=speed,
        seconds=operations / (speed * EFFICIENCY),
        memory_bytes=_memory(max(row.longest for row in rows), settings, hardware, base),
        device=hardware.device,
    )


def _recomputes(settings: TrainSettings, hardware: Hardware) -> bool:
    if settings.gradient_checkpointing == "auto":
        return hardware.device == "cuda"
    return settings.gradient_checkpointing


def _layers(base: Base) -> int:
    """Weights of the linear layers that each token goes through, without the output head."""
    modules = linear_modules(base.path)
    return sum(
        outputs * inputs for name, (outputs, inputs) in modules.items() if "lm_head" not in name
    )


def _attention(base: Base, length: float) -> float:
    """Operations a token forward: queries by keys, weights by values, half of them masked."""
    config = base.config
    heads = config.get("num_attention_heads") or 0
    width = config.get("head_dim") or (config.get("hidden_size") or 0) // max(1, heads)
    return float(2 * length * heads * width * (config.get("num_hidden_layers") or 0))


def _head(base: Base) -> int:
    """Weights of the output head, which is computed where an answer is predicted."""
    return (base.config.get("vocab_size") or 0) * (base.config.get("hidden_size") or 0)


def _speed(hardware: Hardware, base: Base, tokens: int) -> float:
    """Operations a second of a product of the run's shape, in its dtype, on its device."""
    import torch

    torch.set_num_threads(hardware.threads)
    hidden = base.config.get("hidden_size") or 1024
    inner = base.config.get("intermediate_size") or 4 * hidden
    tokens = max(1, min(tokens, 2048))
    options: Any = {"dtype": hardware.torch_dtype, "device": hardware.device}
    left, right = torch.ones(tokens, hidden, **options), torch.ones(hidden, inner, **options)

    def run() -> float:
        start = time.perf_counter()
        left @ right
        if hardware.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run()
    times: list[float] = []
    while sum(times) < _MEASURED_SECONDS and len(times) < 200:
        times.append(run())
    median = sorted(times)[len(times) // 2]
    return 2.0 * tokens * hidden * inner / max(median, 1e-9)


def _memory(length: int, settings: TrainSettings, hardware: Hardware, base: Base) -> int | None:
    from train.planner.memory import training_peak

    longest = settings.model_copy(update={"max_length": max(8, length)})
    try:
        return training_peak(base.config, longest, dtype=hardware.dtype, device=hardware.device)
    except UnknownBase:  # a kind of model that the planner does not cover
        return None
