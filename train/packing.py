"""Short rows in one sequence, none seeing another.

TRL's `pack_dataset` says which rows share a sequence (best fit decreasing: H. Ding et al., "Fewer
truncations improve language modeling", ICML 2024). Positions restart with each row, and no
attention mask is given: the models of transformers then make a block-diagonal one from the
positions. `check_packing` proves that of the model at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from train.data.masking import IGNORED, Encoded
from train.errors import SettingsError

if TYPE_CHECKING:
    import torch

_PROBES = ((5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15))
_TOLERANCE = {"float32": 1e-3, "bfloat16": 6e-2}
"""Largest difference of the logits, as a share of the largest one."""


@dataclass(frozen=True, slots=True)
class Pack:
    """The rows of one sequence, in their order."""

    rows: tuple[Encoded, ...]

    @property
    def length(self) -> int:
        """Their tokens."""
        return sum(len(row.input_ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class PackCollator:
    """Makes a batch of B packs, padded on the right to the longest, S tokens.

    `input_ids`, `labels` and `position_ids` are (B, S). The padding is one more row of its own,
    which is not trained; so is the first token of each row, for which there is no prompt.
    """

    pad_id: int

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, "torch.Tensor"]:
        """Collate data set items that have `input_ids`, `labels` and their rows' `seq_lengths`."""
        packs = []
        for item in items:
            start, rows = 0, []
            for length in item["seq_lengths"]:
                part = slice(start, start + length)
                rows.append(Encoded(tuple(item["input_ids"][part]), tuple(item["labels"][part])))
                start += length
            packs.append(Pack(tuple(rows)))
        return self.collate(packs)

    def collate(self, packs: Sequence[Pack]) -> dict[str, "torch.Tensor"]:
        """The batch of `packs`, in their order."""
        import torch

        width = max(pack.length for pack in packs)
        ids, labels, positions = [], [], []
        for pack in packs:
            padding = width - pack.length
            ids.append([i for row in pack.rows for i in row.input_ids] + [self.pad_id] * padding)
            labels.append(
                [label for row in pack.rows for label in (IGNORED, *row.labels[1:])]
                + [IGNORED] * padding
            )
            positions.append(
                [at for row in pack.rows for at in range(len(row.input_ids))] + list(range(padding))
            )
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "position_ids": torch.tensor(positions),
            "seen_tokens": torch.tensor([pack.length for pack in packs]),
        }


def check_packing(model: Any, dtype: str) -> None:
    """Raise SettingsError where the rows of a pack see each other in this model."""
    import torch

    rows = [Encoded(probe, probe) for probe in _PROBES]
    packed = {
        key: value.to(model.device)
        for key, value in PackCollator(0).collate([Pack(tuple(rows))]).items()
        if key in ("input_ids", "position_ids")
    }
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            together = model(**packed, use_cache=False).logits[0].float()
            alone = [
                model(input_ids=torch.tensor([row.input_ids], device=model.device), use_cache=False)
                for row in rows
            ]
    finally:
        model.train(was_training)
    apart = torch.cat([output.logits[0].float() for output in alone])
    difference = float((together - apart).abs().max() / apart.abs().max().clamp(min=1e-9))
    if not difference <= _TOLERANCE[dtype]:
        raise SettingsError(
            ["packing: rows of one sequence would see each other in this model; set packing=false"]
        )
