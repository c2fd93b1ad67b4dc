"""The evaluation of a model in memory: base, base with examples, adapter, on held-out rows."""

import time
from collections.abc import Sequence
from typing import Any

from train.data.chat import Chat
from train.data.masking import IGNORED, ChatEncoder, EncodedChat
from train.evaluation.comparison import Evaluation, compare
from train.evaluation.generation import greedy_answers, row_losses
from train.evaluation.scores import Answers, RowLoss, with_examples
from train.libraries import SMALLER_BATCHES, library_errors
from train.progress import Reporter
from train.settings import TrainSettings

_SPARE_TOKENS = 8
"""How much longer than the longest expected answer a generated one may get."""


class Scorer:
    """Scores a PEFT model on held-out rows, with its adapter and without."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        encoder: ChatEncoder,
        held_out: Sequence[EncodedChat],
        settings: TrainSettings,
        reporter: Reporter,
    ) -> None:
        self._model, self._tokenizer, self._encoder = model, tokenizer, encoder
        self._held_out, self._settings, self._reporter = held_out, settings, reporter
        self._chats = [row.chat for row in held_out]
        self._expected = [self._answer_of(row) for row in held_out]
        self._max_new_tokens = longest_answer(tokenizer, self._expected, settings)

    def run(self, examples: Sequence[Chat]) -> Evaluation:
        """All scores; `examples` are for the few-shot prompt, and there may be none.

        Raises TrainingFailed or OutOfMemory.
        """
        with library_errors("evaluating", SMALLER_BATCHES):
            return self._run(examples)

    def _run(self, examples: Sequence[Chat]) -> Evaluation:
        adapter = self._answers("the adapter", measure_loss=True)
        base = few_shot = None
        fitting = fitting_examples(
            self._encoder,
            self._chats,
            examples,
            limit=getattr(self._model.config, "max_position_embeddings", None),
            max_new_tokens=self._max_new_tokens,
        )
        if len(fitting) < len(examples) and self._settings.baselines:
            note = f"the few-shot prompt has room for {len(fitting)} of {len(examples)} examples"
            self._reporter.note(note)
        if self._settings.baselines:
            with self._model.disable_adapter():
                base = self._answers("the base", measure_loss=True)
                if fitting:
                    few_shot = self._answers("the base with examples", examples=fitting)
        return compare(self._chats, adapter, base, few_shot, len(fitting), expected=self._expected)

    def _answer_of(self, row: EncodedChat) -> str:
        """What is expected; of a turn that calls tools the text that makes the call."""
        if not row.chat.messages[-1].tool_calls:
            return row.chat.answer
        last = row.sequences[-1]
        start = max((at for at, label in enumerate(last.labels) if label == IGNORED), default=-1)
        text: str = self._tokenizer.decode(last.input_ids[start + 1 :], skip_special_tokens=True)
        return text

    def _answers(
        self, who: str, *, examples: Sequence[Chat] = (), measure_loss: bool = False
    ) -> Answers:
        total = len(self._chats) * (2 if measure_loss else 1)
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            self._reporter.answered(who, min(done, total), total)

        prompts = [
            self._encoder.prompt_ids(with_examples(chat.prompt, examples), chat.tools)
            for chat in self._chats
        ]
        begin = time.perf_counter()
        answers = greedy_answers(
            self._model,
            prompts,
            stop_ids=self._encoder.stop_ids,
            pad_id=self._tokenizer.pad_token_id,
            max_new_tokens=self._max_new_tokens,
            batch_size=self._settings.eval_batch_size,
            on_rows=advance,
        )
        seconds = time.perf_counter() - begin
        losses = None
        if measure_loss:
            sequences = [sequence for row in self._held_out for sequence in row.sequences]
            found = row_losses(
                self._model,
                sequences,
                pad_id=self._tokenizer.pad_token_id,
                batch_size=self._settings.eval_batch_size,
                on_rows=advance,
            )
            losses = self._by_row(found)
        return Answers(
            texts=[self._tokenizer.decode(ids, skip_special_tokens=True) for ids in answers],
            prompt_tokens=sum(map(len, prompts)) / len(prompts),
            seconds=seconds / len(prompts),
            losses=losses,
        )

    def _by_row(self, losses: Sequence[RowLoss]) -> list[RowLoss]:
        """The losses of sequences, put together where several are one row's."""
        rest = iter(losses)
        rows = [[next(rest) for _ in row.sequences] for row in self._held_out]
        return [
            RowLoss(
                sum(loss.nats for loss in row),
                sum(loss.tokens for loss in row),
                sum(loss.right for loss in row),
            )
            for row in rows
        ]


def longest_answer(tokenizer: Any, expected: Sequence[str], settings: TrainSettings) -> int:
    """The most tokens that an answer may have: as set, or a few more than the longest expected."""
    if settings.max_new_tokens is not None:
        return settings.max_new_tokens
    lengths = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in expected)
    return max(lengths) + _SPARE_TOKENS


def fitting_examples(
    encoder: ChatEncoder,
    chats: Sequence[Chat],
    examples: Sequence[Chat],
    *,
    limit: int | None,
    max_new_tokens: int,
) -> list[Chat]:
    """As many of the first examples as leave room for the longest row and its answer.

    `limit` is the most tokens that the model takes.
    """
    fitting = list(examples)
    longest = max(chats, key=lambda chat: sum(len(m.content) for m in chat.messages))
    while fitting and limit:
        prompt = encoder.prompt_ids(with_examples(longest.prompt, fitting), longest.tools)
        if len(prompt) + max_new_tokens <= limit:
            break
        fitting.pop()
    return fitting
