"""The base's chat template: chats to text, as the server renders them; what it leaves out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
import jinja2.nodes

from registry.plain_template import PLAIN_TEMPLATE
from train.data.chat import Chat, Message, ToolCall
from train.data.rejected import Unusable
from train.errors import BaseNotTrainable

Tools = Sequence[Mapping[str, Any]]
_PROBE = " 7f3a"
_CLOCK = "strftime_now"
"""The function that chat templates have for the time, in transformers and so in the server."""
_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What a template raises, itself or by touching what a turn does not have."""


class Template:
    """Renders chats with a tokenizer's template; one without gets the plain one (`plain`).

    A template that asks for the time (`dated`) is told `now`, or the time as it is.
    """

    def __init__(self, tokenizer: Any, base_id: str, now: datetime | None = None) -> None:
        self.plain = not getattr(tokenizer, "chat_template", None)
        if self.plain:
            if tokenizer.eos_token is None:
                raise BaseNotTrainable(
                    f"{base_id} has neither a chat template nor a stop token",
                    remedy="set eos_token in its tokenizer_config.json",
                )
            tokenizer.chat_template = PLAIN_TEMPLATE
        self.dated = _CLOCK in str(tokenizer.chat_template)
        self._clock = {} if now is None else {_CLOCK: now.astimezone().strftime}
        self._tokenizer = tokenizer
        self._shown: set[str] = set()

    def render(self, messages: Sequence[Message], tools: Tools = (), *, open_turn: bool) -> str:
        """The text of `messages`; with `open_turn` up to where the assistant's answer begins.

        Raises Unusable that names the role which the template refuses, where it is one.
        """
        try:
            return self._text(messages, tools, open_turn=open_turn)
        except _FAILURES as error:
            what = self._refused(messages, tools, open_turn=open_turn)
            raise Unusable(
                f"the base's chat template refuses {what} ({error})",
                "turns that the template takes",
                "template",
            ) from error

    def check_shown(self, chat: Chat) -> None:
        """Raise Unusable where the template leaves out a turn, a call or the tools.

        It is asked once for each kind of them, with a chat that has it: what is rendered has to
        change when that does.
        """
        if chat.tools:
            self._check("the row's tools", chat, replace(chat, tools=()))
        for index, message in enumerate(chat.messages):
            what = f"a turn of the role {message.role}"
            if message.content.strip() and what not in self._shown:
                changed = replace(message, content=message.content + _PROBE, parts=())
                self._check(what, chat, _with_turn(chat, index, changed))
            what = "the assistant's tool calls"
            if message.tool_calls and what not in self._shown:
                calls = tuple(_other_call(call) for call in message.tool_calls)
                changed = replace(message, tool_calls=calls)
                self._check(what, chat, _with_turn(chat, index, changed))

    def _check(self, what: str, chat: Chat, changed: Chat) -> None:
        if what in self._shown:
            return
        before = self.render(chat.messages, chat.tools, open_turn=False)
        if before == self.render(changed.messages, changed.tools, open_turn=False):
            raise Unusable(
                f"the base's chat template leaves out {what}",
                "turns that the template shows to the model",
                "template",
            )
        self._shown.add(what)

    def _refused(self, messages: Sequence[Message], tools: Tools, *, open_turn: bool) -> str:
        """What of a chat the template does not take: without it, it renders the rest."""
        for role in ("system", "tool"):
            rest = [message for message in messages if message.role != role]
            if len(rest) < len(messages) and self._takes(rest, tools, open_turn=open_turn):
                return f"the role {role}"
        if tools and self._takes(messages, (), open_turn=open_turn):
            return "the row's tools"
        if any(message.tool_calls for message in messages):
            return "the row, which calls tools"
        return "its turns: " + ", ".join(message.role for message in messages[:8])

    def _takes(self, messages: Sequence[Message], tools: Tools, *, open_turn: bool) -> bool:
        try:
            self._text(messages, tools, open_turn=open_turn)
        except _FAILURES:
            return False
        return True

    def _text(self, messages: Sequence[Message], tools: Tools, *, open_turn: bool) -> str:
        turns = [message.as_dict() for message in messages]
        if self._wants_parts:
            for turn, message in zip(turns, messages, strict=True):
                if message.role != "tool":
                    parts = message.parts or ((message.content,) if message.content else ())
                    turn["content"] = [{"type": "text", "text": part} for part in parts]
        return str(
            self._tokenizer.apply_chat_template(
                turns,
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=open_turn,
                **self._clock,
            )
        )

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether the template loops over the parts of a turn: the server hands it parts then."""
        template = self._tokenizer.chat_template
        if not isinstance(template, str):
            return False
        from transformers.utils.chat_template_utils import _compile_jinja_template

        parsed = _compile_jinja_template(template).environment.parse(template)
        return any(_is_content(loop.iter) for loop in parsed.find_all(jinja2.nodes.For))


def _is_content(node: jinja2.nodes.Node) -> bool:
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, jinja2.nodes.Name) and node.name == "content"


def _with_turn(chat: Chat, index: int, message: Message) -> Chat:
    messages = (*chat.messages[:index], message, *chat.messages[index + 1 :])
    return replace(chat, messages=messages)


def _other_call(call: ToolCall) -> ToolCall:
    return replace(call, name=call.name + _PROBE.strip())
