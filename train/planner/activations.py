"""What PyTorch keeps of a forward pass for the backward pass, tensor by tensor.

Counted from the modelling code of transformers 5.19 (Llama and its like), PEFT's LoRA layers and
SDPA, and compared with `torch.autograd.graph.saved_tensors_hooks` in the tests. The form is that of
V. Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022),
section 4, with grouped-query attention, a gated MLP, no dropout mask of the model's own and
attention that keeps no (sequence × sequence) matrix.
"""

from dataclasses import dataclass
from typing import Literal

from train.planner.architecture import Architecture, Experts, Layer, Linear

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: `rows` of `length` tokens, logits at `trained` positions of each.

    With `padded`, rows differ in length: attention then takes a mask and repeated keys and values.
    """

    rows: int
    length: int
    trained: int
    padded: bool

    @property
    def tokens(self) -> int:
        """Tokens of the pass, padding included."""
        return self.rows * self.length


@dataclass(frozen=True, slots=True)
class Adapted:
    """What is trained: the linear modules of `names` (last components), by LoRA, or all weights.

    `names` None means all linear modules, `rank` None full fine-tuning.
    """

    rank: int | None
    names: frozenset[str] | None = None
    dropout: bool = False

    def covers(self, linear: Linear) -> bool:
        """Whether `linear` is trained or adapted."""
        return self.names is None or linear.name.rpartition(".")[2] in self.names

    def parameters(self, model: Architecture) -> int:
        """Trained elements."""
        if self.rank is None:
            return model.parameters
        return sum(linear.lora(self.rank) for linear in model.linears if self.covers(linear))


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes kept for the backward pass; `width` is that of the arithmetic, in bytes."""

    model: Architecture
    adapted: Adapted
    batch: Batch
    width: int
    device: Literal["cpu", "cuda"] = "cpu"
    int8: bool = False
    """Whether linear modules are LLM.int8()'s."""

    def layer(self, layer: Layer) -> int:
        """Bytes that one decoder layer keeps."""
        a_token = (
            self._norms(layer)
            + self._attention(layer)
            + self._mlp(layer.inner)
            + (self._experts(layer.experts) if layer.experts else 0)
            + sum(self._linear(linear) for linear in layer.linears)
            + sum(self.width * size for size in self._inputs(layer).values())
        )
        mask = self.batch.length**2 * self.batch.rows * self.width if self._masked(layer) else 0
        return a_token * self.batch.tokens + mask

    def all_layers(self) -> int:
        """Bytes that all layers and the last norm keep, nothing being recomputed."""
        return sum(self.layer(layer) for layer in self.model.layers) + self._around()

    def checkpoints(self) -> int:
        """Bytes of the layers' inputs alone: what recomputation keeps."""
        inputs = len(self.model.layers) * self.model.hidden * self.width * self.batch.tokens
        return inputs + self._around()

    def largest_layer(self) -> int:
        """Bytes of the layer that keeps most: what recomputation has at a time."""
        return max(self.layer(layer) for layer in self.model.layers)

    def logits(self) -> int:
        """Bytes of the loss at its peak: float32 log-probabilities and their two gradients."""
        return 3 * _FLOAT32 * self.model.vocabulary * self.batch.rows * self.batch.trained

    def backward(self) -> int:
        """Bytes of the gradients in flight within one layer."""
        inner = max(
            max(layer.inner, layer.experts.active * layer.experts.inner if layer.experts else 0)
            for layer in self.model.layers
        )
        return (4 * inner + 2 * self.model.hidden) * self.width * self.batch.tokens

    def _around(self) -> int:
        """The last norm, the rotary cosines and sines, the mask that the layers share."""
        a_token = _FLOAT32 * (self.model.hidden + 1) + 2 * self.model.head_dim * self.width
        mask = self.batch.rows * self.batch.length**2 if self.batch.padded else 0
        return a_token * self.batch.tokens + mask

    def _norms(self, layer: Layer) -> int:
        # Each keeps its input in float32 (in float32 that is the residual stream itself) and the
        # inverse root mean square; one whose weight is trained also what the weight multiplies.
        elements = self.model.family.norms * (self.model.hidden + 1)
        if self.model.family.query_norm != "none":
            elements += (self.model.heads + self.model.kv_heads) * (self.model.head_dim + 1)
        trained = layer.norms * self.width if self.adapted.rank is None else 0
        return elements * _FLOAT32 + trained

    def _masked(self, layer: Layer) -> bool:
        """Whether attention takes a mask, for the padding or a window; else it is just causal."""
        return self.batch.padded or bool(layer.window and layer.window < self.batch.length)

    def _attention(self, layer: Layer) -> int:
        # Rotated queries and keys, values, the output, and the log-sum-exp of each head. With a
        # mask keys and values are repeated for the heads that share them.
        queries = self.model.heads * self.model.head_dim
        keys = own = self.model.kv_heads * self.model.head_dim
        if self._masked(layer):
            keys = queries
        kept = 2 * queries + 2 * keys
        if self.model.family.fused and keys == own:
            kept += queries + own  # values that are a part of a fused result keep the whole of it
        return kept * self.width + self.model.heads * _FLOAT32

    def _mlp(self, inner: int) -> int:
        # gate, act(gate), up; their product is an input of the down projection.
        return 3 * inner * self.width

    def _experts(self, experts: Experts) -> int:
        kept = experts.active * (3 * experts.inner + experts.hidden) * self.width
        if self.adapted.rank is None:
            kept += experts.active * (experts.hidden + experts.inner) * self.width
        return kept + 2 * experts.count * _FLOAT32

    def _inputs(self, layer: Layer) -> dict[str, int]:
        """Elements of the inputs that adapted modules keep, those that share one counted once.

        The output projection's input is kept by the attention already. With dropout each module
        keeps its own instead.
        """
        if self.adapted.dropout:
            return {}
        inputs: dict[str, int] = {}
        for linear in layer.linears:
            kind = linear.name.rpartition(".")[2]
            if self.adapted.covers(linear) and kind != "o_proj":
                place = linear.name if kind == "down_proj" else linear.name.split(".")[0]
                inputs[place] = linear.inputs
        return inputs

    def _linear(self, linear: Linear) -> int:
        # MatMul8bitLt keeps its input in float16.
        kept = 2 * linear.inputs if self.int8 and self.device == "cuda" else 0
        if not self.adapted.covers(linear) or self.adapted.rank is None:
            return kept
        kept += self.adapted.rank * self.width
        if self.adapted.dropout:
            # The input with holes, and the mask: on a CPU as wide as the input.
            kept += linear.inputs * (self.width + (self.width if self.device == "cpu" else 1))
        return kept
