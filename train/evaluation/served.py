"""Answers from a running server, by the openai client: what users get, and how long they wait."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from train.data.chat import Chat, Message
from train.errors import ServerFailed
from train.evaluation.scores import Answers, with_examples
from train.progress import Reporter

if TYPE_CHECKING:
    from openai import AsyncOpenAI

AT_ONCE = 8
"""Requests in flight."""

_TIMEOUT_SECONDS = 120.0


class Served:
    """One server; `url` may end in `/v1`, as for any OpenAI client."""

    def __init__(self, url: str, api_key: str | None, reporter: Reporter) -> None:
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._api_key, self._reporter = api_key or "none", reporter

    def check(self, model: str, digest: str) -> None:
        """Raise ServerFailed where the server does not have `model`, or another of that name.

        `digest` is a version's; a server that tells none is believed.
        """
        asyncio.run(self._check(model, digest))

    def answers(
        self,
        model: str,
        chats: Sequence[Chat],
        *,
        who: str,
        examples: Sequence[Chat] = (),
        max_new_tokens: int,
    ) -> Answers:
        """What `model` says to every chat, greedily; `seconds` is the mean latency of a request.

        A turn that calls tools is told as `expected_of` does. Raises ServerFailed.
        """
        bodies = [_body(chat, examples) for chat in chats]
        return asyncio.run(self._ask(model, bodies, who, max_new_tokens))

    async def _check(self, model: str, digest: str) -> None:
        async with self._client(retries=0) as client:
            card = await client.models.retrieve(model)
        has = (card.model_extra or {}).get("digest", digest)
        if has != digest:
            raise ServerFailed(
                f"{self.url} has another {model}: {has}, not {digest}",
                remedy="name a server with this data folder (LORIKEET_HOME)",
            )

    async def _ask(
        self, model: str, bodies: Sequence[dict[str, Any]], who: str, max_new_tokens: int
    ) -> Answers:
        texts = [""] * len(bodies)
        tokens = seconds = 0.0
        done = 0
        waiting = iter(enumerate(bodies))

        async def work(client: "AsyncOpenAI") -> None:
            nonlocal tokens, seconds, done
            for index, body in waiting:
                begin = time.perf_counter()
                answer = await client.chat.completions.create(
                    model=model, temperature=0, max_tokens=max_new_tokens, **body
                )
                seconds += time.perf_counter() - begin
                tokens += answer.usage.prompt_tokens if answer.usage else 0
                said = answer.choices[0].message
                calls = [
                    (call.function.name, call.function.arguments)
                    for call in said.tool_calls or ()
                    if call.type == "function"
                ]
                texts[index] = _calls(calls) if calls else said.content or ""
                done += 1
                self._reporter.answered(who, done, len(bodies))

        async with self._client(retries=4) as client:
            await asyncio.gather(*(work(client) for _ in range(AT_ONCE)))
        return Answers(texts, tokens / len(bodies), seconds / len(bodies))

    @asynccontextmanager
    async def _client(self, *, retries: int) -> "AsyncIterator[AsyncOpenAI]":
        """A client whose errors are ours."""
        from openai import APIConnectionError, APIError, AsyncOpenAI

        client = AsyncOpenAI(
            base_url=self.url, api_key=self._api_key, timeout=_TIMEOUT_SECONDS, max_retries=retries
        )
        try:
            async with client:
                yield client
        except APIConnectionError as error:
            raise ServerFailed(
                f"{self.url} does not answer: {error}",
                remedy="start it with `lorikeet serve`, or correct --url",
            ) from error
        except APIError as error:
            raise ServerFailed(
                f"{self.url} refuses: {error.message}",
                remedy="the server's log has more; --api-key names a key that may use the adapter",
            ) from error


def expected_of(chat: Chat) -> str:
    """What is expected of a served answer: its text, or the calls of tools, as JSON."""
    calls = chat.messages[-1].tool_calls
    return _calls([(call.name, call.arguments) for call in calls]) if calls else chat.answer


def _body(chat: Chat, examples: Sequence[Chat]) -> dict[str, Any]:
    messages = [_turn(message) for message in with_examples(chat.prompt, examples)]
    return {"messages": messages, **({"tools": list(chat.tools)} if chat.tools else {})}


def _turn(message: Message) -> dict[str, Any]:
    """A turn as the OpenAI API takes it: the arguments of a call as text, each with an id."""
    turn = message.as_dict()
    for at, call in enumerate(turn.get("tool_calls", ())):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
        call.setdefault("id", f"call-{at}")
    if message.role == "tool":
        turn.setdefault("tool_call_id", "call-0")
    return turn


def _calls(calls: Sequence[tuple[str, str]]) -> str:
    """Calls of tools in one way of writing, so that they can be compared."""
    return json.dumps([[name, _value(text)] for name, text in calls], sort_keys=True)


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:  # what a model wrote
        return arguments
