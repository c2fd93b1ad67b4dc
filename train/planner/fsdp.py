"""QLoRA with the base in shards over several GPUs of FSDP: the memory of each of them.

Weights, adapter, gradients and optimiser states are shared out; the scales of 4-bit weights, which
FSDP does not know of, are on every GPU. A layer is whole on all of them while it computes, the next
one is fetched meanwhile, and what is in no layer (embedding, head) stays whole throughout a step.
"""

from dataclasses import replace

from train.planner.architecture import Architecture
from train.planner.memory import TrainingMemory, Workload, training_memory
from train.planner.weights import WeightFormat, packed_bytes

_WIDTH = 2
_LAYERS_AT_ONCE = 2
"""The one that computes and the one that is fetched."""


def fsdp_memory(model: Architecture, workload: Workload, gpus: int) -> TrainingMemory:
    """The memory of each of `gpus` GPUs, with `workload`'s rows on each; sizes in bytes."""
    alone = training_memory(model, replace(workload, optimizer="adamw"))
    form = WeightFormat(_WIDTH, workload.quantization)
    scales = _scales(model) if workload.quantization == "nf4" else 0
    sharded, whole = form.total(model) - scales, form.rest(model)
    layer = max(form.layer(each) for each in model.layers)
    weights = sharded // gpus + scales + whole + _LAYERS_AT_ONCE * layer
    return replace(
        alone,
        weights=weights,
        adapter=alone.adapter // gpus,
        gradients=alone.gradients // gpus,
        optimizer=alone.optimizer // gpus,
        loading=weights,
    )


def _scales(model: Architecture) -> int:
    form = WeightFormat(_WIDTH, "nf4")
    return sum(form.linear(each) - packed_bytes(each.weight) for each in model.linears)
