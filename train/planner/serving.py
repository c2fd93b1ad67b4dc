"""What fits on a GPU that serves: weights, the KV cache, slots of adapters.

vLLM keeps `max_loras` slots, each as large as an adapter of `max_lora_rank` on every linear module
that it could adapt, whatever is loaded; other adapters wait in the machine's memory. The rest of
its share of the card is KV cache.
"""

from dataclasses import dataclass

from train.planner.architecture import Architecture
from train.planner.memory import GIB
from train.planner.shards import ALONE, Spread
from train.planner.weights import Quantization, WeightFormat
from train.settings import SERVABLE_RANK

CHAT_TOKENS = 4096
SLOTS = (0, 1, 8, 16, 32, 64)
UTILISATION = 0.9
"""Share of a card that the engine takes (`lorikeet serve --gpu-memory-utilization`)."""

_WIDTH = 2
_KV_BLOCK = 16
_CONTEXT = int(1.5 * GIB)
"""CUDA context, CUDA graphs and workspaces: assumed."""
_COLLECTIVES = GIB // 2
"""What the GPUs of one engine talk to each other through: assumed."""
_BATCHED_TOKENS = 8192
_SEQUENCES = 32
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class Fit:
    """How many chats of 4,096 tokens one card holds beside `slots` adapters; None: not even it."""

    slots: int
    chats: int | None


@dataclass(frozen=True, slots=True)
class CardPlan:
    """One card and one format of the weights; `most_slots` leaves room for one chat."""

    card: int
    quantization: Quantization
    weights: int
    free: int
    most_slots: int
    fits: tuple[Fit, ...]


@dataclass(frozen=True, slots=True)
class Serving:
    """A model on vLLM with adapters of `rank`; 16-bit arithmetic and KV cache.

    With a `spread` over several GPUs sizes are those on one of them, the one that holds most; only
    an adapter's file is whole. All of them hold a part of each chat and of each adapter.
    """

    model: Architecture
    rank: int
    spread: Spread = ALONE

    @property
    def share(self) -> Architecture:
        """What one GPU holds of the model."""
        return self.spread.share(self.model)

    @property
    def slot_rank(self) -> int:
        """The rank that a slot has room for: the server's default, or the next that it takes."""
        return next(rank for rank in _RANKS if rank >= max(self.rank, SERVABLE_RANK))

    @property
    def kv_token(self) -> int:
        """Bytes of the keys and values of one token, in all layers."""
        return len(self.share.layers) * self._kv_layer

    def kv_chat(self, tokens: int = CHAT_TOKENS) -> int:
        """Bytes of a chat; a layer with a sliding window keeps no more than the window."""
        kept = 0
        for layer in self.share.layers:
            seen = min(tokens, layer.window) if layer.window else tokens
            kept += -(-seen // _KV_BLOCK) * _KV_BLOCK
        return kept * self._kv_layer

    @property
    def slot(self) -> int:
        """Bytes of one slot, as vLLM lays it out: each module's A and B, experts and router too."""
        rank, share = self.slot_rank, self.share
        elements = sum(linear.lora(rank) for linear in share.linears)
        elements += sum(layer.experts.lora(rank) for layer in share.layers if layer.experts)
        if self.model.family.vocabulary_slots:  # whole on every GPU
            ends = 2 if self.spread.pipeline == 1 else 1
            elements += ends * rank * (self.model.vocabulary + self.model.hidden)
        return elements * _WIDTH

    @property
    def adapter_file(self) -> int:
        """Bytes of one adapter of `rank` on the disk, in float32, as `lorikeet train` writes it."""
        return 4 * sum(linear.lora(self.rank) for linear in self.model.linears)

    @property
    def reserve(self) -> int:
        """Bytes that the engine needs to compute with: one batch's activations and logits."""
        inner = max(
            max(layer.inner, layer.experts.active * layer.experts.inner if layer.experts else 0)
            for layer in self.share.layers
        )
        activations = _BATCHED_TOKENS * (3 * inner + 4 * self.model.hidden) * _WIDTH
        logits = 2 * _SEQUENCES * self.model.vocabulary * 4
        collectives = _COLLECTIVES if self.spread.gpus > 1 else 0
        return _CONTEXT + collectives + activations + logits

    def on(self, card: int, quantization: Quantization = "none") -> CardPlan:
        """The plan of a card with `card` GiB, or of the spread's, each of them with as much."""
        weights = self.weights(quantization)
        free = int(UTILISATION * card * GIB) - weights - self.reserve
        chat, slot = self.kv_chat(), self.slot
        fits = tuple(
            Fit(slots, room // chat if (room := free - slots * slot) >= chat else None)
            for slots in SLOTS
        )
        return CardPlan(
            card=card,
            quantization=quantization,
            weights=weights,
            free=free,
            most_slots=max(0, (free - chat) // slot),
            fits=fits,
        )

    def weights(self, quantization: Quantization) -> int:
        """Bytes of the weights; the plugin for bitsandbytes quantises experts as well."""
        share = self.share
        held = WeightFormat(_WIDTH, quantization).total(share)
        if quantization == "none":
            return held
        experts = sum(
            layer.experts.count * 3 * layer.experts.hidden * layer.experts.inner
            for layer in share.layers
            if layer.experts
        )
        return held - experts * _WIDTH + int(experts * (0.5 + 1 / 64 + 4 / (64 * 256)))

    @property
    def _kv_layer(self) -> int:
        return 2 * self.share.kv_heads * self.model.head_dim * _WIDTH
