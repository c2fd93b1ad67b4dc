"""The settings of one training run: defaults, then a YAML file, then `--set key=value`.

Nothing here comes from the environment, so that a recipe file and its overrides are the whole of a
run. Every wrong setting is told at once, an unknown one with the nearest name.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from train.errors import SettingsError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]

SERVABLE_RANK = 64
"""The highest rank that the registry accepts with its default limits."""


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

    # Adapter
    rank: Annotated[int, Field(ge=1, le=SERVABLE_RANK)] = Field(default=16, description="LoRA rank")
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="LoRA alpha, the delta is scaled by alpha / rank; default: 2 × rank",
    )
    dropout: Fraction = Field(default=0.0, description="LoRA dropout")
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
    share_prefix: bool = Field(
        default=True,
        description="compute what the prompts of a batch begin with once, not row by row",
    )
    threads: Positive | None = Field(
        default=None, description="CPU threads; default: every usable core"
    )

    # Rows
    data_format: Literal["auto", "text", "prompt_completion", "messages"] = Field(
        default="auto", description="shape of a row"
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=1024, description="most tokens a row may have"
    )
    too_long: Literal["error", "drop"] = Field(
        default="error", description="what becomes of a longer row; none is ever cut"
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


def load_settings(config: Path | None = None, overrides: Iterable[str] = ()) -> TrainSettings:
    """Settings from defaults, the YAML file `config` and `key=value` overrides, in this order.

    Paths in the file are relative to the file's folder, paths in an override to the working
    folder. Raises SettingsError with every problem of both.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    if config is not None:
        values.update(_read_config(config, problems))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {override}: write key=value, rank=8 for one")
            continue
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key.strip()] = text
    return _validated(values, problems)


def _read_config(config: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"--config {config}: {error.strerror or error}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"--config {config} is not YAML: {' '.join(str(error).split())}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        problems.append(f"--config {config}: write one `key: value` a line")
        return {}
    few_shot = content.get("few_shot_data")
    if isinstance(few_shot, str):
        content["few_shot_data"] = str(config.parent / few_shot)
    return content


def _validated(values: Mapping[str, Any], problems: list[str]) -> TrainSettings:
    fields = TrainSettings.model_fields
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see `lorikeet train --help`"
            problems.append(f"{key}: there is no such setting; {hint}")
    known = {key: value for key, value in values.items() if key in fields}
    # YAML 1.1 reads 1e-3 as text, pydantic reads the text as a number: both spellings work.
    try:
        settings = TrainSettings.model_validate(known)
    except ValidationError as error:
        seen: set[str] = set()
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            if key in seen:  # a union tells once for each of its members
                continue
            seen.add(key)
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{key}={known[key]!r}: {message} ({fields[key].description})")
        settings = TrainSettings()
    if problems:
        raise SettingsError(problems)
    return settings
