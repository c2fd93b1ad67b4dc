"""The split, the sample and the few-shot examples are fixed by the seed."""

from collections.abc import Callable
from pathlib import Path

from train.data.formats import Chat, Message
from train.data.parts import Part, few_shot_examples, hold_out, read_data, sample, unasked
from train.settings import TrainSettings


def chats(count: int) -> list[Chat]:
    return [
        Chat(n, (Message("user", f"q{n // 2}"), Message("assistant", "ab"[n % 2])))
        for n in range(count)
    ]


def test_the_split_is_fixed_by_the_seed_and_parts_the_rows() -> None:
    rows = chats(100)
    training, held_out = hold_out(rows, 0.2, seed=1)
    assert (training, held_out) == hold_out(rows, 0.2, seed=1)
    assert held_out != hold_out(rows, 0.2, seed=2)[1]
    assert len(held_out) == 20
    assert sorted(training + held_out, key=lambda chat: chat.line) == rows
    assert [chat.line for chat in held_out] == sorted(chat.line for chat in held_out)


def test_one_prompt_is_on_one_side() -> None:
    training, held_out = hold_out(chats(100), 0.3, seed=3)
    assert held_out
    assert unasked(held_out, training) == tuple(held_out)
    assert unasked(held_out, held_out) == ()


def test_too_few_rows_hold_none_out() -> None:
    assert hold_out(chats(6), 0.1, seed=1) == (chats(6), [])


def test_a_sample_keeps_the_order_and_is_fixed_by_the_seed() -> None:
    drawn = sample(range(50), 10, seed=1)
    assert len(drawn) == 10
    assert list(drawn) == sorted(set(drawn))
    assert drawn == sample(range(50), 10, seed=1)
    assert drawn != sample(range(50), 10, seed=2)
    assert sample(range(5), None, seed=1) == sample(range(5), 9, seed=1) == (0, 1, 2, 3, 4)


def test_parts_of_the_rows_are_taken_after_the_split(write_rows: Callable[..., Path]) -> None:
    path = write_rows(*({"prompt": f"q{n}", "completion": "a"} for n in range(20)))
    notes: list[str] = []
    settings = TrainSettings(eval_fraction=0.5, max_rows=4, max_eval_rows=3)
    training, held_out = read_data(path, None, settings, notes.append)
    assert (len(training.chats), len(held_out.chats)) == (4, 3)
    assert notes == []
    few = write_rows({"prompt": "q", "completion": "a"}, name="few.jsonl")
    training, held_out = read_data(few, None, settings, notes.append)
    assert (len(training.chats), len(held_out.chats)) == (1, 0)
    assert "too few" in notes[0]


def test_what_is_trained_on_is_not_held_out(write_rows: Callable[..., Path]) -> None:
    path = write_rows(*({"prompt": f"q{n}", "completion": "a"} for n in range(20)))
    asked = [*(f"q{n}" for n in range(20)), "new"]
    held = write_rows(*({"prompt": q, "completion": "b"} for q in asked), name="h.jsonl")
    notes: list[str] = []
    _, held_out = read_data(path, held, TrainSettings(), notes.append)
    assert [chat.prompt[0].content for chat in held_out.chats] == ["new"]
    assert notes == ["20 of 21 held-out rows are trained on too: left out of the evaluation"]
    settings = TrainSettings(max_rows=4)
    training, held_out = read_data(path, held, settings, notes.append)
    assert (len(training.chats), len(held_out.chats)) == (4, 17)
    shown = few_shot_examples(
        settings.model_copy(update={"few_shot_data": held, "few_shot_rows": 9}),
        training,
        held_out,
        notes.append,
    )
    assert {chat.question for chat in shown} == {chat.question for chat in training.chats}
    assert notes[2:] == ["17 rows of h.jsonl are held-out rows: left out of the few-shot prompt"]


def test_examples_come_from_their_file_or_from_the_training_rows(
    write_rows: Callable[..., Path],
) -> None:
    training = Part(Path("rows.jsonl"), tuple(chats(8)))
    none = Part(Path("held-out.jsonl"), ())

    def examples(settings: TrainSettings) -> tuple[Chat, ...]:
        return few_shot_examples(settings, training, none, lambda _: None)

    drawn = examples(TrainSettings(few_shot_rows=3))
    assert [chat.answer for chat in drawn] == ["a", "b", "a"]
    file = write_rows(*({"prompt": f"q{n}", "completion": "a"} for n in range(4)))
    settings = TrainSettings(few_shot_data=file, few_shot_rows=2)
    assert [chat.prompt[0].content for chat in examples(settings)] == [
        "q0",
        "q1",
    ]
    assert examples(TrainSettings(baselines=False)) == ()


def test_plain_texts_are_told_apart_by_what_they_say(write_rows: Callable[..., Path]) -> None:
    path = write_rows(*({"text": f"text number {n}"} for n in range(20)))
    other = write_rows({"text": "another text"}, name="other.jsonl")
    settings = TrainSettings(eval_fraction=0.5, data_format="text")
    training, held_out = read_data(path, None, settings, lambda _: None)
    assert (len(training.chats), len(held_out.chats)) == (10, 10)
    training, held_out = read_data(path, other, settings, lambda _: None)
    assert (len(training.chats), len(held_out.chats)) == (20, 1)
