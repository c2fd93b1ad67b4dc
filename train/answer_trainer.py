"""TRL's SFTTrainer with the loss of the answers, computed there and nowhere else.

Rows come tokenised, with labels, so nothing of TRL's own preparation runs. The loss is TRL's `nll`,
computed at the trained positions only and without its entropy and accuracy bookkeeping.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.batches import (
    Collator,
    LengthOrder,
    answer_logits,
    answer_loss,
    answers_right,
    can_share_prefix,
)
from train.data.masking import Encoded
from train.errors import LossNotFinite, SettingsError
from train.evaluation.generation import mean_of, row_losses
from train.hardware import Hardware
from train.packing import PackCollator, check_packing
from train.processes import Processes
from train.runs.checkpoints import Checkpoints
from train.settings import TrainSettings

if TYPE_CHECKING:
    import torch

OnTokens = Callable[[int, int, int], None]
"""Told how many tokens a batch has, how many are trained, and how many of those were likeliest."""

_CHECKPOINTS_A_RUN = 10
_OPTIMISERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a run saves a checkpoint and measures its held-out loss.

    Steps, or the share of all steps where below 1; None: never. With early stopping both are one,
    because the best checkpoint has to be there.
    """

    save: float | None
    measure: float | None

    @classmethod
    def of(cls, settings: TrainSettings, *, saves: bool, has_held_out: bool) -> "Schedule":
        """The schedule of `settings`; a run without a folder of its own does not save."""
        every = settings.checkpoint_steps or 1 / _CHECKPOINTS_A_RUN
        if settings.early_stopping and has_held_out:
            both = settings.held_out_steps or every
            return cls(save=both, measure=both)
        measure = settings.held_out_steps if has_held_out else None
        return cls(save=every if saves else None, measure=measure)


def optimiser(settings: TrainSettings, hardware: Hardware, processes: Processes) -> str:
    """transformers' name of the optimiser. Raises SettingsError for one the device has not."""
    choice = settings.optimizer
    if choice == "auto":
        paged = hardware.device == "cuda" and not processes.sharded
        choice = "paged_adamw_8bit" if paged else "adamw"
    if choice == "paged_adamw_8bit" and processes.sharded:
        raise SettingsError(
            [
                "optimizer=paged_adamw_8bit: FSDP cannot save its pages in a checkpoint; set adamw "
                "or adamw_8bit"
            ]
        )
    if choice == "paged_adamw_8bit" and hardware.device == "cpu":
        raise SettingsError(
            [
                "optimizer=paged_adamw_8bit: pages move between a GPU's memory and the machine's; "
                "on a CPU set adamw or adamw_8bit"
            ]
        )
    return _OPTIMISERS[choice]


def make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    held_out: Sequence[Encoded],
    settings: TrainSettings,
    hardware: Hardware,
    processes: Processes,
    targets: Sequence[str],
    schedule: Schedule,
    checkpoints: Checkpoints,
    run_id: str,
    trackers: Path,
    on_tokens: OnTokens,
) -> Any:
    """The trainer, with a LoRA adapter on `model`, ready to `train()`.

    `trainer.order` is the sampler, whose `epoch` a callback has to keep; `trainer.measure()` gives
    the held-out loss and accuracy. Raises SettingsError.
    """
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback, PrinterCallback, set_seed
    from trl import SFTTrainer

    recomputes = _recomputes(settings, hardware)
    shares = (
        settings.share_prefix
        and not recomputes
        and processes.count == 1
        and can_share_prefix(model)
    )
    if settings.packing and not processes.sharded:
        check_packing(model, hardware.dtype)
    set_seed(settings.seed)

    class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
        """Loss, held-out loss, order of the rows and files of a checkpoint are ours."""

        order: LengthOrder
        control: Any

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, "torch.Tensor"],
            return_outputs: bool = False,
            num_items_in_batch: "torch.Tensor | int | None" = None,
        ) -> "torch.Tensor":
            """The sum over this batch's trained tokens, over those of the whole step."""
            assert not return_outputs, "the held-out loss is measured by `evaluate`"
            seen = int(inputs.pop("seen_tokens").sum())
            logits, labels = answer_logits(model, inputs)
            in_batch = int((labels >= 0).sum())
            summed = answer_loss(logits, labels)
            loss: torch.Tensor = summed / (num_items_in_batch or max(1, in_batch))
            if not bool(loss.isfinite()):
                raise LossNotFinite(self.state.global_step + 1)
            on_tokens(seen, in_batch, answers_right(logits, labels))
            # The gradients of several processes are averaged; their loss is a share of one sum.
            loss *= self.accelerator.num_processes
            return loss

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            """The held-out loss, in nats a trained token, and the accuracy of those tokens."""
            loss, accuracy = self.measure()
            metrics = {"eval_loss": loss, "eval_mean_token_accuracy": accuracy}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

        def measure(self) -> tuple[float, float]:
            """Loss and accuracy of the held-out rows; tells nobody."""
            losses = row_losses(
                self.model,
                held_out,
                pad_id=tokenizer.pad_token_id,
                batch_size=settings.eval_batch_size,
            )
            return mean_of(losses)

        def _get_train_sampler(self, train_dataset: Any = None) -> LengthOrder:
            return self.order

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            with checkpoints.writing(self.state.global_step, run_id):
                super()._save_checkpoint(model, trial)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None: a checkpoint is no model to share."""

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            # Neither the tokenizer nor the arguments, and no look-up of the base on the hub.
            self.accelerator.unwrap_model(self.model).save_pretrained(
                output_dir, state_dict=state_dict, save_embedding_layers=False
            )

    dataset = _dataset(rows, settings)
    if settings.report_to:
        _keep_trackers_in(trackers)
    config = _config(settings, hardware, processes, schedule, checkpoints.folder, recomputes)
    config.run_name = run_id
    trainer = AnswerTrainer(
        model=model,
        args=config,
        data_collator=PackCollator(tokenizer.pad_token_id)
        if settings.packing
        else Collator(tokenizer.pad_token_id, share_prefix=bool(shares)),
        train_dataset=dataset,
        # `evaluate` measures on the rows themselves; the trainer wants to see that there are some.
        eval_dataset=dataset if schedule.measure else None,
        processing_class=tokenizer,
        callbacks=[EarlyStoppingCallback(settings.early_stopping)]
        if config.load_best_model_at_end
        else [],
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.dropout,
            use_rslora=settings.rslora,
            target_modules=list(targets),
            bias="none",
        ),
    )
    trainer.order = LengthOrder(
        dataset["length"],
        settings.batch_size * settings.gradient_accumulation * processes.count,
        settings.seed,
    )
    trainer.remove_callback(PrinterCallback)
    if not processes.sharded:  # where shards are flattened all weights have one dtype
        for weight in trainer.model.parameters():
            # TRL makes the adapter of a quantised base bfloat16: too coarse for AdamW's small
            # updates, and slow on CPUs. The optimiser is made later, of the weights as they are.
            if weight.requires_grad:
                weight.data = weight.data.float()
    return trainer


def _config(
    settings: TrainSettings,
    hardware: Hardware,
    processes: Processes,
    schedule: Schedule,
    folder: Path,
    recomputes: bool,
) -> Any:
    from trl import SFTConfig

    chooses_best = bool(settings.early_stopping and schedule.measure)
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup"
        if settings.scheduler == "constant"
        else settings.scheduler,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=optimiser(settings, hardware, processes),
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=hardware.dtype == "bfloat16",
        use_cpu=hardware.device == "cpu",
        gradient_checkpointing=recomputes,
        dataloader_pin_memory=hardware.device == "cuda",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if schedule.save else "no",
        save_steps=schedule.save or 1,
        eval_strategy="steps" if schedule.measure else "no",
        eval_steps=schedule.measure,
        load_best_model_at_end=chooses_best,
        metric_for_best_model="eval_loss" if chooses_best else None,
        greater_is_better=False if chooses_best else None,
        restore_callback_states_from_checkpoint=True,
        ddp_find_unused_parameters=False if processes.count > 1 else None,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
    )
    if hardware.device == "cuda" and config.world_size == 1:
        config._n_gpu = 1  # one process trains on one GPU, however many there are
    return config


def _recomputes(settings: TrainSettings, hardware: Hardware) -> bool:
    if settings.gradient_checkpointing == "auto":
        return hardware.device == "cuda"
    return settings.gradient_checkpointing


def _dataset(rows: Sequence[Encoded], settings: TrainSettings) -> Any:
    """The rows, or the packs of them, with a column `length`."""
    from datasets import Dataset
    from trl import pack_dataset

    columns = {
        "input_ids": [list(row.input_ids) for row in rows],
        "labels": [list(row.labels) for row in rows],
    }
    dataset = Dataset.from_dict(columns)
    if settings.packing:
        dataset = pack_dataset(dataset, seq_length=settings.max_length, strategy="bfd")
    return dataset.add_column("length", [len(ids) for ids in dataset["input_ids"]])


def _keep_trackers_in(folder: Path) -> None:
    """Have trackers write into the run's folder, unless the user's variables say where."""
    folder.mkdir(parents=True, exist_ok=True)
    for variable in ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "TRACKIO_DIR"):
        os.environ.setdefault(variable, str(folder))
