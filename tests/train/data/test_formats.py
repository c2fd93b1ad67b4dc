"""Rows of each shape become chats, or an error that names the line."""

from pathlib import Path
from typing import Any

import pytest

from train.data.formats import Message, to_chats
from train.data.rows import Row
from train.errors import DataError

FILE = Path("rows.jsonl")


def read(values: dict[str, Any], data_format: str = "auto") -> list[tuple[str, str]]:
    (chat,) = to_chats(FILE, [Row(7, values)], data_format)
    assert chat.line == 7
    return [(message.role, message.content) for message in chat.messages]


def test_text_with_one_turn() -> None:
    text = "<s>[INST] What is OPL? [/INST] A language. </s>"
    assert read({"text": text}) == [("user", "What is OPL?"), ("assistant", "A language.")]
    assert read({"text": "[INST]a[/INST]b"}) == [("user", "a"), ("assistant", "b")]


def test_text_with_more_turns_and_a_system_prompt() -> None:
    text = (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>"
        "<s>[INST] Two\nlines? [/INST] Yes:\n</s in text> </s>"
    )
    assert read({"text": text}) == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Two\nlines?"),
        ("assistant", "Yes:\n</s in text>"),
    ]


def test_prompt_and_completion() -> None:
    wanted = [("user", " keep \n"), ("assistant", "b")]
    assert read({"prompt": " keep \n", "completion": " b\n"}) == wanted
    prompt, completion = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    wanted = [("user", "a"), ("assistant", "b")]
    assert read({"prompt": [prompt], "completion": [completion]}) == wanted


def test_messages_with_parts_weight_and_absent_columns() -> None:
    row = {
        "text": None,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
            {"role": "assistant", "content": "first", "weight": 0},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "second", "weight": 1},
        ],
    }
    (chat,) = to_chats(FILE, [Row(1, row)])
    assert chat.messages[1] == Message("user", "ab")
    assert [message.trained for message in chat.messages] == [True, True, False, True, True]
    assert chat.answer == "second"
    assert len(chat.prompt) == 4


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "<s>[INST] a [/INST] </s>"}, "no answer"),
        ({"text": "<s>[INST] a [/INST]"}, "no answer"),
        ({"text": "[INST] a [/INST] b [INST] c [/INST]"}, "no answer"),
        ({"text": "[INST] [/INST] b"}, "without a question"),
        ({"text": "[INST] a"}, "do not pair"),
        ({"text": "a [/INST] b"}, "no [INST]"),
        ({"text": "[INST] a [INST] b [/INST] [/INST] c"}, "do not pair"),
        ({"text": "hello [INST] a [/INST] b"}, "'hello' stands before [INST]"),
        ({"text": 3}, "not a string"),
        ({"prompt": "a"}, "no answer"),
        ({"prompt": "a", "completion": " "}, "no answer"),
        ({"completion": "b"}, "no prompt"),
        ({"prompt": " ", "completion": "b"}, "empty prompt"),
        ({"prompt": [USER], "completion": "b"}, "not of one kind"),
        ({"messages": []}, "no array of turns"),
        ({"messages": [USER]}, "no answer: the last turn is the user's"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "no answer"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "no turn of the user's"),
        ({"messages": [{"role": "human", "content": "a"}]}, "turn 1 has the role 'human'"),
        ({"messages": ["a"]}, "turn 1 is no object"),
        ({"messages": [{"role": "user", "content": [{"image_url": "x"}]}]}, "not text"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [1]}]}, "calls tools"),
        ({"messages": [USER, {"role": "assistant", "content": "b", "weight": 0}]}, "weight 0"),
        ({"messages": [USER, {"role": "assistant", "content": "b", "weight": 2}]}, "weight 2"),
        (
            {
                "messages": [
                    USER,
                    {"role": "system", "content": "s"},
                    USER,
                    USER | {"role": "assistant"},
                ]
            },
            "not the first",
        ),
        ({"question": "a", "answer": "b"}, "has question, answer"),
        ({}, "no columns"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(values: dict[str, Any], message: str) -> None:
    good = Row(1, {"prompt": "a", "completion": "b"})
    with pytest.raises(DataError) as caught:
        to_chats(FILE, [good, Row(5, values)])
    (problem,) = caught.value.problems
    assert problem.line == 5
    assert message in problem.message
    assert problem.expected
    assert "rows.jsonl" in caught.value.message


def test_a_named_format_is_the_one_read() -> None:
    row = {"text": "[INST] a [/INST] b", "prompt": "p", "completion": "c"}
    assert read(row, "text")[0] == ("user", "a")
    assert read(row)[0] == ("user", "p")
    with pytest.raises(DataError, match="no array of turns"):
        read(row, "messages")
