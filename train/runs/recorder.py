"""What a trainer tells while it trains: written down, reported, and guarded."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from train.errors import LossNotFinite
from train.processes import Processes
from train.progress import Step
from train.runs.checkpoints import Checkpoints, Progress
from train.runs.metrics import Metrics

OnStep = Callable[[Step], None]
OnEpoch = Callable[[int], None]
"""Told at the end of an epoch, by the step, when the figures of it are written."""
Asked = Callable[[], bool]
"""Whether the run has been asked to stop."""


def never() -> bool:
    """Nobody asks a run to stop."""
    return False


@dataclass
class Tally:
    """What a run has seen since its very start, and in all its processes once `total` was called.

    Tokens are those of the rows seen, padding not; `seconds` are those of training. `accuracy` is
    of the last step alone: the share of its trained tokens that were the likeliest.
    """

    tokens: int = 0
    trained_tokens: int = 0
    seconds_before: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    accuracy: float = 0.0
    _pending: list[int] = field(default_factory=lambda: [0, 0, 0])

    @classmethod
    def after(cls, progress: Progress | None) -> "Tally":
        """The tally as it was at a checkpoint."""
        if progress is None:
            return cls()
        return cls(progress.tokens, progress.trained_tokens, progress.seconds)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self.seconds_before + time.monotonic() - self._started

    def start(self) -> None:
        """The clock of training starts now."""
        self._started = time.monotonic()

    def add(self, tokens: int, trained_tokens: int, right: int) -> None:
        """A batch was seen by this process; `right` of its trained tokens were the likeliest."""
        for index, count in enumerate((tokens, trained_tokens, right)):
            self._pending[index] += count

    def total(self, accelerator: Any) -> None:
        """Add up what all processes saw; each of them has to call it at the end of a step."""
        tokens, trained, right = self._pending
        self._pending = [0, 0, 0]
        if accelerator.num_processes > 1:
            import torch

            counts = torch.tensor([tokens, trained, right], device=accelerator.device)
            tokens, trained, right = accelerator.reduce(counts).tolist()
        self.tokens += int(tokens)
        self.trained_tokens += int(trained)
        self.accuracy = right / max(1, trained)


def add_recorder(
    trainer: Any,
    tally: Tally,
    checkpoints: Checkpoints,
    metrics: Metrics,
    processes: Processes,
    on_step: OnStep | None,
    *,
    on_epoch: OnEpoch | None = None,
    measures: bool = False,
    asked_to_stop: Asked = never,
) -> None:
    """Have `trainer` write its metrics, seal its checkpoints and stop at numbers not finite.

    Where it is asked to stop it does so at the end of a step, with a checkpoint, and raises
    KeyboardInterrupt. With `measures` the held-out rows are measured before `on_epoch` is told.
    """
    from transformers import TrainerCallback

    stopping = False

    class Recorder(TrainerCallback):  # type: ignore[misc]
        """Hears of every step, before the checkpoint of the step is saved."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tally.start()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.order.epoch = int(state.epoch or 0)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal stopping
            if state.global_step >= state.max_steps and args.eval_strategy != "no":
                control.should_evaluate = True
            if asked_to_stop() and args.save_strategy != "no":
                stopping = control.should_save = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
            if not (abs(loss) < float("inf") and abs(norm) < float("inf")):
                raise LossNotFinite(state.global_step)
            tally.total(trainer.accelerator)
            ends_epoch = on_epoch is not None and _epoch_ends(state)
            if processes.is_first:
                line = {
                    "step": state.global_step,
                    "total_steps": state.max_steps,
                    "epoch": round(float(state.epoch or 0), 6),
                    "loss": loss,
                    "mean_token_accuracy": round(tally.accuracy, 6),
                    "grad_norm": norm,
                    "learning_rate": float(logs["learning_rate"]),
                    "tokens": tally.tokens,
                    "trained_tokens": tally.trained_tokens,
                    "seconds": round(tally.seconds, 3),
                }
                if control.should_evaluate or (ends_epoch and measures):
                    line["held_out_follows"] = True
                metrics.append(line)
            if on_step:
                on_step(Step(state.global_step, state.max_steps, loss, tally.tokens, tally.seconds))
            if on_epoch and ends_epoch and not control.should_evaluate:
                if measures:
                    note_held_out(state.global_step, *trainer.measure())
                on_epoch(state.global_step)

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any
        ) -> None:
            loss, accuracy = metrics["eval_loss"], metrics["eval_mean_token_accuracy"]
            note_held_out(state.global_step, float(loss), float(accuracy))
            if on_epoch and _epoch_ends(state):
                on_epoch(state.global_step)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.accelerator.wait_for_everyone()
            if processes.is_first:
                sync()
                checkpoints.seal(
                    Progress(
                        step=state.global_step,
                        tokens=tally.tokens,
                        trained_tokens=tally.trained_tokens,
                        seconds=round(tally.seconds, 3),
                        best_step=state.best_global_step,
                        done=control.should_training_stop,
                    )
                )
            trainer.accelerator.wait_for_everyone()
            if stopping and not control.should_training_stop:
                raise KeyboardInterrupt

    append, sync = metrics.append, metrics.sync

    def note_held_out(step: int, loss: float, accuracy: float) -> None:
        if not abs(loss) < float("inf"):
            raise LossNotFinite(step)
        if processes.is_first:
            append(
                {
                    "step": step,
                    "held_out_loss": loss,
                    "held_out_token_accuracy": round(accuracy, 6),
                }
            )

    trainer.add_callback(Recorder())


def _epoch_ends(state: Any) -> bool:
    return float(state.epoch or 0.5).is_integer()
