"""The shapes that a row can have, and how each becomes a chat.

- text: `{"text": "<s>[INST] question [/INST] answer </s>"}`, Llama-2's; more turns follow as
  further `[INST] … [/INST] …`, a system prompt stands in the first as `<<SYS>> … <</SYS>>`
- prompt_completion: `{"prompt": "…", "completion": "…"}`, strings or arrays of turns
- messages: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}`; an
  assistant's `"weight": 0` keeps that answer out of the loss
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.rows import Row
from train.errors import DataError, RowProblem

ROLES = ("system", "user", "assistant")
_SHAPES = 'text, prompt and completion, or messages (`{"prompt": "…", "completion": "…"}` for one)'


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `trained` says whether an assistant's turn is in the loss."""

    role: str
    content: str
    trained: bool = True

    def as_dict(self) -> dict[str, str]:
        """The turn as chat templates and the OpenAI API take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Chat:
    """A row as a chat that ends with the assistant's answer. `line` is that of its row."""

    line: int
    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns but the last."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the assistant says in the last turn."""
        return self.messages[-1].content


class _Malformed(Exception):
    """A row that cannot be read: what is wrong, and what was expected."""

    def __init__(self, message: str, expected: str) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected


def to_chats(path: Path, rows: Sequence[Row], data_format: str = "auto") -> list[Chat]:
    """The chats of `rows`, one a row. `data_format` is a shape's name or "auto".

    Raises DataError that names every row that cannot be read.
    """
    chats: list[Chat] = []
    problems: list[RowProblem] = []
    for row in rows:
        try:
            chats.append(Chat(row.line, _read(row.values, data_format)))
        except _Malformed as error:
            problems.append(RowProblem(row.line, error.message, error.expected))
    if problems:
        raise DataError.of_rows(path, problems)
    return chats


def _read(values: Mapping[str, Any], data_format: str) -> tuple[Message, ...]:
    present = [key for key, value in values.items() if value is not None]
    if data_format == "auto":
        if "messages" in present:
            data_format = "messages"
        elif "prompt" in present or "completion" in present:
            data_format = "prompt_completion"
        elif "text" in present:
            data_format = "text"
        else:
            has = ", ".join(present) if present else "no columns"
            raise _Malformed(f"has {has}", _SHAPES)
    return _PARSERS[data_format](values)


_TURN = re.compile(r"\[INST\](?P<question>.*?)\[/INST\](?P<answer>.*?)(?=\[INST\]|\Z)", re.DOTALL)
_MARK = re.compile(r"\[/?INST\]")
_SYSTEM = re.compile(r"\s*<<SYS>>(?P<system>.*?)<</SYS>>(?P<question>.*)", re.DOTALL)
_TEXT_SHAPE = "`<s>[INST] question [/INST] answer </s>`"


def _from_text(values: Mapping[str, Any]) -> tuple[Message, ...]:
    text = _string(values, "text", _TEXT_SHAPE).strip()
    start = text.find("[INST]")
    if start < 0:
        raise _Malformed("no [INST] in the text", _TEXT_SHAPE)
    if text[:start].strip() not in ("", "<s>"):
        raise _Malformed(f"{_short(text[:start].strip())} stands before [INST]", _TEXT_SHAPE)
    marks = _MARK.findall(text)
    if marks != ["[INST]", "[/INST]"] * (len(marks) // 2):
        raise _Malformed("[INST] and [/INST] do not pair", _TEXT_SHAPE)
    messages: list[Message] = []
    for turn in _TURN.finditer(text, start):
        question = turn["question"]
        if not messages and (system := _SYSTEM.fullmatch(question)):
            messages.append(_message("system", system["system"].strip()))
            question = system["question"]
        if not question.strip():
            raise _Malformed("a turn without a question", _TEXT_SHAPE)
        answer = turn["answer"].strip()
        answer = answer.removesuffix("<s>").rstrip().removesuffix("</s>").strip()
        messages += [_message("user", question.strip()), _message("assistant", answer)]
    return tuple(messages)


def _from_prompt_completion(values: Mapping[str, Any]) -> tuple[Message, ...]:
    prompt, completion = values.get("prompt"), values.get("completion")
    if isinstance(prompt, list) or isinstance(completion, list):
        if not (isinstance(prompt, list) and isinstance(completion, list)):
            raise _Malformed("prompt and completion are not of one kind", "two strings")
        return _from_messages({"messages": [*prompt, *completion]})
    question = _string(values, "prompt", "a string")
    if not question.strip():
        raise _Malformed("an empty prompt", "the question in `prompt`")
    if completion is None:
        raise _Malformed("no answer (no completion)", "the answer in `completion`")
    answer = _string(values, "completion", "the answer in `completion`")
    return (_message("user", question), _message("assistant", answer.strip()))


def _from_messages(values: Mapping[str, Any]) -> tuple[Message, ...]:
    turns = values.get("messages")
    shape = "an array of {role, content} that ends with the assistant's answer"
    if not isinstance(turns, list) or not turns:
        raise _Malformed("messages is no array of turns", shape)
    messages = tuple(_turn(turn, number) for number, turn in enumerate(turns, start=1))
    if messages[-1].role != "assistant":
        raise _Malformed(f"no answer: the last turn is the {messages[-1].role}'s", shape)
    if not any(message.role == "user" for message in messages):
        raise _Malformed("no turn of the user's", shape)
    if any(message.role == "system" for message in messages[1:]):
        raise _Malformed("a system turn that is not the first", shape)
    if not any(message.trained for message in messages if message.role == "assistant"):
        raise _Malformed("no answer to train on: each has weight 0", shape)
    return messages


def _turn(turn: object, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise _Malformed(f"turn {number} is no object", "{role, content}")
    role = turn.get("role")
    if role not in ROLES:
        roles = ", ".join(ROLES)
        raise _Malformed(f"turn {number} has the role {_short(role)}", f"one of {roles}")
    if turn.get("tool_calls"):
        raise _Malformed(f"turn {number} calls tools, which is not trained", "text content")
    content = turn.get("content")
    if isinstance(content, list):
        content = _join_parts(content, number)
    if not isinstance(content, str):
        raise _Malformed(f"turn {number} has no text content", "content: a string")
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise _Malformed(f"turn {number} has the weight {_short(weight)}", "0 or 1")
    if role == "user" and not content.strip():
        raise _Malformed(f"turn {number} is an empty question", "content: the question")
    return _message(role, content, trained=weight != 0)


def _join_parts(parts: Sequence[object], number: int) -> str:
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise _Malformed(f"turn {number} has a part that is not text", "text parts only")
        texts.append(part["text"])
    return "".join(texts)


def _message(role: str, content: str, *, trained: bool = True) -> Message:
    if role == "assistant" and not content.strip():
        raise _Malformed("no answer (the assistant's turn is empty)", "an answer to train on")
    return Message(role, content, trained)


def _string(values: Mapping[str, Any], key: str, expected: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        is_absent = value is None
        raise _Malformed(f"no {key}" if is_absent else f"{key} is not a string", expected)
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


_PARSERS: dict[str, Callable[[Mapping[str, Any]], tuple[Message, ...]]] = {
    "text": _from_text,
    "prompt_completion": _from_prompt_completion,
    "messages": _from_messages,
}
