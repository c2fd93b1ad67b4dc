"""Differences between models on the same rows, and how sure they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.chat import Chat, Message
from train.evaluation.bootstrap import Estimate, bootstrap_mean, bootstrap_ratio
from train.evaluation.comparison import compare
from train.evaluation.scores import Answers


def chats(*answers: str) -> list[Chat]:
    return [
        Chat(at, (Message("user", f"q{at}"), Message("assistant", answer)))
        for at, answer in enumerate(answers)
    ]


def test_the_interval_of_a_mean_is_that_of_the_normal_law_for_many_rows() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=2_000)
    found = bootstrap_mean(list(values))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        found = bootstrap_mean(list(random.random(60)))
        covered += found.low <= 0.5 <= found.high
    assert 85 <= covered <= 100


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_bounds_hold_the_value_and_equal_rows_give_equal_bounds(values: list[float]) -> None:
    found = bootstrap_mean(values)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == bootstrap_mean(values)


def test_a_loss_is_that_of_its_tokens() -> None:
    assert bootstrap_ratio([2.0, 9.0], [1, 9]).value == pytest.approx(1.1)
    assert bootstrap_mean([]) == Estimate(0.0, 0.0, 0.0)
    assert bootstrap_ratio([0.0, 3.0], [0, 3]).low == pytest.approx(1.0)  # rows without tokens


def test_an_adapter_that_is_right_where_the_others_are_not_is_better() -> None:
    rows = chats(*(["Hogar", "Deportes"] * 10))
    right = Answers([row.answer for row in rows])
    wrong = Answers(["no sé"] * 20)
    half = Answers([row.answer if at < 10 else "no sé" for at, row in enumerate(rows)])
    found = compare(rows, right, wrong, half, few_shot_examples=5)
    assert (found.task, found.metric) == ("labels", "accuracy")
    assert found.over_base == Estimate(1.0, 1.0, 1.0)
    assert found.over_few_shot is not None
    assert found.over_few_shot.value == 0.5
    assert 0 < found.over_few_shot.low < 0.5 < found.over_few_shot.high
    assert found.over_few_shot.low > 0
    assert [sample.question for sample in found.samples] == ["q0", "q4", "q8", "q12", "q16"]
    assert found.samples[4].expected == found.samples[4].adapter == "Hogar"
    assert (found.samples[4].base, found.samples[4].few_shot) == ("no sé", "no sé")
    comparison = found.as_dict()["comparison"]
    assert comparison["metric"] == "accuracy"
    assert comparison["base"] == {"difference": 1.0, "low": 1.0, "high": 1.0}
    assert comparison["few_shot"].keys() == {"difference", "low", "high"}


def test_an_adapter_no_better_than_the_few_shot_prompt_is_not_better() -> None:
    rows = chats(*(["Hogar", "Deportes"] * 10))
    right, wrong = Answers([row.answer for row in rows]), Answers([""] * 20)
    one_less = Answers([*right.texts[:19], "no sé"])
    for baseline in (right, one_less):  # one row more may be chance
        found = compare(rows, right, wrong, baseline, 5)
        assert found.over_base is not None
        assert found.over_base.low > 0
        assert found.over_few_shot is not None
        assert found.over_few_shot.low <= 0
    assert compare(rows, right, wrong).over_few_shot is None


def test_free_text_is_compared_by_its_words() -> None:
    rows = chats("the cat sat on the mat today", "a dog ran across the whole field")
    close = Answers(["the cat sat on a mat today", "a dog ran across the field"])
    found = compare(rows, close, Answers(["", ""]))
    assert (found.metric, found.adapter.correct) == ("token_f1", 0)
    assert found.over_base is not None
    assert found.over_base.value == pytest.approx(found.adapter.token_f1)
