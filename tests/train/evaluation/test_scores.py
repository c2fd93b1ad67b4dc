"""The arithmetic of scores, and what is asked of the model."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.chat import Chat, Message
from train.evaluation.scores import (
    Answers,
    Confusion,
    RowLoss,
    choose_examples,
    confusion,
    row_scores,
    score,
    task_of,
    token_f1,
    wilson_interval,
    with_examples,
)


def chat(question: str, answer: str, system: str | None = None) -> Chat:
    head = (Message("system", system),) if system else ()
    return Chat(1, (*head, Message("user", question), Message("assistant", answer)))


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine
    # 17 (1998), 857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(
    correct: int, rows: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, rows) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    correct, rows = counts
    low, high = wilson_interval(correct, rows)
    assert 0 <= low <= correct / rows <= high <= 1
    other_low, other_high = wilson_interval(rows - correct, rows)
    assert math.isclose(low, 1 - other_high, abs_tol=1e-12)
    assert math.isclose(high, 1 - other_low, abs_tol=1e-12)


def test_no_rows_say_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_token_f1() -> None:
    assert token_f1("Psion Ltd created OPL.", "psion ltd created opl") == 1
    assert token_f1("a b c", "b c d e") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert token_f1("a a a", "a b") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert token_f1("x", "y") == 0
    assert token_f1("", "y") == 0
    assert token_f1("!", "?") == 0
    assert token_f1("", "") == 1
    assert token_f1("東京です。", "東京") == pytest.approx(2 / 3)


def test_score_counts_right_answers_and_those_that_hold_the_right_one() -> None:
    texts = ["Hogar.", "es Hogar", "Deportes", ""]
    losses = [RowLoss(1.0, 1), RowLoss(4.0, 4), RowLoss(1.0, 3), RowLoss(0.0, 4)]
    said = Answers(texts, prompt_tokens=30.5, seconds=0.25, losses=losses)
    result = score(said, ["Hogar"] * 3 + ["Deportes"])
    assert (result.rows, result.correct, result.accuracy) == (4, 1, 0.25)
    assert (result.exact_match, result.contains) == (0.0, 0.5)
    assert (result.low, result.high) == wilson_interval(1, 4)
    assert result.loss == pytest.approx(6 / 12)  # of tokens, not of rows
    assert result.loss_low is not None
    assert result.loss_high is not None
    assert result.loss_low < result.loss < result.loss_high
    assert result.token_f1_low <= result.token_f1 <= result.token_f1_high
    assert (result.prompt_tokens, result.seconds) == (30.5, 0.25)
    assert row_scores(said, ["Hogar"] * 3 + ["Deportes"], "accuracy") == [1, 0, 0, 0]


def test_the_confusion_matrix_counts_who_was_taken_for_whom() -> None:
    expected = ["Hogar", "hogar.", "Deportes", "Deportes"]
    found = confusion(["deportes", "Hogar", "Deportes.", "no sé"], expected)
    assert found == Confusion(("Deportes", "Hogar"), ((1, 0, 1), (1, 1, 0)))
    assert score(Answers(expected), expected).confusion is not None
    free = ["a text of its own", "another one"]
    assert score(Answers(free), free).confusion is None


def test_labels_that_are_signs_are_kept_apart() -> None:
    signs = ["+", "-", "-5", "5", "C++", "C#"]
    assert confusion(signs, signs).labels == tuple(sorted(signs, key=str.lower))
    assert row_scores(Answers(["-", "+", "5", "-5", "C", "C"]), signs, "accuracy") == [0] * 6
    chats = [chat(str(n), sign) for n, sign in enumerate(["+", "+", "-"])]
    assert [c.answer for c in choose_examples(chats, 2)] == ["+", "-"]


def test_labels_and_free_text_are_told_apart() -> None:
    assert task_of(["Hogar", "Deportes", "Hogar", "deportes."]) == "labels"
    assert task_of(["Hogar", "Deportes"]) == "text"
    assert task_of(["one two three four five"] * 9) == "text"


def test_examples_come_after_the_system_turn_and_before_the_question() -> None:
    held_out = chat("q1", "b", system="s")
    asked = with_examples(held_out.prompt, [chat("e1", "a", system="other")])
    shot = [Message("user", "e1"), Message("assistant", "a")]
    assert list(asked) == [Message("system", "s"), *shot, Message("user", "q1")]
    assert with_examples(held_out.prompt, ()) == held_out.prompt


def test_examples_take_each_answer_in_turn() -> None:
    chats = [chat("1", "a"), chat("2", "a"), chat("3", "b"), chat("4", "A."), chat("5", "c")]
    assert [c.prompt[0].content for c in choose_examples(chats, 4)] == ["1", "3", "5", "2"]
    assert len(choose_examples(chats, 9)) == 5
    assert choose_examples([], 3) == []
