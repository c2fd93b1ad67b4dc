"""Rows as tensors, padded on the left, with what they all begin with taken out once.

Rows of one task begin alike: the system prompt, then the instruction. A causal model's keys and
values of that beginning are the same for each of them, so they are computed once, gradients
included, and the result is that of the plain batch. On the example headlines the beginning is most
of a row, and a batch of 16 takes less than half the time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from train.data.masking import IGNORED, Encoded, common_length

if TYPE_CHECKING:
    import torch

OnRows = Callable[[int], None]
"""Told how many more rows are done."""

_SHORTEST_PREFIX = 8
"""Tokens below which a shared prefix is not worth its own forward pass."""


def prefix_length(rows: Sequence[Encoded]) -> int:
    """How many tokens all `rows` begin with before the first trained one; 0 if too few to matter.

    Every row keeps at least one token before its first trained one: the logits that predict the
    answer come from the rows, not from the prefix.
    """
    if len(rows) < 2:
        return 0
    common = common_length([row.input_ids for row in rows])
    first_trained = min(
        next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row.labels))
        for row in rows
    )
    length = min(common, first_trained - 1)
    return length if length >= _SHORTEST_PREFIX else 0


@dataclass(slots=True)
class LengthOrder:
    """A sampler: the rows of an epoch in a random order in which rows of like length meet.

    The order is a function of `seed` and `epoch` alone, so that a resumed run sees the rows that it
    would have seen. `group` is how many rows make an optimiser step.
    """

    lengths: Sequence[int]
    group: int
    seed: int
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        indices = get_length_grouped_indices(list(self.lengths), self.group, generator=generator)
        return iter([int(index) for index in indices])


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes the batch of SFTTrainer's data loader; `share_prefix` takes the common beginning out.

    A batch of B rows, prefix P and longest rest S holds `input_ids` and `labels` (B, S), the
    `attention_mask` (B, P + S), `position_ids` (B, S), `prefix_ids` (1, P) and each row's own
    length in `seen_tokens` (B).
    """

    pad_id: int
    share_prefix: bool = True

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, "torch.Tensor"]:
        """Collate data set items that have `input_ids` and `labels`."""
        return self.collate(
            [Encoded(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows]
        )

    def collate(self, rows: Sequence[Encoded]) -> dict[str, "torch.Tensor"]:
        """The batch of `rows`, in their order."""
        import torch

        shared = prefix_length(rows) if self.share_prefix else 0
        width = max(len(row.input_ids) for row in rows) - shared
        ids, labels, mask, positions = [], [], [], []
        for row in rows:
            rest = row.input_ids[shared:]
            padding = width - len(rest)
            ids.append([self.pad_id] * padding + list(rest))
            labels.append([IGNORED] * padding + list(row.labels[shared:]))
            mask.append([1] * shared + [0] * padding + [1] * len(rest))
            positions.append([shared] * padding + list(range(shared, len(row.input_ids))))
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "attention_mask": torch.tensor(mask),
            "position_ids": torch.tensor(positions),
            "prefix_ids": torch.tensor([list(rows[0].input_ids[:shared])], dtype=torch.long),
            "seen_tokens": torch.tensor([len(row.input_ids) for row in rows]),
        }


def can_share_prefix(model: Any) -> bool:
    """Whether the model keeps plain keys and values in every layer (no window, no state)."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def answer_logits(model: Any, batch: dict[str, Any]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Logits (B, K, V) at the K positions that predict a trained token in any row, and labels.

    The labels (B, K) are already those of the next token. The output head is computed at no other
    position: with a vocabulary of 49,152 it would cost a quarter as much as all layers together.
    """
    targets = batch["labels"][:, 1:]
    where = (targets != IGNORED).any(dim=0).nonzero().flatten()
    arguments = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch.get("attention_mask"),  # none where rows are packed
        "position_ids": batch["position_ids"],
        "logits_to_keep": where,
    }
    prefix = batch.get("prefix_ids")
    if prefix is not None and prefix.shape[1]:
        cache = prefix_cache(model, prefix)
        cache.batch_repeat_interleave(batch["input_ids"].shape[0])
        output = model(**arguments, past_key_values=cache, use_cache=True)
    else:
        output = model(**arguments, use_cache=False)
    return output.logits, targets[:, where]


def prefix_cache(model: Any, prefix: "torch.Tensor") -> Any:
    """The keys and values of `prefix` (1, P) in every layer, with gradients where those are on."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def answer_loss(logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """The sum of the negative log-likelihoods (nats) of the trained tokens, in float32."""
    import torch

    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def answers_right(logits: "torch.Tensor", labels: "torch.Tensor") -> int:
    """How many trained tokens are the ones that the logits give the highest probability."""
    return int((logits.detach().argmax(dim=-1) == labels).sum())


def answer_batches(
    model: Any,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    on_rows: OnRows | None = None,
) -> "Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]":
    """The rows read by `model` in batches of like length, without gradients and dropout.

    Each batch is the indices of its B rows, and `answer_logits` of them: logits (B, K, V), labels
    (B, K). `on_rows` is told when the caller is done with a batch.
    """
    import torch

    collator = Collator(pad_id, share_prefix=can_share_prefix(model))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collator.collate([rows[index] for index in chosen])
            with torch.inference_mode():
                batch = {key: value.to(model.device) for key, value in batch.items()}
                logits, labels = answer_logits(model, batch)
            yield chosen, logits, labels
            if on_rows:
                on_rows(len(chosen))
    finally:
        model.train(was_training)
