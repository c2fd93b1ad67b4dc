"""The QLoRA run: TRL's SFTTrainer on a quantised base. The only importer of trl and peft.

Rows come tokenised, with labels, so nothing of TRL's own preparation runs. The loss is TRL's `nll`,
computed at the trained positions only and without its entropy and accuracy bookkeeping.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import Base
from train.batches import Collator, answer_logits, answer_loss, can_share_prefix
from train.data.masking import Encoded
from train.errors import BaseNotTrainable, LossNotFinite, SettingsError
from train.hardware import Hardware
from train.libraries import library_errors
from train.progress import Step
from train.settings import TrainSettings

if TYPE_CHECKING:
    import torch

OnStep = Callable[[Step], None]

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained PEFT model and what it took; tokens are those of the rows seen, padding not."""

    model: Any
    targets: tuple[str, ...]
    steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    losses: tuple[float, ...]

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
) -> Trained:
    """Train a LoRA adapter on `rows` and give the PEFT model back, in memory only.

    One seed gives one adapter, bit for bit, on one kind of CPU with one number of threads. Raises
    LossNotFinite at the first step whose loss, gradient or weights are not finite.
    """
    import torch

    targets = resolve_targets(model, settings)
    with tempfile.TemporaryDirectory(prefix="lorikeet-train-") as scratch:
        with library_errors("preparing the training"):
            trainer = _make_trainer(
                model, tokenizer, rows, settings, hardware, targets, Path(scratch), on_step
            )
        started = time.monotonic()
        with library_errors("training"):
            trainer.train()
        seconds = time.monotonic() - started
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise LossNotFinite(trainer.state.global_step)
    return Trained(
        model=trainer.model,
        targets=targets,
        steps=trainer.state.global_step,
        tokens=trainer.tokens,
        trained_tokens=trainer.trained_tokens,
        seconds=seconds,
        losses=tuple(trainer.losses),
    )


def save_adapter(model: Any, base: Base, folder: Path) -> None:
    """Write PEFT's two files into `folder`, nothing else, with the base named by its id."""
    with library_errors("saving the adapter"):
        model.peft_config["default"].base_model_name_or_path = base.id
        model.peft_config["default"].revision = base.revision
        # "auto" would look the base's id up on the hub.
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        for path in folder.iterdir():
            if path.name not in _ADAPTER_FILES:
                path.unlink()
        # PEFT keeps the target names in a set, whose order differs from run to run.
        config_file = folder / "adapter_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=2, sort_keys=True)
        config_file.write_text(text + "\n", encoding="utf-8")


def _make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    settings: TrainSettings,
    hardware: Hardware,
    targets: tuple[str, ...],
    scratch: Path,
    on_step: OnStep | None,
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    checkpoints = settings.gradient_checkpointing
    if checkpoints == "auto":
        checkpoints = hardware.device == "cuda"
    shares = settings.share_prefix and not checkpoints and can_share_prefix(model)

    class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer whose loss is that of the answers, computed there and nowhere else."""

        tokens = 0
        trained_tokens = 0
        losses: list[float]

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, "torch.Tensor"],
            return_outputs: bool = False,
            num_items_in_batch: "torch.Tensor | int | None" = None,
        ) -> "torch.Tensor":
            """The sum over this batch's trained tokens, over those of the whole step."""
            assert not return_outputs, "no evaluation runs inside the trainer"
            logits, labels = answer_logits(model, inputs)
            in_batch = int((labels >= 0).sum())
            loss = answer_loss(logits, labels) / (num_items_in_batch or max(1, in_batch))
            if not bool(loss.isfinite()):
                raise LossNotFinite(self.state.global_step + 1)
            self.trained_tokens += in_batch
            self.tokens += int(inputs["attention_mask"].sum())
            return loss

    class Reporter(TrainerCallback):  # type: ignore[misc]
        """Tells every optimiser step, and stops the run at a gradient that is not finite."""

        def __init__(self) -> None:
            self._started = time.monotonic()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._started = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
            if not (abs(loss) < float("inf") and abs(norm) < float("inf")):
                raise LossNotFinite(state.global_step)
            trainer.losses.append(loss)
            if on_step:
                seconds = time.monotonic() - self._started
                on_step(Step(state.global_step, state.max_steps, loss, trainer.tokens, seconds))

    config = SFTConfig(
        output_dir=str(scratch),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_scheduler(settings),
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=hardware.dtype == "bfloat16",
        use_cpu=hardware.device == "cpu",
        gradient_checkpointing=bool(checkpoints),
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        dataloader_pin_memory=hardware.device == "cuda",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if hardware.device == "cuda" and config.world_size == 1:
        config._n_gpu = 1  # one process trains on one GPU, however many there are
    trainer = AnswerTrainer(
        model=model,
        args=config,
        data_collator=Collator(tokenizer.pad_token_id, share_prefix=bool(shares)),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [list(row.input_ids) for row in rows],
                "labels": [list(row.labels) for row in rows],
                "length": [len(row.input_ids) for row in rows],
            }
        ),
        processing_class=tokenizer,
        callbacks=[Reporter()],
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.dropout,
            target_modules=list(targets),
            bias="none",
        ),
    )
    trainer.losses = []
    trainer.remove_callback(PrinterCallback)
    for weight in trainer.model.parameters():
        # TRL makes the adapter of a quantised base bfloat16: too coarse for AdamW's small updates,
        # and slow on CPUs. The optimiser is made later, of the weights as they are now.
        if weight.requires_grad:
            weight.data = weight.data.float()
    return trainer


def _scheduler(settings: TrainSettings) -> str:
    return "constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler
