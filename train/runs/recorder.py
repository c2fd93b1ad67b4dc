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


@dataclass
class Tally:
    """What a run has seen since its very start, and in all its processes once `total` was called.

    Tokens are those of the rows seen, padding not; `seconds` are those of training.
    """

    tokens: int = 0
    trained_tokens: int = 0
    seconds_before: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _pending: list[int] = field(default_factory=lambda: [0, 0])

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

    def add(self, tokens: int, trained_tokens: int) -> None:
        """A batch was seen by this process."""
        self._pending[0] += tokens
        self._pending[1] += trained_tokens

    def total(self, accelerator: Any) -> None:
        """Add up what all processes saw; each of them has to call it at the end of a step."""
        tokens, trained = self._pending
        self._pending = [0, 0]
        if accelerator.num_processes > 1:
            import torch

            counts = torch.tensor([tokens, trained], device=accelerator.device)
            tokens, trained = accelerator.reduce(counts).tolist()
        self.tokens += int(tokens)
        self.trained_tokens += int(trained)


def add_recorder(
    trainer: Any,
    tally: Tally,
    checkpoints: Checkpoints,
    metrics: Metrics,
    processes: Processes,
    on_step: OnStep | None,
) -> None:
    """Have `trainer` write its metrics, seal its checkpoints and stop at numbers not finite."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]
        """Hears of every step, before the checkpoint of the step is saved."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tally.start()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.order.epoch = int(state.epoch or 0)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= state.max_steps and args.eval_strategy != "no":
                control.should_evaluate = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
            if not (abs(loss) < float("inf") and abs(norm) < float("inf")):
                raise LossNotFinite(state.global_step)
            tally.total(trainer.accelerator)
            if processes.is_first:
                metrics.append(
                    {
                        "step": state.global_step,
                        "epoch": round(float(state.epoch or 0), 6),
                        "loss": loss,
                        "grad_norm": norm,
                        "learning_rate": float(logs["learning_rate"]),
                        "tokens": tally.tokens,
                        "trained_tokens": tally.trained_tokens,
                        "seconds": round(tally.seconds, 3),
                    }
                )
            if on_step:
                on_step(Step(state.global_step, state.max_steps, loss, tally.tokens, tally.seconds))

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any
        ) -> None:
            loss = float(metrics["eval_loss"])
            if not abs(loss) < float("inf"):
                raise LossNotFinite(state.global_step)
            if processes.is_first:
                append({"step": state.global_step, "held_out_loss": loss})

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

    append, sync = metrics.append, metrics.sync
    trainer.add_callback(Recorder())
