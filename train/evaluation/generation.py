"""Greedy answers and losses of expected ones from a model in memory, in batches."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from train.batches import OnRows, answer_batches, can_share_prefix, prefix_cache
from train.data.masking import IGNORED, Encoded, common_length
from train.evaluation.scores import RowLoss

if TYPE_CHECKING:
    import torch


def greedy_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
    on_rows: OnRows | None = None,
) -> list[list[int]]:
    """The token ids that follow each prompt, most likely first, without the stop token.

    What all prompts begin with is computed once for all of them. Answers come in the order of the
    prompts, each at most `max_new_tokens` long.
    """
    import torch

    if not prompts:
        return []
    shared = 0
    if len(prompts) > 1 and can_share_prefix(model):
        common = common_length([tuple(prompt) for prompt in prompts])
        shared = min(common, min(len(prompt) for prompt in prompts) - 1)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            cache = None
            if shared:
                prefix = torch.tensor([list(prompts[0][:shared])], device=model.device)
                cache = prefix_cache(model, prefix)
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                rests = [list(prompts[index][shared:]) for index in chosen]
                batch = _Batch(model, rests, shared, copy.deepcopy(cache), pad_id)
                for index, answer in zip(chosen, batch.run(stop_ids, max_new_tokens), strict=True):
                    answers[index] = answer
                if on_rows:
                    on_rows(len(chosen))
    finally:
        model.train(was_training)
    return answers


class _Batch:
    """Prompts (without their shared prefix, which is in `cache`) that are answered together."""

    def __init__(
        self, model: Any, rests: list[list[int]], shared: int, cache: Any, pad_id: int
    ) -> None:
        import torch
        from transformers import DynamicCache

        self._model, self._pad_id, self._rows = model, pad_id, len(rests)
        self._cache = DynamicCache(config=model.config) if cache is None else cache
        if shared:
            self._cache.batch_repeat_interleave(self._rows)
        width = max(len(rest) for rest in rests)
        pads = [width - len(rest) for rest in rests]
        device = model.device
        self._ids = torch.tensor(
            [[pad_id] * pad + rest for pad, rest in zip(pads, rests, strict=True)], device=device
        )
        self._mask = torch.tensor(
            [[1] * shared + [0] * pad + [1] * (width - pad) for pad in pads], device=device
        )
        self._positions = torch.tensor(
            [[shared] * pad + list(range(shared, shared + width - pad)) for pad in pads],
            device=device,
        )

    def run(self, stop_ids: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """The answers, in the order of the rows."""
        import torch

        answers: list[list[int]] = [[] for _ in range(self._rows)]
        open_rows = set(range(self._rows))
        for _ in range(max_new_tokens):
            tokens = self._next()
            for row, token in enumerate(tokens.tolist()):
                if row in open_rows and token in stop_ids:
                    open_rows.remove(row)
                elif row in open_rows:
                    answers[row].append(token)
            if not open_rows:
                break
            self._ids = tokens[:, None]
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
            self._positions = self._positions[:, -1:] + 1
        return answers

    def _next(self) -> "torch.Tensor":
        """The most likely next token of each row, (B,)."""
        output = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        picked: torch.Tensor = output.logits[:, -1].argmax(dim=-1)
        return picked


def row_losses(
    model: Any,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    on_rows: OnRows | None = None,
) -> list[RowLoss]:
    """The loss of each row over its trained tokens, in the order of `rows`."""
    import torch

    losses = [RowLoss(0.0, 0)] * len(rows)
    for chosen, logits, labels in answer_batches(
        model, rows, pad_id=pad_id, batch_size=batch_size, on_rows=on_rows
    ):
        nats = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        sums, tokens = nats.sum(dim=1).tolist(), (labels != IGNORED).sum(dim=1).tolist()
        right = (logits.argmax(dim=-1) == labels).sum(dim=1).tolist()
        for index, total, count, hits in zip(chosen, sums, tokens, right, strict=True):
            losses[index] = RowLoss(total, count, hits)
    return losses


def mean_loss(
    model: Any,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    on_rows: OnRows | None = None,
) -> float:
    """The mean negative log-likelihood of the trained tokens of `rows`, in nats a token."""
    losses = row_losses(model, rows, pad_id=pad_id, batch_size=batch_size, on_rows=on_rows)
    return mean_of(losses)[0]


def mean_of(losses: Sequence[RowLoss]) -> tuple[float, float]:
    """The mean loss of a token, in nats, and the share of the tokens that were the likeliest."""
    tokens = max(1, sum(loss.tokens for loss in losses))
    return sum(loss.nats for loss in losses) / tokens, sum(loss.right for loss in losses) / tokens
