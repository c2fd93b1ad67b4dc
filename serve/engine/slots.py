"""The slots of the CPU engine: an adapter gets into one without a detour.

vLLM zeroes a slot up to the largest rank that the server admits before it copies the weights,
which takes longer than the copy and happens inside a step, while everyone waits.
"""

from typing import Any

from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.model_manager import LRUCacheLoRAModelManager

from serve.engine.cpu_lora import SegmentedLora
from serve.engine.stacked import StackedFactors


class SlotManager(LRUCacheLoRAModelManager):  # type: ignore[misc]
    """vLLM's manager of slots, with another way to fill one."""

    @classmethod
    def take_over(cls, manager: LRUCacheLoRAModelManager) -> None:
        """Turn a manager that has not held an adapter yet into one of these."""
        assert not manager._active_adapters
        manager.__class__ = cls
        for module in manager.modules.values():
            if _direct(module):
                _stacks(module).assume_empty()

    def activate_adapter(self, lora_id: int) -> bool:
        """Give an adapter a slot, the least recently used one's where none is free."""
        active = self._active_adapters
        if lora_id in active:
            active.touch(lora_id)
            return False
        if len(active) >= self.lora_slots:
            active.remove_oldest()
        model = self._registered_adapters[lora_id]
        slot = self.lora_index_to_id.index(None)
        active[lora_id] = None
        self.lora_index_to_id[slot] = lora_id
        for name, module in self.modules.items():
            weights = self._get_lora_layer_weights(model, name)
            if not _write(module, slot, weights):
                if weights is None:
                    module.reset_lora(slot)
                else:
                    module.set_lora(slot, weights.lora_a, weights.lora_b)
        return True


def _direct(module: Any) -> bool:
    """Whether this is a layer whose slots can be written without vLLM's help."""
    return (
        isinstance(module, BaseLinearLayerWithLoRA)
        and module.tp_size == 1
        and isinstance(module.punica_wrapper, SegmentedLora)
    )


def _stacks(module: Any) -> StackedFactors:
    stacks: StackedFactors = module.punica_wrapper.stacks_of(
        module.lora_a_stacked, module.lora_b_stacked
    )
    return stacks


def _write(module: Any, slot: int, weights: Any) -> bool:
    """Whether the weights could be written directly."""
    if not _direct(module):
        return False
    down: Any = [None] * module.n_slices
    up: Any = [None] * module.n_slices
    if weights is not None:
        down, up = weights.lora_a, weights.lora_b
        if not isinstance(down, list):
            down, up = [down], [up]
    stacks = _stacks(module)
    if not stacks.fits(down, up):
        return False
    stacks.write(slot, down, up)
    return True
