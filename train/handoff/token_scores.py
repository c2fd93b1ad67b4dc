"""Log-probabilities of the answers' tokens, teacher-forced: from a model in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.batches import OnRows, answer_batches
from train.data.masking import IGNORED, Encoded
from train.libraries import SMALLER_BATCHES, library_errors


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
    """The scores of each row's trained tokens, in the order of `rows`.

    Raises TrainingFailed or OutOfMemory.
    """
    with library_errors("scoring tokens", SMALLER_BATCHES):
        return _scores(model, rows, pad_id, batch_size, on_rows)


def _scores(
    model: Any, rows: Sequence[Encoded], pad_id: int, batch_size: int, on_rows: OnRows | None
) -> list[TokenScores]:
    import torch

    scores = [TokenScores((), ())] * len(rows)
    for chosen, logits, labels in answer_batches(
        model, rows, pad_id=pad_id, batch_size=batch_size, on_rows=on_rows
    ):
        trained = labels != IGNORED
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        target = labels.clamp_min(0)[..., None]
        values, top = logprobs.gather(-1, target)[..., 0], logits.argmax(dim=-1)
        for at, index in enumerate(chosen):
            scores[index] = TokenScores(
                tuple(values[at][trained[at]].tolist()),
                tuple(top[at][trained[at]].tolist()),
            )
    return scores
