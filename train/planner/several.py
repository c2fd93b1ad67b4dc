"""Serving one model on several GPUs of a kind: how it can be cut, and how few are enough."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry import UsageError
from registry.base_shards import shard_problems, tensor_sizes
from train.planner.architecture import Architecture
from train.planner.serving import Serving
from train.planner.shards import Spread
from train.planner.weights import Quantization

ADAPTERS = 8
"""Slots that are planned for: what `lorikeet serve` has by default."""


@dataclass(frozen=True, slots=True)
class CardRow:
    """Chats of one kind of card, for each number of GPUs (None: no room), and the fewest GPUs."""

    card: int
    quantization: Quantization
    chats: tuple[int | None, ...]
    fewest: int | None


@dataclass(frozen=True, slots=True)
class Several:
    """A model on up to `gpus` GPUs; `serving` is on the spread that was asked for.

    `sizes` are the numbers of GPUs to compare: those that the layers can be cut over, times the
    stages.
    """

    model: Architecture
    rank: int
    gpus: int
    sizes: tuple[int, ...]
    serving: Serving

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        model: Architecture,
        rank: int,
        gpus: int,
        tensor: int | None,
        pipeline: int,
    ) -> "Several":
        """For a config.json. Raises UsageError for a spread that GPUs or model do not allow."""
        possible = tensor_sizes(config, max(1, gpus // pipeline))
        tensor = tensor or possible[-1]
        if tensor * pipeline > gpus:
            raise UsageError(
                f"--tensor-parallel-size {tensor} × --pipeline-parallel-size {pipeline} takes "
                f"{tensor * pipeline} GPUs, and --gpus is {gpus}",
                remedy="plan with more --gpus",
            )
        if problems := shard_problems(config, tensor, pipeline):
            raise UsageError(
                f"the model cannot be cut {tensor} × {pipeline} ways: {'; '.join(problems)}",
                remedy=f"--tensor-parallel-size can be {', '.join(map(str, possible))}",
            )
        return cls(
            model=model,
            rank=rank,
            gpus=gpus,
            sizes=tuple(size * pipeline for size in possible),
            serving=Serving(model, rank, Spread(tensor, pipeline)),
        )

    def rows(self, cards: Sequence[int]) -> list[CardRow]:
        """Each of the cards, with 16-bit weights and with NF4."""
        return [self._row(card, form) for card in cards for form in ("none", "nf4")]

    def _row(self, card: int, quantization: Quantization) -> CardRow:
        pipeline = self.serving.spread.pipeline
        chats = []
        for size in self.sizes:
            serving = Serving(self.model, self.rank, Spread(size // pipeline, pipeline))
            fits = serving.on(card, quantization).fits
            chats.append(next(fit.chats for fit in fits if fit.slots == ADAPTERS))
        fitting = (size for size, each in zip(self.sizes, chats, strict=True) if each is not None)
        return CardRow(card, quantization, tuple(chats), next(fitting, None))

    def as_dict(self, cards: Sequence[int]) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "gpus": self.gpus,
            "tensor_parallel_size": self.serving.spread.tensor,
            "pipeline_parallel_size": self.serving.spread.pipeline,
            "adapters": ADAPTERS,
            "sizes": list(self.sizes),
            "cards": [asdict(row) for row in self.rows(cards)],
        }
