"""The evaluation of a model in memory: base, base with examples, adapter, on held-out rows."""

from collections.abc import Sequence
from typing import Any

from train.data.formats import Chat, Message
from train.data.masking import ChatEncoder, EncodedChat
from train.evaluation.generation import greedy_answers, mean_loss
from train.evaluation.scores import Evaluation, Score, evaluate, task_of, with_examples
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
        longest = max(len(self._ids(chat.answer)) for chat in self._chats)
        self._max_new_tokens = settings.max_new_tokens or longest + _SPARE_TOKENS

    def run(self, examples: Sequence[Chat]) -> Evaluation:
        """All scores; `examples` are for the few-shot prompt, and there may be none."""
        adapter = self._score("the adapter", measure_loss=True)
        base = few_shot = None
        fitting = self._fitting(examples)
        if self._settings.baselines:
            with self._model.disable_adapter():
                base = self._score("the base", measure_loss=True)
                if fitting:
                    few_shot = self._score("the base with examples", examples=fitting)
        return Evaluation(
            task=task_of([chat.answer for chat in self._chats]),
            adapter=adapter,
            base=base,
            few_shot=few_shot,
            few_shot_examples=len(fitting) if few_shot else 0,
        )

    def _score(
        self, who: str, *, examples: Sequence[Chat] = (), measure_loss: bool = False
    ) -> Score:
        total = len(self._chats) * (2 if measure_loss else 1)
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            self._reporter.answered(who, min(done, total), total)

        def generate(prompts: Sequence[Sequence[Message]]) -> list[str]:
            answers = greedy_answers(
                self._model,
                [self._encoder.prompt_ids(prompt) for prompt in prompts],
                stop_ids=self._encoder.stop_ids,
                pad_id=self._tokenizer.pad_token_id,
                max_new_tokens=self._max_new_tokens,
                batch_size=self._settings.eval_batch_size,
                on_rows=advance,
            )
            return [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]

        loss = None
        if measure_loss:
            loss = mean_loss(
                self._model,
                [sequence for row in self._held_out for sequence in row.sequences],
                pad_id=self._tokenizer.pad_token_id,
                batch_size=self._settings.eval_batch_size,
                on_rows=advance,
            )
        return evaluate(generate, self._chats, examples=examples, loss=loss)

    def _fitting(self, examples: Sequence[Chat]) -> list[Chat]:
        """As many of the first examples as leave room for the longest row and its answer."""
        limit = getattr(self._model.config, "max_position_embeddings", None)
        fitting = list(examples)
        longest = max(self._chats, key=lambda chat: sum(len(m.content) for m in chat.messages))
        while fitting and limit:
            prompt = self._encoder.prompt_ids(with_examples(longest.prompt, fitting))
            if len(prompt) + self._max_new_tokens <= limit:
                break
            fitting.pop()
        return fitting

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
