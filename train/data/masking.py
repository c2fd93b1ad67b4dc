"""A chat as token ids with labels: the answers are trained, the prompts are not.

No chat template needs to mark the assistant's turns. A turn's prompt is rendered with the
generation prompt, exactly as the server renders it, and once more with the answer; what the second
has after their common prefix is the answer. The stop token is trained with it. What a template
writes after the stop token is not, because the server never gets there.

Each trained turn is held against what the server makes of the chat afterwards (`train.data.drift`).
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from train.data.chat import Chat, Message
from train.data.drift import Drift, first_difference
from train.data.rejected import Rejected, Unusable
from train.data.template import Template, Tools
from train.data.tokens import Tokens, common_length, shared_length
from train.errors import DataError

__all__ = [
    "IGNORED",
    "ChatEncoder",
    "Encoded",
    "EncodedChat",
    "common_length",
    "encode_chats",
    "try_encode",
]

IGNORED = -100
"""The label of a token that is not in the loss."""

DATED_NOTE = (
    "has a chat template that tells the date: the server makes other token ids on another day"
)

_ANSWERED = "the answered chat"
_NEXT = "the next turn's prompt"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and as many labels: the id itself where it is trained, IGNORED elsewhere."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained_tokens(self) -> int:
        """How many tokens are in the loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat with its sequences: mostly one, more where turns cannot share a sequence.

    `drift` is the first place where the server would make other ids. `stop_added`: the template
    ends answers with no stop token, so one was added. `rewritten`: the template shows an answer
    otherwise in later turns (it drops its reasoning, say).
    """

    chat: Chat
    sequences: tuple[Encoded, ...]
    drift: Drift | None = None
    stop_added: bool = False
    rewritten: bool = False

    @property
    def length(self) -> int:
        """The tokens of all its sequences."""
        return sum(len(sequence.input_ids) for sequence in self.sequences)

    @property
    def longest(self) -> int:
        """The tokens of its longest sequence."""
        return max(len(sequence.input_ids) for sequence in self.sequences)

    @property
    def trained_tokens(self) -> int:
        """How many of them are in the loss."""
        return sum(sequence.trained_tokens for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant's turn: the ids of its prompt, and of the answer with its stop token."""

    prompt: list[int]
    answer: list[int]
    stop_added: bool
    rewritten: bool
    drift: Drift | None


class ChatEncoder:
    """Chats to token ids with one base model's tokenizer and chat template.

    `stop_ids` are the ids at which the server stops; the first of them is added to the answers of
    a template that ends them with none. A tokenizer without a template is given the plain one
    (`registry.plain_template`), and `plain` is true. What a template says of the time (`dated`) is
    that of `now`, where it is given.
    """

    def __init__(
        self,
        tokenizer: Any,
        base_id: str,
        stop_ids: Sequence[int] = (),
        now: datetime | None = None,
    ) -> None:
        self._template = Template(tokenizer, base_id, now)
        self.plain, self.dated = self._template.plain, self._template.dated
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer)
        eos = tokenizer.eos_token_id
        self.stop_ids: tuple[int, ...] = tuple(
            dict.fromkeys([*([] if eos is None else [int(eos)]), *stop_ids])
        )
        written = tokenizer.convert_ids_to_tokens(list(self.stop_ids))
        self._stop = re.compile("|".join(re.escape(text) for text in written if text) or "(?!)")

    def prompt_ids(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """The token ids that the server makes of `messages` before the assistant answers."""
        return self._tokens.ids(self._template.render(messages, tools, open_turn=True))

    def encode(self, chat: Chat) -> list[Encoded]:
        """The sequences to train for `chat`, as `encode_chat` makes them."""
        return list(self.encode_chat(chat).sequences)

    def encode_chat(
        self, chat: Chat, max_length: int | None = None, *, measure: bool = False
    ) -> EncodedChat:
        """The sequences to train for `chat`: one, where the template lets turns follow each other.

        A template that rewrites earlier turns (it drops their reasoning, say) gives one sequence
        for each trained turn, each with the prompt that the server would have made for it. Raises
        Unusable where the template does not take the chat, or it has over `max_length` tokens. With
        `measure` such a chat is given for its length, with its last turn's labels alone: those of
        all turns take time that grows with the square of their number.
        """
        self._template.check_shown(chat)
        *earlier, last = [
            index
            for index, message in enumerate(chat.messages)
            if message.role == "assistant" and message.trained
        ]
        final = self._turn(chat, last, {})
        ids = final.prompt + final.answer
        if max_length is not None and len(ids) > max_length:
            if not measure:
                raise _too_long(len(ids), max_length)
            earlier = []
        prompts: dict[int, str] = {}
        turns = [self._turn(chat, index, prompts) for index in earlier]
        labels = [IGNORED] * len(final.prompt) + final.answer
        separate: list[Encoded] = []
        for turn in turns:
            start, end = len(turn.prompt), len(turn.prompt) + len(turn.answer)
            own = turn.prompt + turn.answer
            if ids[:end] == own:
                labels[start:end] = turn.answer
                continue
            if max_length is not None and end > max_length and not measure:
                raise _too_long(end, max_length)
            separate.append(Encoded(tuple(own), tuple([IGNORED] * start + turn.answer)))
        turns.append(final)
        return EncodedChat(
            chat,
            (*separate, Encoded(tuple(ids), tuple(labels))),
            drift=next((turn.drift for turn in turns if turn.drift), None),
            stop_added=any(turn.stop_added for turn in turns),
            rewritten=any(turn.rewritten for turn in turns),
        )

    def _turn(self, chat: Chat, index: int, prompts: dict[int, str]) -> _Turn:
        """The assistant's turn `index`, held against the chat as the server renders it after.

        `prompts` hands the prompt of the next turn on to that turn.
        """
        message = chat.messages[index]
        before = prompts.pop(index, None) or self._template.render(
            chat.messages[:index], chat.tools, open_turn=True
        )
        whole = self._template.render(chat.messages[: index + 1], chat.tools, open_turn=False)
        prompt, ids = self._tokens.ids(before), self._tokens.ids(whole)
        shared = shared_length(before, whole)
        rest = whole[shared:]
        if shared < len(before) and not rest.lstrip().startswith(message.content.strip()):
            raise Unusable(
                f"the chat template renders the prompt otherwise once turn {index + 1} is "
                f"answered: {rest[:40]!r} follows what both have",
                "a template whose prompt is the beginning of the whole chat",
                "template",
            )
        # Where tokens merge over the boundary, or the generation prompt is no part of the whole,
        # the prompt stays as the server makes it, and the rest is the answer.
        follows = ids[: len(prompt)] == prompt
        own_stops = self._stops_in(message)
        answer = self._until_stop(ids[len(prompt) :] if follows else self._alone(rest), own_stops)
        stop_added = answer is None
        if answer is None:  # nor is what the template writes after it a part of the answer
            content = message.content.strip()
            end = rest.rfind(content) + len(content)
            said = rest[:end] if content and content in rest else rest.rstrip()
            own = self._tokens.ids(before + said)
            follows = own[: len(prompt)] == prompt
            answer = own[len(prompt) :] if follows else self._alone(said)
        trained = prompt + answer
        stops = list(self._stop.finditer(rest))
        end = stops[own_stops].end() if len(stops) > own_stops else len(rest.rstrip())
        following, changed = self._following(chat, index, whole[:shared] + rest[:end], prompts)

        def differs(served: Sequence[int], where: str) -> Drift | None:
            return first_difference(
                self._tokenizer, trained, served, line=chat.line, turn=index + 1, where=where
            )

        drift = differs(ids, _ANSWERED)
        if drift is None and following is not None and not changed:
            drift = differs(following, _NEXT)
        stop = list(self.stop_ids[:1]) if stop_added else []
        return _Turn(prompt, answer + stop, stop_added, changed, drift)

    def _following(
        self, chat: Chat, index: int, said: str, prompts: dict[int, str]
    ) -> tuple[list[int] | None, bool]:
        """The ids of the prompt after turn `index`, and whether it does not begin with `said`.

        It is the chat's own next prompt, or after its last turn one with another question; None
        where the template takes none.
        """
        later = range(index + 1, len(chat.messages))
        answers = [at for at in later if chat.messages[at].role == "assistant"]
        messages = chat.messages[: answers[0]] if answers else _and_then(chat.messages)
        try:
            text = self._template.render(messages, chat.tools, open_turn=True)
        except Unusable:
            return None, False
        if answers:
            prompts.clear()
            prompts[answers[0]] = text
        if not text.startswith(said):
            return None, True
        return self._tokens.ids(text), False

    def _stops_in(self, message: Message) -> int:
        """How many stop tokens the assistant's own words make."""
        calls = (call.name + call.arguments for call in message.tool_calls)
        said = "".join((message.content, *calls))
        if not self._stop.search(said):
            return 0
        return sum(token in self.stop_ids for token in self._alone(said))

    def _until_stop(self, answer: list[int], own_stops: int) -> list[int] | None:
        """The answer up to the first stop token after its own, with it; None where it has none.

        What the template writes after that (Phi-3's: another stop token) is no part of it.
        """
        stops = [index for index, token in enumerate(answer) if token in self.stop_ids]
        return answer[: stops[own_stops] + 1] if len(stops) > own_stops else None

    def _alone(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _and_then(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The chat after its last turn: each call is answered, or the user says something."""
    calls = messages[-1].tool_calls
    if calls:
        results = (Message("tool", "{}", tool_call_id=call.id, name=call.name) for call in calls)
        return (*messages, *results)
    return (*messages, Message("user", "And then?"))


def _too_long(length: int, max_length: int) -> Unusable:
    wanted = f"at most {max_length} (max_length; or too_long=drop)"
    return Unusable(f"{length} tokens", wanted, "too_long")


def encode_chats(
    encoder: ChatEncoder,
    chats: Collection[Chat],
    path: Path,
    *,
    max_length: int,
    drop_long: bool,
    allow_drift: bool = False,
) -> list[EncodedChat]:
    """Each of `chats` with its sequences, in order.

    No row is ever cut: one longer than `max_length` tokens is left out with `drop_long` and an
    error without. Raises DataError that names each such row, each that the template refuses, and,
    unless `allow_drift`, each whose ids are not those that the server would make.
    """
    encoded: list[EncodedChat] = []
    problems: list[Rejected] = []

    def reject(problem: Rejected) -> None:
        if problem.kind != "too_long" or not drop_long:
            problems.append(problem)

    for chat in chats:
        row = try_encode(encoder, chat, max_length)
        if isinstance(row, Rejected):
            reject(row)
        elif row.drift is not None and not allow_drift:
            reject(row.drift.rejected())
        else:
            encoded.append(row)
    if problems:
        raise DataError.of_rows(path, problems)
    if chats and not encoded:
        raise DataError(
            f"{path}: every row is longer than {max_length} tokens", remedy="raise max_length"
        )
    return encoded


def try_encode(
    encoder: ChatEncoder, chat: Chat, max_length: int | None, *, measure: bool = False
) -> EncodedChat | Rejected:
    """The chat with its sequences, as `encode_chat` makes them, or why it has none."""
    try:
        return encoder.encode_chat(chat, max_length, measure=measure)
    except Unusable as error:
        return error.at(chat.line)
