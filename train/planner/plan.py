"""Everything that `lorikeet plan` says of a model, as values: the tables and `--json` show it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from train.planner.activations import Adapted
from train.planner.architecture import Architecture
from train.planner.calculator import Calculator
from train.planner.fsdp import fsdp_memory
from train.planner.memory import GIB, TrainingMemory, Workload, training_memory
from train.planner.serving import CHAT_TOKENS, UTILISATION, CardPlan, Serving
from train.planner.several import Several
from train.planner.weights import WeightFormat
from train.settings import TrainSettings

CARDS = (24, 48, 80)
FORMATS = {
    "float32": WeightFormat(4),
    "float16/bfloat16": WeightFormat(2),
    "int8": WeightFormat(2, "int8"),
    "int4": WeightFormat(2, "int4"),
    "NF4": WeightFormat(2, "nf4"),
}


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train, its memory, and the smallest of the cards that has room for it.

    `card` is None where none has, and for a CPU.
    """

    name: str
    workload: Workload
    memory: TrainingMemory
    card: int | None


@dataclass(frozen=True, slots=True)
class FormatRow:
    """Weights in one format, and what a step adds, activations not counted; in bytes.

    `trains` says what is trained: all weights, or an adapter where they are quantised. `backward`
    is the sum of weights and gradients.
    """

    name: str
    trains: str
    largest_layer: int
    total: int
    gradients: int
    backward: int
    optimizer: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A model, how it can be trained with `settings`, what it takes to serve it on `cards` GiB."""

    model: Architecture
    settings: TrainSettings
    cards: tuple[int, ...]
    methods: tuple[Method, ...]
    serving: Serving
    several: Several

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        settings: TrainSettings,
        cards: Sequence[int] = CARDS,
        trained: int | None = None,
        gpus: int = 1,
        tensor: int | None = None,
        pipeline: int = 1,
    ) -> "Plan":
        """Plan for a config.json; `trained` tokens of a row are in the loss, default: all.

        Of `gpus` alike, serving cuts each layer over `tensor` (default: as many as it can) and
        shares the layers out to `pipeline` stages; training has the base in shards on all.

        Raises UnknownBase for a model that is not covered, UsageError for one that cannot be cut
        like that.
        """
        model = Architecture.of(config)
        several = Several.of(config, model, settings.rank, gpus, tensor, pipeline)
        gpu = replace(
            Workload.of(settings, dtype="bfloat16", device="cuda", trained=trained),
            quantization="none",
        )
        cpu = Workload.of(settings, dtype="float32", device="cpu", trained=trained)
        ways = {
            "full": replace(gpu, adapted=Adapted(rank=None)),
            "LoRA": gpu,
            "QLoRA": replace(gpu, quantization="nf4"),
            "QLoRA, CPU": replace(cpu, quantization="nf4"),
        }
        methods = []
        for name, workload in ways.items():
            if workload.device == "cpu" and settings.optimizer == "paged_adamw_8bit":
                continue  # pages move between a GPU's memory and the machine's
            memory = training_memory(model, workload)
            fitting = (card for card in cards if memory.total <= card * GIB)
            card = next(fitting, None) if workload.device == "cuda" else None
            methods.append(Method(name, workload, memory, card))
        if gpus > 1:
            workload = replace(ways["QLoRA"], optimizer="adamw")
            memory = fsdp_memory(model, workload, gpus)
            card = next((card for card in cards if memory.total <= card * GIB), None)
            methods.append(Method(f"QLoRA, {gpus} GPUs", workload, memory, card))
        return cls(model, settings, tuple(cards), tuple(methods), several.serving, several)

    def formats(self) -> list[FormatRow]:
        """Each format of the weights."""
        _, lora, *_ = self.methods
        rows = []
        for name, form in FORMATS.items():
            adapts = form.quantization != "none"
            workload = replace(
                lora.workload,
                adapted=lora.workload.adapted if adapts else Adapted(rank=None),
                quantization=form.quantization,
                dtype="float32" if form.width == 4 else "bfloat16",
            )
            memory = training_memory(self.model, workload)
            rows.append(
                FormatRow(
                    name=name,
                    trains=f"an adapter of rank {self.serving.rank}" if adapts else "all weights",
                    largest_layer=form.largest_layer(self.model),
                    total=form.total(self.model),
                    gradients=memory.gradients,
                    backward=memory.weights + memory.adapter + memory.gradients,
                    optimizer=memory.optimizer,
                )
            )
        return rows

    def served(self) -> list[CardPlan]:
        """Each card, with 16-bit weights and with NF4."""
        return [self.serving.on(card, form) for card in self.cards for form in ("none", "nf4")]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; sizes in bytes."""
        model, serving = self.model, self.serving
        return {
            "model": {
                "type": model.model_type,
                "parameters": model.parameters,
                "active_parameters": model.active_parameters,
                "layers": len(model.layers),
                "hidden": model.hidden,
                "heads": model.heads,
                "kv_heads": model.kv_heads,
                "head_dim": model.head_dim,
                "vocabulary": model.vocabulary,
                "positions": model.positions,
                "tied_embeddings": model.tied,
                "experts": max(
                    (layer.experts.count for layer in model.layers if layer.experts), default=0
                ),
                "window": max((layer.window or 0 for layer in model.layers), default=0) or None,
            },
            "weights": [asdict(row) for row in self.formats()],
            "as_hugging_face_calculator": {
                name: {
                    "inference": [asdict(row) for row in Calculator(model, caches).inference()],
                    "training": [asdict(row) for row in Calculator(model, caches).training()],
                }
                for name, caches in (("with_rope_caches", True), ("today", False))
            },
            "training": [
                {
                    "method": method.name,
                    "device": method.workload.device,
                    "dtype": method.workload.dtype,
                    "optimizer": method.workload.optimizer,
                    "recomputes": method.workload.recomputes,
                    "rows": method.workload.batch.rows,
                    "length": method.workload.batch.length,
                    "trained": method.workload.batch.trained,
                    "trained_parameters": method.workload.adapted.parameters(model),
                    "memory": method.memory.as_dict(),
                    "fits": method.card,
                }
                for method in self.methods
            ],
            "serving": {
                "kv_token": serving.kv_token,
                "chat_tokens": CHAT_TOKENS,
                "kv_chat": serving.kv_chat(),
                "adapter_rank": serving.rank,
                "adapter_file": serving.adapter_file,
                "slot_rank": serving.slot_rank,
                "slot": serving.slot,
                "reserve": serving.reserve,
                "utilisation": UTILISATION,
                "gpus": self.several.as_dict(self.cards),
                "cards": [asdict(card) for card in self.served()],
            },
        }
