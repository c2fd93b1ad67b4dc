"""What `POST /v1/fine_tuning/jobs` takes: OpenAI's fields, and `lorikeet` for the adapter's own.

    client.fine_tuning.jobs.create(
        model="smollm2-135m-instruct", training_file="file-…", suffix="support",
        extra_body={"lorikeet": {"rank": 8, "quantization": "nf4"}},
    )

The server checks all of it before a job is made. The names in `lorikeet` are those of the settings
of `lorikeet train` (a test compares the bounds).
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Share = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]


def _nameable(suffix: str) -> str:
    if not SUFFIX.fullmatch(suffix):
        raise ValueError(
            "use 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return suffix


def _servable(targets: list[str]) -> list[str]:
    if heads := [name for name in targets if name in ("lm_head", "embed_tokens")]:
        raise ValueError(f"an adapter on {', '.join(heads)} cannot be served")
    return targets


Targets = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]],
    Field(min_length=1, max_length=32),
    AfterValidator(_servable),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hyperparameters(_Strict):
    """`auto` is `lorikeet train`'s default: 3 epochs, 8 rows a batch, learning rate 5e-4.

    The multiplier is of that learning rate.
    """

    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: (
        Literal["auto"] | Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    ) = "auto"


class Supervised(_Strict):
    """The only method there is."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(_Strict):
    """How to train: supervised fine-tuning."""

    type: Literal["supervised"]
    supervised: Supervised = Supervised()


class LoraOptions(_Strict):
    """How the adapter is made and measured, by the names of `lorikeet train --settings`.

    What is left out is as there. `priority` orders a tenant's own jobs, the higher first; `certify`
    compares what is served with what was trained before the job succeeds.
    """

    rank: Annotated[int, Field(ge=1, le=64)] | None = None
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dropout: Share | None = None
    rslora: bool | None = None
    targets: Literal["all-linear"] | Targets | None = None
    quantization: Literal["nf4", "int8", "none"] | None = None
    max_length: Annotated[int, Field(ge=8, le=1_000_000)] | None = None
    too_long: Literal["error", "drop"] | None = None
    packing: bool | None = None
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)] | None = None
    gradient_checkpointing: Literal["auto"] | bool | None = None
    scheduler: Literal["linear", "cosine", "constant"] | None = None
    warmup: Share | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    early_stopping: Annotated[int, Field(ge=1, le=1000)] | None = None
    held_out_steps: Annotated[int, Field(ge=1)] | None = None
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    template_drift: Literal["error", "allow"] | None = None
    eval_fraction: Share | None = None
    max_eval_rows: Annotated[int, Field(ge=1)] | None = None
    baselines: bool | None = None
    few_shot_rows: Annotated[int, Field(ge=1, le=64)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    certify: bool = True


FileId = Annotated[str, Field(min_length=1, max_length=40)]


class JobRequest(_Strict):
    """The body of a create request. Unknown fields are refused."""

    model: Annotated[str, Field(min_length=1, max_length=320)]
    training_file: FileId
    validation_file: FileId | None = None
    suffix: Annotated[str, AfterValidator(_nameable)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: (
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None
    ) = Field(default=None, max_length=16)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    """OpenAI's older place for them."""
    integrations: list[Any] | None = Field(default=None, max_length=0)
    """None of OpenAI's: trackers belong to `lorikeet train --set report_to=…`."""
    lorikeet: LoraOptions = LoraOptions()

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.method is not None and self.hyperparameters is not None:
            raise ValueError("give `method` or `hyperparameters`, not both")
        return self

    @property
    def training(self) -> Hyperparameters:
        """The hyperparameters, wherever they were given."""
        if self.method is not None:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given, `priority` apart."""
        return self.lorikeet.model_dump(exclude_none=True, exclude={"priority"})
