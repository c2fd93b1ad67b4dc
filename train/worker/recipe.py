"""A job's request as the settings of a training run."""

from typing import Any

from registry.finetuning.objects import Job
from train.settings import TrainSettings
from train.settings_file import settings_with

_AUTO = "auto"
_DEFAULTS = TrainSettings()


def settings_for(job: Job) -> TrainSettings:
    """The settings of the job's run. Raises SettingsError."""
    numbers = job.hyperparameters
    values = {key: value for key, value in job.options.items() if key in TrainSettings.model_fields}
    return settings_with(
        {
            **values,
            "seed": job.seed,
            "epochs": _number(numbers, "n_epochs", _DEFAULTS.epochs),
            "batch_size": _number(numbers, "batch_size", _DEFAULTS.batch_size),
            "learning_rate": _DEFAULTS.learning_rate
            * _number(numbers, "learning_rate_multiplier", 1.0),
        }
    )


def resolved(hyperparameters: dict[str, Any], rows: int) -> dict[str, Any]:
    """The hyperparameters with a number for each `auto`; `rows` are those trained on."""
    return {
        "n_epochs": int(_number(hyperparameters, "n_epochs", _DEFAULTS.epochs)),
        "batch_size": int(
            _number(hyperparameters, "batch_size", max(1, min(_DEFAULTS.batch_size, rows)))
        ),
        "learning_rate_multiplier": _number(hyperparameters, "learning_rate_multiplier", 1.0),
    }


def _number(numbers: dict[str, Any], name: str, auto: float) -> float:
    value = numbers.get(name, _AUTO)
    return auto if value == _AUTO else value
