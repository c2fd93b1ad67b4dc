"""Rows of each shape become chats, or an error that names the line."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from train.data.chat import Chat, Message, ToolCall
from train.data.formats import parse_rows, to_chats
from train.data.rejected import Rejected
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
    assert chat.messages[1] == Message("user", "a\nb", parts=("a", "b"))
    assert to_chats(FILE, [Row(1, chat.as_row())]) == [chat]
    assert [message.trained for message in chat.messages] == [True, True, False, True, True]
    assert chat.answer == "second"
    assert len(chat.prompt) == 4


USER = {"role": "user", "content": "a"}
CALL = {"name": "f"}
ANSWER = {"role": "assistant", "content": "b"}
CALLS = {"role": "assistant"}
TOOL = {"name": "f"}
HALF = '{"a": "\\udc00"}'
MANY = '{"a": ' + "1" * 5000 + "}"
DEEP = '{"a": ' * 100_000
NESTED: dict[str, Any] = functools.reduce(lambda inner, _: {"a": inner}, range(2000), {})


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
        ({"messages": [USER, {"role": "assistant", "tool_calls": [1]}]}, "call that is no object"),
        ({"messages": [USER | {"tool_calls": [{"name": "f"}]}]}, "calls tools as user"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]}, "a name"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [CALL | {"arguments": "{"}]}]},
            "the arguments of 'f' are not JSON",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [CALL | {"arguments": [1]}]}]},
            "the arguments of 'f' are no object",
        ),
        ({"messages": [USER, USER | {"role": "assistant"}], "tools": [{}]}, "tool without a name"),
        ({"messages": [USER, USER | {"role": "assistant"}], "tools": "[oops"}, "tools is not JSON"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "no answer: the last turn"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "turn 1 has the role 'narrator'"),
        ({"conversations": {}}, "conversations is no array"),
        ({"instruction": "a"}, "no answer (no output)"),
        ({"instruction": "a", "output": ""}, "no answer"),
        ({"instruction": " ", "input": "", "output": "b"}, "empty instruction"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "a history"),
        ({"text": "no markers at all"}, "no [INST], ChatML or ### markers"),
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
        ({"prompt": "a \ud83d", "completion": "b"}, "half a character, \\ud83d"),
        ({"messages": [USER, CALLS | {"tool_calls": [CALL | {"arguments": HALF}]}]}, "half a char"),
        ({"messages": [USER, CALLS | {"tool_calls": [CALL | {"arguments": MANY}]}]}, "many digits"),
        ({"messages": [USER, CALLS | {"tool_calls": [CALL | {"arguments": DEEP}]}]}, "too deeply"),
        ({"messages": [USER, ANSWER], "tools": [TOOL | {"parameters": NESTED}]}, "too deeply"),
        ({"conversations": [{"from": "function_call", "value": MANY}]}, "many digits"),
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


def test_alpaca_joins_instruction_and_input() -> None:
    row = {"instruction": "Translate.", "input": "gato", "output": " cat "}
    assert read(row) == [("user", "Translate.\n\ngato"), ("assistant", "cat")]
    assert read(row | {"input": "", "system": "Be brief."}) == [
        ("system", "Be brief."),
        ("user", "Translate."),
        ("assistant", "cat"),
    ]


def test_sharegpt_speakers_become_roles() -> None:
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "first", "weight": 0},
        {"from": "user", "value": "b"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "assistant", "value": "second"},
    ]
    (chat,) = to_chats(FILE, [Row(1, {"conversations": turns})])
    roles = ["system", "user", "assistant", "user", "assistant", "tool", "assistant"]
    assert [message.role for message in chat.messages] == roles
    assert not chat.messages[2].trained
    assert chat.messages[4].tool_calls == (ToolCall("f", '{"x": 1}'),)
    assert chat.answer == "second"


def test_tool_calls_and_tools_are_as_the_server_has_them() -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Lima"}'},
    }
    function = {"parameters": {"type": "object"}, "name": "weather"}
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "20", "tool_call_id": "c1", "name": "weather"},
        {"role": "assistant", "content": "20 °C"},
    ]
    for tools in ([{"type": "function", "function": function}], json.dumps([function])):
        (chat,) = to_chats(FILE, [Row(1, {"messages": turns, "tools": tools})])
        assert list(chat.tools[0]["function"].items()) == [
            ("name", "weather"),
            ("description", None),
            ("parameters", {"type": "object"}),
        ]
    assert chat.messages[1].as_dict() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "c1",
                "function": {"arguments": {"city": "Lima"}, "name": "weather"},
                "type": "function",
            }
        ],
    }
    assert chat.messages[2].as_dict()["tool_call_id"] == "c1"
    (again,) = to_chats(FILE, [Row(1, json.loads(json.dumps(chat.as_row())))])
    assert again == chat


def test_a_row_written_back_reads_as_the_same_chat() -> None:
    rows = [
        {"text": "only text, and no question"},
        {"messages": [USER, {"role": "assistant", "content": "b", "weight": 0}, USER, ANSWER]},
    ]
    for number, values in enumerate(rows):
        shape = "text" if number == 0 else "auto"
        (chat,) = to_chats(FILE, [Row(1, values)], shape)
        assert to_chats(FILE, [Row(1, chat.as_row())]) == [chat]
    assert chat.question == chat.prompt


def test_every_row_is_parsed_and_every_fault_has_its_kind() -> None:
    rows = [
        Row(1, {"prompt": "a", "completion": "b"}),
        Row(2, {"prompt": "a"}),
        Row(3, {"messages": [USER, ANSWER | {"weight": 0}]}),
        Row(4, {"nothing": 1}),
    ]
    first, *rest = parse_rows(rows)
    assert isinstance(first, Chat)
    kinds = [(item.line, item.kind) for item in rest if isinstance(item, Rejected)]
    assert kinds == [(2, "empty"), (3, "masked"), (4, "malformed")]
