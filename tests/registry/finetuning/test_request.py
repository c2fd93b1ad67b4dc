"""What a create request may say, and what is refused before a job is made."""

from typing import Any

import pytest
from pydantic import ValidationError

from registry.finetuning.request import JobRequest

BODY = {"model": "base", "training_file": "file-1"}


def test_auto_is_the_default() -> None:
    request = JobRequest.model_validate(BODY)
    assert set(request.training.model_dump().values()) == {"auto"}
    assert request.options == {"certify": True}


def test_the_older_place_of_hyperparameters() -> None:
    request = JobRequest.model_validate({**BODY, "hyperparameters": {"n_epochs": 4}})
    assert request.training.n_epochs == 4


def test_options_are_those_that_were_given() -> None:
    request = JobRequest.model_validate({**BODY, "lorikeet": {"rank": 4, "priority": 2}})
    assert request.options == {"rank": 4, "certify": True}


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        (supervised(n_epochs=0), "n_epochs"),
        (supervised(n_epochs=51), "n_epochs"),
        (supervised(n_epochs="many"), "n_epochs"),
        (supervised(batch_size=0), "batch_size"),
        (supervised(batch_size=257), "batch_size"),
        (supervised(learning_rate_multiplier=0), "learning_rate_multiplier"),
        (supervised(learning_rate_multiplier=float("nan")), "learning_rate_multiplier"),
        (supervised(learning_rate_multiplier=101), "learning_rate_multiplier"),
        (supervised(beta=0.1), "beta"),
        ({"method": {"type": "dpo"}}, "type"),
        ({**supervised(), "hyperparameters": {}}, ""),
        ({"suffix": "a:b"}, "suffix"),
        ({"suffix": "../etc"}, "suffix"),
        ({"suffix": "ünïcode"}, "suffix"),
        ({"suffix": "a\n"}, "suffix"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "a" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"lorikeet": {"rank": 0}}, "rank"),
        ({"lorikeet": {"rank": 65}}, "rank"),
        ({"lorikeet": {"alpha": float("inf")}}, "alpha"),
        ({"lorikeet": {"quantization": "int2"}}, "quantization"),
        ({"lorikeet": {"targets": []}}, "targets"),
        ({"lorikeet": {"targets": ["lm_head"]}}, "targets"),
        ({"lorikeet": {"few_shot_data": "/etc/passwd"}}, "few_shot_data"),
        ({"lorikeet": {"report_to": "wandb"}}, "report_to"),
        ({"lorikeet": {"priority": 101}}, "priority"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(extra: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate({**BODY, **extra})
    assert any(field in map(str, error["loc"]) or not field for error in caught.value.errors())
