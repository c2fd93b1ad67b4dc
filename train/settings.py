"""The settings of one training run; `train.settings_file` reads them.

Nothing here comes from the environment, so that a recipe file and its overrides are the whole of a
run.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]

SERVABLE_RANK = 64
"""The highest rank that the registry accepts with its default limits; a test compares the two."""


class TrainSettings(BaseModel):
    """How to train and evaluate an adapter. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    # How long
    epochs: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = Field(
        default=3.0, description="passes over the training rows"
    )
    max_steps: Positive | None = Field(
        default=None, description="stop after so many optimiser steps"
    )
    max_rows: Positive | None = Field(
        default=None, description="train on so many rows only, drawn with the seed"
    )

    # Optimiser
    batch_size: Positive = Field(default=8, description="rows a forward pass")
    gradient_accumulation: Positive = Field(
        default=1, description="forward passes an optimiser step"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=5e-4, description="highest learning rate of AdamW"
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup: Fraction = Field(default=0.05, description="share of the steps in which the rate rises")
    weight_decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.0, description="AdamW's weight decay"
    )
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="gradients are clipped to this norm"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42,
        description="of the split, the order of rows, the adapter's first weights and dropout",
    )

    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        default="auto",
        description="AdamW in 32 or 8 bits; auto: 8 bits and paged on a GPU, 32 bits on a CPU",
    )

    # Checkpoints and held-out loss while training
    checkpoint_steps: Positive | None = Field(
        default=None,
        description="optimiser steps between checkpoints; default: ten checkpoints a run; with "
        "early_stopping there is one at each measurement of the held-out loss",
    )
    held_out_steps: Positive | None = Field(
        default=None,
        description="optimiser steps between measurements of the held-out loss; default: at each "
        "checkpoint with early_stopping, else only at the end",
    )
    early_stopping: Positive | None = Field(
        default=None,
        description="stop after so many measurements of the held-out loss without a better one, "
        "and keep the best checkpoint",
    )

    # Adapter
    rank: Annotated[int, Field(ge=1, le=SERVABLE_RANK)] = Field(
        default=16, description=f"LoRA rank; a server takes at most {SERVABLE_RANK}"
    )
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="LoRA alpha, the delta is scaled by alpha / rank; default: 2 × rank",
    )
    dropout: Fraction = Field(default=0.0, description="LoRA dropout")
    rslora: bool = Field(
        default=False, description="scale the delta by alpha / √rank (rsLoRA), for high ranks"
    )
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        description="names of the layers to adapt, or all-linear (not the head)",
    )

    # Base model and numbers
    quantization: Literal["nf4", "int8", "none"] = Field(
        default="nf4",
        description="of the frozen base: NF4 with double quantisation, LLM.int8 or none",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the arithmetic; auto: float32 on a CPU, bfloat16 on a GPU with it",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto", description="recompute activations to save memory; auto: on a GPU only"
    )
    packing: bool = Field(
        default=False,
        description="put short rows into one sequence of max_length tokens, none seeing another; "
        "batch_size then counts sequences; else rows of like length make a batch",
    )
    share_prefix: bool = Field(
        default=True,
        description="compute what the prompts of a batch begin with once, not row by row",
    )
    threads: Positive | None = Field(
        default=None, description="CPU threads; default: every usable core"
    )

    # Rows
    data_format: Literal["auto", "text", "alpaca", "prompt_completion", "messages", "sharegpt"] = (
        Field(default="auto", description="shape of a row")
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=1024, description="most tokens a row may have"
    )
    too_long: Literal["error", "drop"] = Field(
        default="error", description="what becomes of a longer row; none is ever cut"
    )

    template_drift: Literal["error", "allow"] = Field(
        default="error",
        description="what becomes of a row whose trained token ids are not those that the server "
        "makes of the same chat",
    )

    # Evaluation
    eval_fraction: Fraction = Field(
        default=0.1,
        description="share of the rows held out, where no held-out file is given; 0: none",
    )
    max_eval_rows: Positive | None = Field(
        default=None, description="evaluate on so many held-out rows only, drawn with the seed"
    )
    baselines: bool = Field(
        default=True, description="also ask the base model, without and with examples in the prompt"
    )
    few_shot_data: Path | None = Field(
        default=None,
        description="rows for the few-shot prompt; default: drawn from the training rows",
    )
    few_shot_rows: Annotated[int, Field(ge=1, le=64)] = Field(
        default=5, description="most examples in the few-shot prompt"
    )
    eval_batch_size: Positive = Field(default=16, description="prompts answered together")
    max_new_tokens: Positive | None = Field(
        default=None,
        description="longest answer; default: the longest held-out answer and a few more",
    )

    # Trackers
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="experiment trackers to report to, each to be installed by you"
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _split_trackers(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(
                part.strip() for part in value.split(",") if part.strip() not in ("", "none")
            )
        return value

    @field_validator("targets", mode="before")
    @classmethod
    def _split_targets(cls, value: object) -> object:
        if isinstance(value, str) and value != "all-linear":
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("targets")
    @classmethod
    def _servable_targets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple):
            if not value:
                raise ValueError("name at least one layer, or all-linear")
            heads = [name for name in value if name in ("lm_head", "embed_tokens")]
            if heads:
                raise ValueError(f"an adapter on {', '.join(heads)} cannot be served")
        return value

    @property
    def lora_alpha(self) -> float:
        """LoRA's alpha, twice the rank where none was set."""
        return 2.0 * self.rank if self.alpha is None else self.alpha
