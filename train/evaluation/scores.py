"""How good answers are: equal to what was expected, close to it, and what they cost."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from train.data.chat import Chat, Message
from train.evaluation.bootstrap import bootstrap_mean, bootstrap_ratio
from train.evaluation.words import normalised, words

Task = Literal["labels", "text"]
Metric = Literal["accuracy", "token_f1"]

_Z_95 = 1.959963984540054
"""The 0.975 quantile of the normal distribution: two-sided 95 %."""
_MOST_LABELS = 50
_LONGEST_LABEL = 4


@dataclass(frozen=True, slots=True)
class RowLoss:
    """The loss of one row: the sum over its trained tokens in nats, and how many they are.

    `right` of them are the model's likeliest token there.
    """

    nats: float
    tokens: int
    right: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said to the held-out rows, in their order, and what that cost.

    `prompt_tokens` and `seconds` are means of a row; in a batch a row takes its share of the time.
    `losses` are those of the expected answers, where they were measured.
    """

    texts: Sequence[str]
    prompt_tokens: float | None = None
    seconds: float | None = None
    losses: Sequence[RowLoss] | None = None


@dataclass(frozen=True, slots=True)
class Confusion:
    """Of labels: `counts[i][j]` rows with the label `labels[i]` were answered `labels[j]`.

    The last column counts the answers that are none of the labels.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How many of `rows` answers are right, how close the others come, and what they cost.

    `accuracy` is the share of answers equal to what was expected after `normalised`; `low` and
    `high` bound it with 95 % confidence (Wilson's interval: a bootstrap of 12 right out of 12 would
    claim certainty). `exact_match` is the share that is equal to the letter, `contains` that in
    which the expected answer stands. `token_f1` is the mean overlap of words (SQuAD's F1), `loss`
    the mean in nats a token of the expected answers, where it was measured; the bounds of both are
    those of a bootstrap over rows. `prompt_tokens` and `seconds` are means of a row.
    """

    rows: int
    correct: int
    accuracy: float
    low: float
    high: float
    exact_match: float
    contains: float
    token_f1: float
    token_f1_low: float
    token_f1_high: float
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    prompt_tokens: float | None = None
    seconds: float | None = None
    confusion: Confusion | None = None


def wilson_interval(correct: int, rows: int, z: float = _Z_95) -> tuple[float, float]:
    """Bounds of a share of successes, `correct` of `rows`, at `z` standard deviations.

    The score interval of E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22 (1927), 209-212. It stays within
    0 and 1 and holds for few rows and for shares near either end, where p ± z·√(p(1-p)/n) does not.
    """
    if rows == 0:
        return 0.0, 1.0
    share = correct / rows
    denominator = 1 + z * z / rows
    centre = share + z * z / (2 * rows)
    spread = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    low, high = (centre - spread) / denominator, (centre + spread) / denominator
    # At either end the formula gives the end itself, but for rounding.
    return (0.0 if correct == 0 else low), (1.0 if correct == rows else high)


def token_f1(answer: str, expected: str) -> float:
    """The harmonic mean of precision and recall over words, each word counted, 0 to 1.

    As SQuAD scores it (Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of
    text", EMNLP 2016), but articles count, because answers come in any language, and so do signs.
    """
    given, wanted = words(answer), words(expected)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def row_scores(answers: Answers, expected: Sequence[str], metric: Metric) -> list[float]:
    """The metric of each answer, 0 to 1; "accuracy" is 0 or 1 in each row."""
    pairs = zip(answers.texts, expected, strict=True)
    if metric == "accuracy":
        return [float(normalised(answer) == normalised(wanted)) for answer, wanted in pairs]
    return [token_f1(answer, wanted) for answer, wanted in pairs]


def score(answers: Answers, expected: Sequence[str]) -> Score:
    """The score of `answers`, one for each of `expected`."""
    pairs = list(zip(answers.texts, expected, strict=True))
    rows = len(pairs)
    correct = int(sum(row_scores(answers, expected, "accuracy")))
    low, high = wilson_interval(correct, rows)
    overlaps = row_scores(answers, expected, "token_f1")
    f1 = bootstrap_mean(overlaps)
    loss = None
    if answers.losses:
        loss = bootstrap_ratio(
            [row.nats for row in answers.losses], [row.tokens for row in answers.losses]
        )
    return Score(
        rows=rows,
        correct=correct,
        accuracy=correct / rows if rows else 0.0,
        low=low,
        high=high,
        exact_match=_mean([answer.strip() == wanted.strip() for answer, wanted in pairs]),
        contains=_mean([normalised(wanted) in normalised(answer) for answer, wanted in pairs]),
        token_f1=f1.value,
        token_f1_low=f1.low,
        token_f1_high=f1.high,
        loss=loss.value if loss else None,
        loss_low=loss.low if loss else None,
        loss_high=loss.high if loss else None,
        prompt_tokens=answers.prompt_tokens,
        seconds=answers.seconds,
        confusion=confusion(answers.texts, expected) if task_of(expected) == "labels" else None,
    )


def confusion(answers: Sequence[str], expected: Sequence[str]) -> Confusion:
    """Which label was answered for which; labels as they are first written, sorted."""
    written: dict[str, str] = {}
    for text in expected:
        written.setdefault(normalised(text), text.strip())
    keys = sorted(written)
    place = {key: at for at, key in enumerate(keys)}
    counts = [[0] * (len(keys) + 1) for _ in keys]
    for answer, wanted in zip(answers, expected, strict=True):
        counts[place[normalised(wanted)]][place.get(normalised(answer), len(keys))] += 1
    return Confusion(tuple(written[key] for key in keys), tuple(tuple(row) for row in counts))


def task_of(answers: Sequence[str]) -> Task:
    """Whether `answers` are labels (few, short and repeated) or free text."""
    labels = {normalised(answer) for answer in answers}
    is_short = all(len(label.split()) <= _LONGEST_LABEL for label in labels)
    is_repeated = len(labels) <= min(_MOST_LABELS, len(answers) // 2)
    return "labels" if is_short and is_repeated else "text"


def with_examples(prompt: Sequence[Message], examples: Sequence[Chat]) -> tuple[Message, ...]:
    """`prompt` with each example's question and answer as earlier turns, after a system turn."""
    system = [message for message in prompt[:1] if message.role == "system"]
    turns = [turn for chat in examples for turn in chat.messages if turn.role != "system"]
    return (*system, *turns, *prompt[len(system) :])


def choose_examples(chats: Sequence[Chat], most: int) -> list[Chat]:
    """At most `most` of `chats` for a few-shot prompt, each answer in turn, in their order."""
    by_answer: dict[str, list[Chat]] = {}
    for chat in chats:
        by_answer.setdefault(normalised(chat.answer), []).append(chat)
    chosen: list[Chat] = []
    depth = 0
    while len(chosen) < min(most, len(chats)):
        layer = [group[depth] for group in by_answer.values() if depth < len(group)]
        chosen += layer[: most - len(chosen)]
        depth += 1
    return chosen


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
