"""How good are the answers: the base as it is, the base with examples in its prompt, the adapter.

The model is a callable from chats to answers, so that the same rows can be put to a model in
memory, to a server, or to a stand-in.
"""

import math
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from train.data.formats import Chat, Message

Generate = Callable[[Sequence[Sequence[Message]]], list[str]]
"""Answers to chats that end with the user's turn, in their order."""

Task = Literal["labels", "text"]

_Z_95 = 1.959963984540054
"""The 0.975 quantile of the normal distribution: two-sided 95 %."""
_MOST_LABELS = 50
_LONGEST_LABEL = 4
_PUNCTUATION = string.punctuation + "¡¿«»“”‘’…–—"


@dataclass(frozen=True, slots=True)
class Score:
    """How many of `rows` answers are right, and how close the others come.

    `accuracy` is the share of answers equal to what was expected after `normalised`; `low` and
    `high` bound it with 95 % confidence (Wilson's interval). `contains` is the share of answers
    in which the expected one stands, `token_f1` the mean overlap of words (SQuAD's F1). `loss` is
    in nats a token of the expected answers, where it was measured.
    """

    rows: int
    correct: int
    accuracy: float
    low: float
    high: float
    contains: float
    token_f1: float
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores on held-out rows. `task` says whether the answers are labels or free text."""

    task: Task
    adapter: Score
    base: Score | None = None
    few_shot: Score | None = None
    few_shot_examples: int = 0

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, for the manifest."""
        return asdict(self)


def normalised(text: str) -> str:
    """`text` in lower case and composed Unicode, without outer punctuation, single-spaced."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_PUNCTUATION + " ")


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
    text", EMNLP 2016), but articles count, because answers come in any language.
    """
    given, wanted = _words(answer), _words(expected)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def score(answers: Sequence[str], expected: Sequence[str], loss: float | None = None) -> Score:
    """The score of `answers`, one for each of `expected`."""
    pairs = list(zip(answers, expected, strict=True))
    rows = len(pairs)
    correct = sum(normalised(answer) == normalised(wanted) for answer, wanted in pairs)
    low, high = wilson_interval(correct, rows)
    return Score(
        rows=rows,
        correct=correct,
        accuracy=correct / rows if rows else 0.0,
        low=low,
        high=high,
        contains=_mean([normalised(wanted) in normalised(answer) for answer, wanted in pairs]),
        token_f1=_mean([token_f1(answer, wanted) for answer, wanted in pairs]),
        loss=loss,
    )


def task_of(answers: Sequence[str]) -> Task:
    """Whether `answers` are labels (few, short and repeated) or free text."""
    labels = {normalised(answer) for answer in answers}
    is_short = all(len(label.split()) <= _LONGEST_LABEL for label in labels)
    is_repeated = len(labels) <= min(_MOST_LABELS, len(answers) // 2)
    return "labels" if is_short and is_repeated else "text"


def evaluate(
    generate: Generate,
    held_out: Sequence[Chat],
    *,
    examples: Sequence[Chat] = (),
    loss: float | None = None,
) -> Score:
    """Ask every held-out chat, after `examples` where there are any, and score the answers."""
    prompts = [with_examples(chat.prompt, examples) for chat in held_out]
    return score(generate(prompts), [chat.answer for chat in held_out], loss)


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


def _words(text: str) -> list[str]:
    words = (word.strip(_PUNCTUATION) for word in normalised(text).split())
    return [word for word in words if word]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
