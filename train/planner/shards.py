"""The part of a model that one of several GPUs holds, as vLLM 0.32 cuts it to serve.

Tensor parallelism cuts every layer: queries, gate and up by their outputs, the attention's output
and down by their inputs, experts by their width, the embedding by its padded vocabulary. Keys and
values are cut by heads, and repeated where there are fewer heads than GPUs. Norms are on every GPU.
Pipeline parallelism gives each stage some of the layers, the first one the embedding and the last
one the head.
"""

from dataclasses import dataclass, replace

from registry.base_shards import VOCABULARY_BLOCK
from train.planner.architecture import Architecture, Experts, Layer, Linear

_BY_INPUTS = frozenset({"o_proj", "down_proj"})
_KEYS = frozenset({"k_proj", "v_proj"})
_WHOLE = frozenset({"shared_expert_gate"})


@dataclass(frozen=True, slots=True)
class Spread:
    """Each layer over `tensor` GPUs, the layers over `pipeline` stages of as many."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline

    def share(self, model: Architecture) -> Architecture:
        """What the GPU holds that holds most of `model`, as a model of its own."""
        if self.gpus == 1:
            return model
        stages = [
            replace(
                model,
                heads=model.heads // self.tensor,
                kv_heads=max(1, model.kv_heads // self.tensor),
                vocabulary=self._vocabulary(model),
                # With stages none holds both the embedding and the head.
                tied=model.tied or self.pipeline > 1,
                layers=tuple(self._layer(model, layer) for layer in stage),
            )
            for stage in self._stages(model)
        ]
        return max(stages, key=lambda stage: stage.parameters)

    def _vocabulary(self, model: Architecture) -> int:
        blocks = -(-model.vocabulary // VOCABULARY_BLOCK)
        return blocks * VOCABULARY_BLOCK // self.tensor if self.tensor > 1 else model.vocabulary

    def _stages(self, model: Architecture) -> list[tuple[Layer, ...]]:
        """The layers of each stage; what is left over goes to the later ones, not to the last."""
        each, over = divmod(len(model.layers), self.pipeline)
        counts = [each] * self.pipeline
        for place in range(2, over + 2):
            counts[-place] += 1
        stages, start = [], 0
        for count in counts:
            stages.append(model.layers[start : start + count])
            start += count
        return stages

    def _layer(self, model: Architecture, layer: Layer) -> Layer:
        return replace(
            layer,
            linears=tuple(self._linear(model, linear) for linear in layer.linears),
            inner=layer.inner // self.tensor,
            experts=self._experts(layer.experts) if layer.experts else None,
        )

    def _experts(self, experts: Experts) -> Experts:
        return replace(experts, inner=experts.inner // self.tensor)

    def _linear(self, model: Architecture, linear: Linear) -> Linear:
        kind = linear.name.rpartition(".")[2]
        if kind in _WHOLE:
            return linear
        if kind in _BY_INPUTS:
            return replace(linear, inputs=linear.inputs // self.tensor)
        keys = max(1, model.kv_heads // self.tensor) * model.head_dim
        if kind in _KEYS:
            return replace(linear, outputs=keys)
        if kind == "qkv_proj":
            queries = model.heads * model.head_dim // self.tensor
            return replace(linear, outputs=queries + 2 * keys)
        return replace(linear, outputs=linear.outputs // self.tensor)


ALONE = Spread()
"""One GPU."""
