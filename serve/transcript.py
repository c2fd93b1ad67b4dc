"""What was asked and what was answered, read along for a log that is to have it."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from starlette.types import Message, Receive

MAX_BYTES = 4 * 1024**2
"""Kept of a request and of its answer, as they come over the wire."""
MAX_CHARS = 32 * 1024
"""Of either in the log."""
EVENT = b"data: "


class Transcript:
    """Of one request to a route that generates text."""

    def __init__(self) -> None:
        self._request, self._answer = bytearray(), bytearray()

    def reading(self, receive: Receive) -> Receive:
        """`receive`, read along."""

        async def received() -> Message:
            message = await receive()
            _keep(self._request, message.get("body", b""))
            return message

        return received

    def sent(self, body: bytes) -> None:
        """A piece of the answer was sent."""
        _keep(self._answer, body)

    def fields(self) -> dict[str, Any]:
        """`prompt` (messages, or the text) and `answer`, a text for each choice."""
        asked = _parsed(bytes(self._request))
        texts: dict[int, str] = defaultdict(str)
        for body in self._bodies():
            for choice in body.get("choices") or ():
                texts[choice.get("index", 0)] += _text(choice)
        answers = [_cut(texts[index]) for index in sorted(texts)]
        return {
            "prompt": _cut(asked.get("messages") or asked.get("prompt")),
            "answer": answers[0] if len(answers) == 1 else answers or None,
        }

    def _bodies(self) -> Iterator[dict[str, Any]]:
        """The answer's one body, or those of its events."""
        answer = bytes(self._answer)
        if answer.startswith(EVENT):
            yield from (_parsed(line.removeprefix(EVENT)) for line in answer.splitlines())
        else:
            yield _parsed(answer)


def _keep(kept: bytearray, body: bytes) -> None:
    kept += body[: MAX_BYTES - len(kept)]


def _parsed(text: bytes) -> dict[str, Any]:
    """The JSON object; an empty one for anything else: a client may send what it likes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(choice: dict[str, Any]) -> str:
    """Of a choice or of a piece of it; a tool's call as its name and arguments."""
    message = choice.get("message") or choice.get("delta") or choice
    parts = [message.get("content") or message.get("text") or ""]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts += [function.get("name") or "", function.get("arguments") or ""]
    return "".join(parts)


def _cut(value: Any) -> Any:
    """`value` where it is short, else the beginning of its text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
