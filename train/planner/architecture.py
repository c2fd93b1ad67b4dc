"""The shapes of a model, from its config.json: layers, their linear modules, embeddings, windows.

Grouped-query attention, mixtures of experts, tied embeddings, a head_dim of its own and sliding
windows are covered, for the families of `train.planner.families`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry import UnknownBase
from train.planner.families import FAMILIES, Family

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear module of a layer: weight (outputs, inputs), by its name within the layer."""

    name: str
    outputs: int
    inputs: int
    bias: bool = False

    @property
    def weight(self) -> int:
        """Elements of the weight."""
        return self.outputs * self.inputs

    @property
    def parameters(self) -> int:
        """Elements of weight and bias."""
        return self.weight + (self.outputs if self.bias else 0)

    def lora(self, rank: int) -> int:
        """Elements of a LoRA adapter of `rank` on it."""
        return rank * (self.outputs + self.inputs)


@dataclass(frozen=True, slots=True)
class Experts:
    """Expert MLPs of a layer, of which a token takes `active`; `inner` is their width.

    transformers holds them in one tensor a layer, which is neither quantised by bitsandbytes nor
    adapted by `all-linear`.
    """

    count: int
    active: int
    inner: int
    hidden: int

    @property
    def parameters(self) -> int:
        """Elements of all experts and of the router."""
        return self.count * (3 * self.hidden * self.inner + self.hidden)

    @property
    def active_parameters(self) -> int:
        """Of these, those that a token goes through."""
        return self.active * 3 * self.hidden * self.inner + self.count * self.hidden

    def lora(self, rank: int) -> int:
        """Elements of vLLM's slot for an adapter of `rank` on experts and router."""
        return rank * (self.count * 3 * (self.hidden + self.inner) + self.hidden + self.count)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; `norms` counts the elements of its norms, `inner` is its MLP's width.

    `inner` is 0 where all of the MLP is in the experts. `window` is the furthest that attention
    looks back, in tokens; None: everything.
    """

    linears: tuple[Linear, ...]
    norms: int
    inner: int
    experts: Experts | None
    window: int | None

    @property
    def parameters(self) -> int:
        """All elements of the layer."""
        inside = sum(linear.parameters for linear in self.linears)
        return inside + self.norms + (self.experts.parameters if self.experts else 0)

    @property
    def linear_weights(self) -> int:
        """The elements that bitsandbytes quantises."""
        return sum(linear.weight for linear in self.linears)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only model. Sizes are elements; `stored_bytes` is the width of one on the disk."""

    family: Family
    model_type: str
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    tied: bool
    stored_bytes: int
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Architecture":
        """Read a config.json. Raises UnknownBase for a model type not covered, or without shape."""
        model_type = str(config.get("model_type"))
        if model_type not in FAMILIES:
            raise UnknownBase(
                f"the planner does not cover models of type {model_type}",
                remedy=f"it covers {', '.join(sorted(FAMILIES))}",
            )
        try:
            return cls._read(config, model_type)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UnknownBase(
                f"config.json does not give the model's shape: {error}",
                remedy="name the config.json of a whole model",
            ) from error

    @classmethod
    def _read(cls, config: Mapping[str, Any], model_type: str) -> "Architecture":
        family = FAMILIES[model_type]
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        count = int(config["num_hidden_layers"])
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        shape = _Shape(
            config=config,
            family=family,
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or family.head_dim or hidden // heads),
        )
        sizes = (hidden, heads, shape.kv_heads, shape.head_dim, count, int(config["vocab_size"]))
        if min(sizes) < 1:
            raise ValueError(f"sizes have to be positive, not {sizes}")
        tied = config.get("tie_word_embeddings")
        return cls(
            family=family,
            model_type=model_type,
            hidden=hidden,
            vocabulary=int(config["vocab_size"]),
            heads=heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            positions=int(config.get("max_position_embeddings") or 2048),
            tied=family.tied if tied is None else bool(tied),
            stored_bytes=_DTYPE_BYTES.get(dtype.removeprefix("torch."), 4),
            layers=tuple(shape.layer(index) for index in range(count)),
        )

    @property
    def embedding(self) -> int:
        """Elements of the token embedding, and of an output head."""
        return self.vocabulary * self.hidden

    @property
    def head(self) -> int:
        """Elements of an output head of its own; 0 where it is the embedding."""
        return 0 if self.tied else self.embedding

    @property
    def parameters(self) -> int:
        """All elements."""
        inside = sum(layer.parameters for layer in self.layers)
        return self.embedding + inside + self.hidden + self.head

    @property
    def active_parameters(self) -> int:
        """The elements that a token goes through: all, but for the experts not chosen."""
        idle = sum(
            layer.experts.parameters - layer.experts.active_parameters
            for layer in self.layers
            if layer.experts
        )
        return self.parameters - idle

    @property
    def linear_weights(self) -> int:
        """The elements that bitsandbytes quantises: linear weights but the head's."""
        return sum(layer.linear_weights for layer in self.layers)

    @property
    def linears(self) -> Iterator[Linear]:
        """Every linear module of every layer, the head not among them."""
        return (linear for layer in self.layers for linear in layer.linears)

    @property
    def largest_layer(self) -> int:
        """Elements of the largest piece that one device has to hold: a layer or the embedding."""
        return max(self.embedding, *(layer.parameters for layer in self.layers))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Makes the layers of one config."""

    config: Mapping[str, Any]
    family: Family
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    def layer(self, index: int) -> Layer:
        """The layer at `index`, from 0."""
        sparse = self._is_sparse(index)
        inner = 0 if sparse else int(self.config["intermediate_size"])
        has_shared = sparse and self.family.shared_expert
        shared = int(self.config["shared_expert_intermediate_size"]) if has_shared else 0
        linears = (*self._attention(), *self._mlp(inner, "mlp"))
        if shared:
            linears += (
                *self._mlp(shared, "mlp.shared_expert"),
                Linear("mlp.shared_expert_gate", 1, self.hidden),
            )
        return Layer(
            linears=linears,
            norms=self.family.norms * self.hidden + self._query_norms(),
            inner=inner or shared,
            experts=self._experts() if sparse else None,
            window=self._window(index),
        )

    def _attention(self) -> tuple[Linear, ...]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention_bias = bool(self.config.get("attention_bias"))
        key = self.family.qkv_bias
        bias = {
            "always": True,
            "never": False,
            "attention_bias": attention_bias,
            "qkv_bias": bool(self.config.get("qkv_bias", True)),
        }[key]
        output = Linear(
            "self_attn.o_proj",
            self.hidden,
            queries,
            attention_bias and key == "attention_bias" and self.family.output_bias,
        )
        if self.family.fused:
            return (
                Linear("self_attn.qkv_proj", queries + 2 * keys, self.hidden, bias),
                output,
            )
        return (
            Linear("self_attn.q_proj", queries, self.hidden, bias),
            Linear("self_attn.k_proj", keys, self.hidden, bias),
            Linear("self_attn.v_proj", keys, self.hidden, bias),
            output,
        )

    def _mlp(self, inner: int, place: str) -> tuple[Linear, ...]:
        if not inner:
            return ()
        bias = self.family.mlp_bias and bool(self.config.get("mlp_bias"))
        down = Linear(f"{place}.down_proj", self.hidden, inner, bias)
        if self.family.fused:
            return (Linear(f"{place}.gate_up_proj", 2 * inner, self.hidden, bias), down)
        return (
            Linear(f"{place}.gate_proj", inner, self.hidden, bias),
            Linear(f"{place}.up_proj", inner, self.hidden, bias),
            down,
        )

    def _is_sparse(self, index: int) -> bool:
        if self.family.experts is None:
            return False
        every = int(self.config.get("decoder_sparse_step") or 1)
        dense = self.config.get("mlp_only_layers") or ()
        return index not in dense and (index + 1) % every == 0

    def _experts(self) -> Experts:
        assert self.family.experts is not None
        inner = self.config.get("moe_intermediate_size") or self.config["intermediate_size"]
        return Experts(
            count=int(self.config[self.family.experts]),
            active=int(self.config["num_experts_per_tok"]),
            inner=int(inner),
            hidden=self.hidden,
        )

    def _query_norms(self) -> int:
        if self.family.query_norm == "head":
            return 2 * self.head_dim
        if self.family.query_norm == "whole":
            return (self.heads + self.kv_heads) * self.head_dim
        return 0

    def _window(self, index: int) -> int | None:
        config, family = self.config, self.family
        window = config.get("sliding_window", family.window_default)
        kinds = config.get("layer_types")
        if not window or family.window == "never":
            return None
        if family.window == "late" and not config.get("use_sliding_window"):
            return None
        if isinstance(kinds, list) and index < len(kinds):
            return int(window) if kinds[index] == "sliding_attention" else None
        if family.window == "late":
            return int(window) if index >= int(config.get("max_window_layers", 28)) else None
        if family.window == "pattern":
            every = int(config.get("sliding_window_pattern") or family.pattern)
            return int(window) if (index + 1) % every else None
        return int(window)
