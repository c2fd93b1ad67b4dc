"""Log-probabilities of the answers' tokens, teacher-forced: from a model in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from train.batches import Collator, answer_logits, can_share_prefix
from train.data.masking import IGNORED, Encoded

OnRows = Callable[[int], None]
"""Told how many more rows are done."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Of a row's trained tokens: natural logarithms of their probabilities, given what comes before
    them, and the id of the likeliest token in each place."""

    logprobs: tuple[float, ...]
    top: tuple[int, ...]


def mean_loss(scores: Sequence[TokenScores]) -> float:
    """The mean negative log-likelihood of all tokens, in nats a token."""
    logprobs = [value for score in scores for value in score.logprobs]
    return -sum(logprobs) / max(1, len(logprobs))


def token_scores(
    model: Any,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    on_rows: OnRows | None = None,
) -> list[TokenScores]:
    """The scores of each row's trained tokens, in the order of `rows`."""
    import torch

    collator = Collator(pad_id, share_prefix=can_share_prefix(model))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    scores = [TokenScores((), ())] * len(rows)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = collator.collate([rows[index] for index in chosen])
                batch = {key: value.to(model.device) for key, value in batch.items()}
                logits, labels = answer_logits(model, batch)
                trained = labels != IGNORED
                logprobs = torch.log_softmax(logits.float(), dim=-1)
                target = labels.clamp_min(0)[..., None]
                values, top = logprobs.gather(-1, target)[..., 0], logits.argmax(dim=-1)
                for at, index in enumerate(chosen):
                    scores[index] = TokenScores(
                        tuple(values[at][trained[at]].tolist()),
                        tuple(top[at][trained[at]].tolist()),
                    )
                if on_rows:
                    on_rows(len(chosen))
    finally:
        model.train(was_training)
    return scores
