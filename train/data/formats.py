"""The shapes that a row can have, and how each becomes a chat.

- messages: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}`; an
  assistant's `"weight": 0` keeps that answer out of the loss; `tool_calls`, the role `tool` and the
  row's `tools` as in OpenAI's API
- sharegpt: `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}`
- prompt_completion: `{"prompt": "…", "completion": "…"}`, strings or arrays of turns
- alpaca: `{"instruction": "…", "input": "…", "output": "…"}`
- text: `{"text": "<s>[INST] question [/INST] answer </s>"}` and other markers (`train.data.text`)
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.data.chat import Chat, Message, ToolCall
from train.data.json_text import parse_json
from train.data.rejected import Rejected, Unusable, usable
from train.data.rows import Row
from train.data.text import turns_of
from train.data.turns import message_of, tool_of

__all__ = ["Chat", "Message", "ToolCall", "parse_rows", "to_chats"]

_SHAPES = (
    "text, prompt and completion, instruction and output, conversations, or messages "
    '(`{"prompt": "…", "completion": "…"}` for one)'
)
_TURNS = "an array of {role, content} that ends with the assistant's answer"


def to_chats(path: Path, rows: Sequence[Row], data_format: str = "auto") -> list[Chat]:
    """The chats of `rows`, one a row. `data_format` is a shape's name or "auto".

    Raises DataError that names every row that cannot be read.
    """
    return usable(path, parse_rows(rows, data_format))


def parse_rows(rows: Iterable[Row], data_format: str = "auto") -> Iterable[Chat | Rejected]:
    """Each of `rows` as a chat, or why it is none."""
    for row in rows:
        try:
            yield _chat(row, data_format)
        except Unusable as error:
            yield error.at(row.line)


def _chat(row: Row, data_format: str) -> Chat:
    if data_format == "auto":
        data_format = _shape(row.values)
    try:
        messages = tuple(_PARSERS[data_format](row.values))
        tools = tuple(tool_of(tool) for tool in _listed(row.values, "tools"))
        _check(messages)
        chat = Chat(row.line, messages, tools)
        json.dumps(chat.as_row(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Unusable(f"half a character, {half}", "text that can be written as UTF-8") from None
    except RecursionError:
        raise Unusable("nested too deeply", "less depth in tools and arguments") from None
    return chat


def _shape(values: Mapping[str, Any]) -> str:
    present = [key for key, value in values.items() if value is not None]
    for shape, columns in _COLUMNS.items():
        if any(column in present for column in columns):
            return shape
    raise Unusable(f"has {', '.join(present) if present else 'no columns'}", _SHAPES)


def _check(messages: Sequence[Message]) -> None:
    """Raise Unusable where there is nothing to answer, no answer, or none in the loss."""
    if messages[-1].role != "assistant":
        raise Unusable(f"no answer: the last turn is the {messages[-1].role}'s", _TURNS)
    if not any(message.role == "user" for message in messages):
        raise Unusable("no turn of the user's", _TURNS)
    if any(message.role == "system" for message in messages[1:]):
        raise Unusable("a system turn that is not the first", _TURNS)
    answers = [message for message in messages if message.role == "assistant"]
    if any(not answer.content.strip() and not answer.tool_calls for answer in answers):
        raise Unusable(
            "no answer (the assistant's turn is empty)", "an answer to train on", "empty"
        )
    if not any(answer.trained for answer in answers):
        raise Unusable("no answer to train on: each has weight 0", _TURNS, "masked")


def _from_text(values: Mapping[str, Any], *, plain: bool) -> list[Message]:
    text = _string(values, "text", "the text of a chat")
    if not text.strip():
        raise Unusable("an empty text", "the text of a chat", "empty")
    return turns_of(text, plain=plain)


def _from_prompt_completion(values: Mapping[str, Any]) -> list[Message]:
    prompt, completion = values.get("prompt"), values.get("completion")
    if isinstance(prompt, list) or isinstance(completion, list):
        if not (isinstance(prompt, list) and isinstance(completion, list)):
            raise Unusable("prompt and completion are not of one kind", "two strings")
        return _from_messages({"messages": [*prompt, *completion]})
    question = _string(values, "prompt", "a string")
    if not question.strip():
        raise Unusable("an empty prompt", "the question in `prompt`")
    return [Message("user", question), _answer(values, "completion")]


def _from_alpaca(values: Mapping[str, Any]) -> list[Message]:
    instruction = _string(values, "instruction", "a string").strip()
    given = values.get("input")
    if given is not None and not isinstance(given, str):
        raise Unusable("input is not a string", "a string, or none")
    if values.get("history"):
        raise Unusable("a history, which this shape has not", "messages, for more turns")
    question = "\n\n".join(part for part in (instruction, (given or "").strip()) if part)
    if not question:
        raise Unusable("an empty instruction", "the question in `instruction`")
    return [*_system(values), Message("user", question), _answer(values, "output")]


def _from_messages(values: Mapping[str, Any]) -> list[Message]:
    turns = values.get("messages")
    if not isinstance(turns, list) or not turns:
        raise Unusable("messages is no array of turns", _TURNS)
    return [message_of(turn, number) for number, turn in enumerate(turns, start=1)]


_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bing", "bard"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}


def _from_sharegpt(values: Mapping[str, Any]) -> list[Message]:
    turns = values.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise Unusable("conversations is no array of turns", "an array of {from, value}")
    return [*_system(values), *(_speech(turn, n) for n, turn in enumerate(turns, start=1))]


def _speech(turn: object, number: int) -> Message:
    """One turn of ShareGPT's; a `function_call` says its call as JSON."""
    if not isinstance(turn, Mapping):
        raise Unusable(f"turn {number} is no object", "{from, value}")
    speaker, value = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if speaker == "function_call":
        call = value
        if isinstance(value, str):
            fault = f"turn {number} is no call in JSON"
            call = parse_json(value, fault, '{"name", "arguments"}')
        calls = call if isinstance(call, list) else [call]
        said = {"role": "assistant", "content": None, "tool_calls": calls}
    else:
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        said = {"role": role or speaker, "content": value, "tool_calls": turn.get("tool_calls")}
    return message_of({**said, "weight": turn.get("weight")}, number)


def _system(values: Mapping[str, Any]) -> list[Message]:
    """The system turn of a row that has it in a column of its own."""
    system = values.get("system")
    return [Message("system", system)] if isinstance(system, str) and system.strip() else []


def _answer(values: Mapping[str, Any], key: str) -> Message:
    if values.get(key) is None:
        raise Unusable(f"no answer (no {key})", f"the answer in `{key}`", "empty")
    return Message("assistant", _string(values, key, f"the answer in `{key}`").strip())


def _string(values: Mapping[str, Any], key: str, expected: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        is_absent = value is None
        raise Unusable(f"no {key}" if is_absent else f"{key} is not a string", expected)
    return value


def _listed(values: Mapping[str, Any], key: str) -> list[Any]:
    """The list in column `key`, none where it is absent; its JSON text is read too."""
    value = values.get(key)
    if isinstance(value, str) and value.strip():
        value = parse_json(value, f"{key} is not JSON", "a JSON array")
    if not value:
        return []
    if not isinstance(value, list):
        raise Unusable(f"{key} is no array", "an array of tools")
    return value


_COLUMNS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction",),
    "auto_text": ("text",),
}
_PARSERS: dict[str, Callable[[Mapping[str, Any]], list[Message]]] = {
    "text": lambda values: _from_text(values, plain=True),
    "auto_text": lambda values: _from_text(values, plain=False),
    "alpaca": _from_alpaca,
    "prompt_completion": _from_prompt_completion,
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
}
