"""A job's request as the settings of a run."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from registry.finetuning.objects import Job
from registry.finetuning.request import Hyperparameters, LoraOptions
from train.errors import SettingsError
from train.settings import TrainSettings
from train.worker.recipe import resolved, settings_for

AUTO = Hyperparameters().model_dump()
JOB = Job(
    id="ftjob-1",
    tenant="acme",
    status="queued",
    base="tiny",
    base_place="tiny",
    base_digest="sha256:0",
    training_file="file-1",
    validation_file=None,
    suffix=None,
    seed=7,
    metadata=None,
    hyperparameters=AUTO,
    options={},
    priority=0,
    adapter="ft.acme.1",
    created_at=datetime.now(UTC),
)
FOR_THE_JOB = {"priority", "certify"}
BOUNDARIES: dict[str, list[Any]] = {
    "rank": [1, 64],
    "alpha": [0.001],
    "dropout": [0.0, 0.99],
    "max_length": [8],
    "gradient_accumulation": [1],
    "warmup": [0.0, 0.99],
    "weight_decay": [0.0, 1.0],
    "early_stopping": [1],
    "held_out_steps": [1],
    "checkpoint_steps": [1],
    "eval_fraction": [0.0, 0.99],
    "max_eval_rows": [1],
    "few_shot_rows": [1, 64],
    "targets": ["all-linear", ["q_proj"]],
    "quantization": ["nf4", "int8", "none"],
    "too_long": ["error", "drop"],
    "template_drift": ["error", "allow"],
    "scheduler": ["linear", "cosine", "constant"],
    "gradient_checkpointing": ["auto", True, False],
    "rslora": [True, False],
    "packing": [True, False],
    "baselines": [True, False],
}
BEYOND: dict[str, list[Any]] = {
    "rank": [0, 65],
    "alpha": [0.0, float("inf")],
    "dropout": [-0.1, 1.0],
    "max_length": [7],
    "gradient_accumulation": [0],
    "warmup": [1.0],
    "weight_decay": [1.1],
    "early_stopping": [0],
    "held_out_steps": [0],
    "checkpoint_steps": [0],
    "eval_fraction": [1.0],
    "max_eval_rows": [0],
    "few_shot_rows": [0, 65],
    "quantization": ["int4"],
    "too_long": ["cut"],
    "scheduler": ["step"],
}


def test_the_options_are_settings_of_the_same_name_and_bounds() -> None:
    options = set(LoraOptions.model_fields) - FOR_THE_JOB
    assert options <= set(TrainSettings.model_fields)
    assert options == set(BOUNDARIES)
    for name, values in BOUNDARIES.items():
        for value in values:
            assert LoraOptions.model_validate({name: value})
            assert TrainSettings.model_validate({name: value})
    for name, values in BEYOND.items():
        for value in values:
            for model in (LoraOptions, TrainSettings):
                with pytest.raises(ValidationError):
                    model.model_validate({name: value})


@pytest.mark.parametrize("multiplier", [0.001, 100])
@pytest.mark.parametrize(("epochs", "batch"), [(1, 1), (50, 256)])
def test_every_hyperparameter_that_a_job_may_have_makes_settings(
    multiplier: float, epochs: int, batch: int
) -> None:
    numbers = Hyperparameters(
        n_epochs=epochs, batch_size=batch, learning_rate_multiplier=multiplier
    )
    settings = settings_for(replace(JOB, hyperparameters=numbers.model_dump()))
    assert (settings.epochs, settings.batch_size, settings.seed) == (epochs, batch, 7)
    assert settings.learning_rate == pytest.approx(multiplier * TrainSettings().learning_rate)


def test_auto_is_the_default_and_no_more_rows_a_batch_than_there_are() -> None:
    default = TrainSettings()
    assert settings_for(JOB) == default.model_copy(update={"seed": 7})
    assert resolved(AUTO, 100) == {
        "n_epochs": default.epochs,
        "batch_size": default.batch_size,
        "learning_rate_multiplier": 1.0,
    }
    assert resolved(AUTO, 3)["batch_size"] == 3
    assert resolved({**AUTO, "batch_size": 16}, 3)["batch_size"] == 16
    options = {"rank": 4, "targets": ["q_proj"], "certify": False, "priority": 3}
    settings = settings_for(replace(JOB, options=options))
    assert (settings.rank, settings.targets) == (4, ("q_proj",))


def test_settings_that_cannot_be_served_are_an_error_of_their_own() -> None:
    with pytest.raises(SettingsError, match="lm_head cannot be served"):
        settings_for(replace(JOB, options={"targets": ["lm_head"]}))
