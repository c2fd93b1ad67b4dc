"""A chat as token ids with labels: the answers are trained, the prompts are not.

No chat template needs to mark the assistant's turns. A turn's prompt is rendered with the
generation prompt, exactly as the server renders it, and once more with the answer; what the second
has after their common prefix is the answer. The stop token is trained with it. What a template
writes after the stop token is not, because the server never gets there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from train.data.formats import Chat, Message
from train.errors import BaseNotTrainable, DataError, RowProblem

IGNORED = -100
"""The label of a token that is not in the loss."""


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
    """A chat with its sequences: mostly one, more where turns cannot share a sequence."""

    chat: Chat
    sequences: tuple[Encoded, ...]

    @property
    def length(self) -> int:
        """The tokens of all its sequences."""
        return sum(len(sequence.input_ids) for sequence in self.sequences)

    @property
    def trained_tokens(self) -> int:
        """How many of them are in the loss."""
        return sum(sequence.trained_tokens for sequence in self.sequences)


class _CannotEncode(Exception):
    """The template does not take the chat: what is wrong, and what was expected."""

    def __init__(self, message: str, expected: str) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected


class ChatEncoder:
    """Chats to token ids with one base model's tokenizer and chat template.

    `stop_ids` are the ids at which the server stops; the first of them is added to the answers of
    a template that ends them with none.
    """

    def __init__(self, tokenizer: Any, base_id: str, stop_ids: Sequence[int] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise BaseNotTrainable(
                f"{base_id} has no chat template",
                remedy="name an instruction-tuned base, or save one with its tokenizer",
            )
        self._tokenizer = tokenizer
        eos = tokenizer.eos_token_id
        self.stop_ids: tuple[int, ...] = tuple(
            dict.fromkeys([*([] if eos is None else [int(eos)]), *stop_ids])
        )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that the server makes of `messages` before the assistant answers."""
        return self._ids(self._render(messages, add_generation_prompt=True))

    def encode(self, chat: Chat) -> list[Encoded]:
        """The sequences to train for `chat`: one, where the template lets turns follow each other.

        A template that rewrites earlier turns (it drops their reasoning, say) gives one sequence
        for each trained turn, each with the prompt that the server would have made for it.
        """
        turns = [
            self._turn(chat.messages, index)
            for index, message in enumerate(chat.messages)
            if message.role == "assistant" and message.trained
        ]
        prompt, answer = turns.pop()
        ids = prompt + answer
        labels = [IGNORED] * len(prompt) + answer
        separate: list[Encoded] = []
        for prompt, answer in turns:
            start, end = len(prompt), len(prompt) + len(answer)
            if ids[:end] == prompt + answer:
                labels[start:end] = answer
            else:
                own = [IGNORED] * start + answer
                separate.append(Encoded(tuple(prompt + answer), tuple(own)))
        return [*separate, Encoded(tuple(ids), tuple(labels))]

    def _turn(self, messages: Sequence[Message], index: int) -> tuple[list[int], list[int]]:
        """The ids of the prompt of the assistant's turn `index`, and those of its answer."""
        before = self._render(messages[:index], add_generation_prompt=True)
        whole = self._render(messages[: index + 1], add_generation_prompt=False)
        prompt, ids = self._ids(before), self._ids(whole)
        if ids[: len(prompt)] == prompt:
            answer = ids[len(prompt) :]
        else:
            # Tokens merge over the boundary, or the generation prompt is not part of the whole. The
            # prompt stays as the server makes it; the rest has to be the answer.
            rest = whole[common_length([before, whole]) :]
            if not rest.lstrip().startswith(messages[index].content.strip()):
                raise _CannotEncode(
                    f"the chat template renders the prompt otherwise once turn {index + 1} is "
                    f"answered: {rest[:40]!r} follows what both have",
                    "a template whose prompt is the beginning of the whole chat",
                )
            answer = self._ids(rest)
        return prompt, self._until_stop(answer)

    def _until_stop(self, answer: list[int]) -> list[int]:
        for index in reversed(range(len(answer))):
            if answer[index] in self.stop_ids:
                return answer[: index + 1]
        return [*answer, *self.stop_ids[:1]]

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [message.as_dict() for message in messages],
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except jinja2.TemplateError as error:
            raise _CannotEncode(
                f"the base's chat template refuses it ({error})", "turns that the template takes"
            ) from error

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def common_length(sequences: Sequence[Sequence[Any]]) -> int:
    """How many elements all `sequences` (strings, or ids) begin with."""
    length = 0
    for elements in zip(*sequences, strict=False):
        if any(element != elements[0] for element in elements):
            break
        length += 1
    return length


def encode_chats(
    encoder: ChatEncoder, chats: Collection[Chat], path: Path, *, max_length: int, drop_long: bool
) -> list[EncodedChat]:
    """Each of `chats` with its sequences, in order.

    No row is ever cut: one longer than `max_length` tokens is left out with `drop_long` and an
    error without. Raises DataError that names each such row and each that the template refuses.
    """
    encoded: list[EncodedChat] = []
    problems: list[RowProblem] = []
    for chat in chats:
        try:
            sequences = encoder.encode(chat)
        except _CannotEncode as error:
            problems.append(RowProblem(chat.line, error.message, error.expected))
            continue
        longest = max(len(sequence.input_ids) for sequence in sequences)
        if longest <= max_length:
            encoded.append(EncodedChat(chat, tuple(sequences)))
        elif not drop_long:
            wanted = f"at most {max_length} (max_length; or too_long=drop)"
            problems.append(RowProblem(chat.line, f"{longest} tokens", wanted))
    if problems:
        raise DataError.of_rows(path, problems)
    if chats and not encoded:
        raise DataError(
            f"{path}: every row is longer than {max_length} tokens", remedy="raise max_length"
        )
    return encoded
