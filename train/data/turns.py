"""One turn of a messages row, and one tool, checked and as the server would take them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from train.data.chat import Message, ToolCall
from train.data.json_text import parse_json
from train.data.rejected import Unusable

ROLES = ("system", "user", "assistant", "tool")


def message_of(turn: object, number: int) -> Message:
    """Turn `number` (from 1) of a row. Raises Unusable."""
    if not isinstance(turn, Mapping):
        raise Unusable(f"turn {number} is no object", "{role, content}")
    role = turn.get("role")
    if role not in ROLES:
        roles = ", ".join(ROLES)
        raise Unusable(f"turn {number} has the role {_short(role)}", f"one of {roles}")
    calls = _calls(turn.get("tool_calls"), number, role)
    content = turn.get("content")
    parts: tuple[str, ...] = ()
    if isinstance(content, list):
        parts = _parts(content, number)
        content = "\n".join(parts)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise Unusable(f"turn {number} has no text content", "content: a string")
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise Unusable(f"turn {number} has the weight {_short(weight)}", "0 or 1")
    if role == "user" and not content.strip() and number > 1:
        raise Unusable(f"turn {number} is an empty question", "content: the question")
    is_tool = role == "tool"
    return Message(
        role,
        content,
        trained=weight != 0,
        tool_calls=calls,
        tool_call_id=_text(turn, "tool_call_id", number) if is_tool else None,
        name=_text(turn, "name", number) if is_tool else None,
        parts=parts if len(parts) > 1 else (),
    )


def tool_of(tool: object) -> dict[str, Any]:
    """A row's tool as the server hands it to the chat template: its keys, and their order.

    vLLM fills in a description and parameters of null. Raises Unusable.
    """
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unusable(
            "a tool without a name", '{"type": "function", "function": {"name", "parameters"}}'
        )
    known: dict[str, Any] = {key: function.get(key) for key in ("name", "description")}
    known["parameters"] = function.get("parameters")
    if function.get("strict") is not None:
        known["strict"] = function["strict"]
    return {"type": "function", "function": known}


def _calls(calls: object, number: int, role: str) -> tuple[ToolCall, ...]:
    if not calls:
        return ()
    if role != "assistant":
        raise Unusable(f"turn {number} calls tools as {role}", "calls in the assistant's turns")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise Unusable(f"turn {number}: tool_calls is no array", "an array of calls")
    return tuple(_call(call, number) for call in calls)


def _call(call: object, number: int) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise Unusable(f"turn {number} has a tool call that is no object", "{name, arguments}")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise Unusable(f"turn {number} calls a tool without a name", "{name, arguments}")
    if isinstance(arguments, str) and arguments.strip():
        fault = f"turn {number}: the arguments of {_short(name)} are not JSON"
        arguments = parse_json(arguments, fault, "a JSON object")
    if not arguments:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise Unusable(f"turn {number}: the arguments of {_short(name)} are no object", "an object")
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), _text(call, "id", number))


def _parts(parts: Sequence[object], number: int) -> tuple[str, ...]:
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise Unusable(f"turn {number} has a part that is not text", "text parts only")
        texts.append(part["text"])
    return tuple(texts)


def _text(turn: Mapping[str, Any], key: str, number: int) -> str | None:
    value = turn.get(key)
    if value is not None and not isinstance(value, str):
        raise Unusable(f"turn {number}: {key} is not a string", "a string")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
