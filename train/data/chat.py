"""A row as a chat: its turns, and the tools that the assistant could call.

Turns render as the server renders them (vLLM 0.32, `vllm/renderers/chat_utils.py`): a tool call's
arguments as an object, text parts joined by a line break, an answer without text as "".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant calls; `arguments` is a JSON object's text."""

    name: str
    arguments: str
    id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The call as chat templates take it, keys in the order in which the server has them."""
        function = {"arguments": json.loads(self.arguments), "name": self.name}
        call: dict[str, Any] = {"function": function, "type": "function"}
        return call if self.id is None else {"id": self.id, **call}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `trained` says whether an assistant's turn is in the loss.

    `tool_call_id` and `name` belong to a tool's answer. `parts` are the texts that `content` was
    joined from, where they were several: a template that loops over parts gets them one by one.
    """

    role: str
    content: str
    trained: bool = True
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    parts: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The turn as chat templates take it; the OpenAI API takes calls with their ids only."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        return turn


@dataclass(frozen=True, slots=True)
class Chat:
    """A row as a chat that ends with the assistant's answer. `line` is that of its row.

    `tools` are OpenAI's tool objects, as the server hands them to a chat template.
    """

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns but the last."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the assistant says in the last turn."""
        return self.messages[-1].content

    @property
    def question(self) -> tuple[Message, ...]:
        """What tells chats apart: the prompt, or all of it where nothing is asked (plain text)."""
        return self.prompt if any(turn.content for turn in self.prompt) else self.messages

    def as_row(self) -> dict[str, Any]:
        """The chat as a messages row, weight 0 where a turn is not trained; it reads back equal."""
        turns = []
        for message in self.messages:
            turn = message.as_dict()
            if message.parts:
                turn["content"] = [{"type": "text", "text": part} for part in message.parts]
            if message.role == "assistant" and not message.trained:
                turn["weight"] = 0
            turns.append(turn)
        return {"messages": turns, **({"tools": list(self.tools)} if self.tools else {})}
