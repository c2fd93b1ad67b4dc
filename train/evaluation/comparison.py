"""Is the adapter better than the base, and than the base with a few-shot prompt?

Each model answers the same rows, so rows are compared with themselves: the differences of a row are
resampled (a paired bootstrap), which is much sharper than two intervals side by side.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from train.data.chat import Chat
from train.evaluation.bootstrap import Estimate, bootstrap_mean
from train.evaluation.scores import Answers, Metric, Score, Task, row_scores, score, task_of

MOST_SAMPLES = 5
_LONGEST_SAMPLE = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """A held-out row as people read it: what was asked, expected and answered; shortened."""

    question: str
    expected: str
    adapter: str
    base: str | None = None
    few_shot: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores on held-out rows, and how much better than either baseline the adapter is.

    `task` says whether the answers are labels or free text; `metric` is what is compared:
    accuracy of labels, token F1 of text. `over_base` and `over_few_shot` are the adapter's mean
    metric minus the baseline's. `samples` are a few rows for people to look at.
    """

    task: Task
    metric: Metric
    adapter: Score
    base: Score | None = None
    few_shot: Score | None = None
    few_shot_examples: int = 0
    over_base: Estimate | None = None
    over_few_shot: Estimate | None = None
    samples: tuple[Sample, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, for the manifest; `registry.gate` reads `comparison`."""
        values = asdict(self)
        comparison: dict[str, Any] = {"metric": self.metric}
        for name, estimate in (
            ("base", values.pop("over_base")),
            ("few_shot", values.pop("over_few_shot")),
        ):
            if estimate is not None:
                estimate["difference"] = estimate.pop("value")
                comparison[name] = estimate
        return values | {"comparison": comparison}


def compare(
    chats: Sequence[Chat],
    adapter: Answers,
    base: Answers | None = None,
    few_shot: Answers | None = None,
    few_shot_examples: int = 0,
    *,
    expected: Sequence[str] | None = None,
) -> Evaluation:
    """Score what each model answered to `chats`, the held-out rows, and compare them.

    `expected` are the right answers, where those are not the chats' own texts.
    """
    if expected is None:
        expected = [chat.answer for chat in chats]
    task = task_of(expected)
    metric: Metric = "accuracy" if task == "labels" else "token_f1"
    mine = row_scores(adapter, expected, metric)

    def over(baseline: Answers | None) -> Estimate | None:
        if baseline is None:
            return None
        theirs = row_scores(baseline, expected, metric)
        return bootstrap_mean([a - b for a, b in zip(mine, theirs, strict=True)])

    return Evaluation(
        task=task,
        metric=metric,
        adapter=score(adapter, expected),
        base=None if base is None else score(base, expected),
        few_shot=None if few_shot is None else score(few_shot, expected),
        few_shot_examples=few_shot_examples if few_shot else 0,
        over_base=over(base),
        over_few_shot=over(few_shot),
        samples=_samples(chats, expected, adapter, base, few_shot),
    )


def _samples(
    chats: Sequence[Chat],
    expected: Sequence[str],
    adapter: Answers,
    base: Answers | None,
    few_shot: Answers | None,
) -> tuple[Sample, ...]:
    """Rows from the whole of `chats`, evenly spread."""
    step = -(-len(chats) // MOST_SAMPLES) or 1

    def said(answers: Answers | None, at: int) -> str | None:
        return None if answers is None else _shortened(answers.texts[at])

    return tuple(
        Sample(
            question=_shortened(chats[at].prompt[-1].content if chats[at].prompt else ""),
            expected=_shortened(expected[at]),
            adapter=_shortened(adapter.texts[at]),
            base=said(base, at),
            few_shot=said(few_shot, at),
        )
        for at in range(0, len(chats), step)
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SAMPLE else text[: _LONGEST_SAMPLE - 1] + "…"
