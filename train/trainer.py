"""The QLoRA run: a LoRA adapter on a quantised base, from its last checkpoint to its end."""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from registry import Base
from train.allocation import give_back_freed_memory
from train.answer_trainer import Schedule, make_trainer
from train.data.masking import Encoded
from train.errors import BaseNotTrainable, LossNotFinite, SettingsError
from train.hardware import Hardware
from train.libraries import library_errors
from train.processes import Processes, launched
from train.runs.checkpoints import Checkpoints, Progress
from train.runs.folder import RunFolder
from train.runs.metrics import Metrics
from train.runs.recorder import Asked, OnStep, Tally, add_recorder, never
from train.settings import TrainSettings

OnEpoch = Callable[[Any, int], None]
"""Given the model at the end of an epoch, and the step."""

_WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER_FILES = ("adapter_config.json", _WEIGHTS_FILE)


@dataclass(frozen=True, slots=True)
class Best:
    """The checkpoint that was kept: the one of `measurements` with the lowest held-out loss."""

    step: int
    held_out_loss: float
    measurements: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained PEFT model and what it took; tokens are those of the rows seen, padding not.

    `best` is None where the last step's weights were kept. `state` holds the weights where the
    model's own are shards (FSDP).
    """

    model: Any
    targets: tuple[str, ...]
    steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    losses: tuple[float, ...]
    best: Best | None = None
    state: Any = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the rows seen a second of training."""
        return self.tokens / self.seconds if self.seconds else 0.0


def resolve_targets(model: Any, settings: TrainSettings) -> tuple[str, ...]:
    """The names of the layers to adapt, sorted: all linear ones but the head, or those set.

    Raises SettingsError for a name that the model does not have.
    """
    import torch

    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    if not names:
        raise BaseNotTrainable(
            "the base model has no linear layers to adapt", remedy="use another base model"
        )
    if settings.targets == "all-linear":
        return tuple(sorted(names))
    unknown = [target for target in settings.targets if target not in names]
    if unknown:
        listing = ", ".join(sorted(names))
        raise SettingsError(
            [f"targets: the base has no layer {target}; it has {listing}" for target in unknown]
        )
    return tuple(sorted(set(settings.targets)))


def train_adapter(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    settings: TrainSettings,
    hardware: Hardware,
    on_step: OnStep | None = None,
    *,
    held_out: Sequence[Encoded] = (),
    run: RunFolder | None = None,
    on_epoch: OnEpoch | None = None,
    asked_to_stop: Asked = never,
) -> Trained:
    """Train a LoRA adapter on `rows` and give the PEFT model back.

    With a `run`, its metrics and checkpoints are written there, and training goes on after the last
    whole checkpoint that is there; else nothing stays on the disk. One seed gives one adapter, bit
    for bit, on one kind of CPU with one number of threads, interrupted or not.

    `on_epoch` is called before the checkpoint of the epoch's last step is whole, and so at every
    epoch's end however often a run is taken up again; the held-out loss is measured then.

    Raises KeyboardInterrupt after the step, and its checkpoint, in which it is asked to stop.
    Raises LossNotFinite at the first step whose loss, gradient or weights are not finite, DiskFull
    where a checkpoint finds no room.
    """
    import torch

    processes = launched()
    if hardware.device == "cpu" and settings.gradient_checkpointing is True:
        give_back_freed_memory()  # who recomputes to save memory means the process's
    targets = resolve_targets(model, settings)
    with ExitStack() as stack:
        folder = run.path if run else Path(stack.enter_context(_scratch()))
        checkpoints = Checkpoints(run.checkpoints if run else folder / "checkpoints")
        metrics = Metrics(run.metrics if run else folder / "metrics.jsonl")
        latest = _take_up(checkpoints, metrics, processes)
        tally = Tally.after(latest)
        with library_errors("preparing the training"):
            trainer = make_trainer(
                model,
                tokenizer,
                rows,
                held_out,
                settings,
                hardware,
                processes,
                targets,
                Schedule.of(settings, saves=run is not None, has_held_out=bool(held_out)),
                checkpoints,
                run.id if run else "lorikeet",
                run.trackers if run else folder,
                tally.add,
            )
            add_recorder(
                trainer,
                tally,
                checkpoints,
                metrics,
                processes,
                on_step,
                on_epoch=partial(on_epoch, trainer.model) if on_epoch else None,
                measures=bool(held_out),
                asked_to_stop=asked_to_stop,
            )
        with library_errors("training"):
            if latest is not None and latest.done:
                _load_weights(trainer.model, checkpoints.path(latest.best_step or latest.step))
                steps, best_step, seconds = latest.step, latest.best_step, latest.seconds
            else:
                start = str(checkpoints.path(latest.step)) if latest else None
                trainer.train(resume_from_checkpoint=start)
                state = trainer.state
                steps, best_step, seconds = state.global_step, state.best_global_step, tally.seconds
        weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise LossNotFinite(steps)
        measured = metrics.held_out()
        return Trained(
            model=trainer.model,
            targets=targets,
            steps=steps,
            tokens=tally.tokens,
            trained_tokens=tally.trained_tokens,
            seconds=seconds,
            losses=tuple(metrics.losses()),
            best=Best(best_step, measured[best_step], len(measured))
            if best_step in measured
            else None,
            state=trainer.accelerator.get_state_dict(trainer.model) if processes.sharded else None,
        )


def save_adapter(model: Any, base: Base, folder: Path, state: Any = None) -> None:
    """Write PEFT's two files into `folder`, nothing else, with the base named by its id.

    `state` are the weights of a `model` that holds shards, as `Trained` has it.
    """
    from accelerate.utils import extract_model_from_parallel

    with library_errors("saving the adapter"):
        model = extract_model_from_parallel(model)
        model.peft_config["default"].base_model_name_or_path = base.id
        model.peft_config["default"].revision = base.revision
        # "auto" would look the base's id up on the hub.
        model.save_pretrained(
            folder, safe_serialization=True, save_embedding_layers=False, state_dict=state
        )
        for path in folder.iterdir():
            if path.name not in _ADAPTER_FILES:
                path.unlink()
        # PEFT keeps the target names in a set, whose order differs from run to run.
        config_file = folder / "adapter_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=2, sort_keys=True)
        config_file.write_text(text + "\n", encoding="utf-8")


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lorikeet-train-")


def _take_up(checkpoints: Checkpoints, metrics: Metrics, processes: Processes) -> Progress | None:
    """Clear away what was not finished; the checkpoint to go on from, in every process."""
    latest = None
    if processes.is_first:
        checkpoints.remove_unfinished()
        latest = checkpoints.latest()
        metrics.cut(latest.step if latest else 0)
    return processes.tell(latest)


def _load_weights(model: Any, checkpoint: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(checkpoint / _WEIGHTS_FILE))
