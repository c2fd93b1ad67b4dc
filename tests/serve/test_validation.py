"""Pydantic's complaints as OpenAI's error: every field, none of pydantic's own words for places."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve.errors import BadRequest
from serve.validation import MOST_TOLD, bad_request


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rate: Literal["auto"] | bool = "auto"
    tags: Literal["all"] | list[str] = "all"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    inner: Inner = Inner()
    counts: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _named(self) -> "Outer":
        if self.name == "bad":
            raise ValueError("choose another name")
        return self


def refused(data: Any, **options: Any) -> BadRequest:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(data)
    return bad_request(error.value.errors(), data, **options)


@pytest.mark.parametrize(
    ("data", "param", "message"),
    [
        ({}, "name", "`name` is required."),
        ({"name": "bad"}, None, "Choose another name."),
        (
            {"name": "a", "inner": {"rate": "no way"}},
            "inner.rate",
            "`inner.rate`: Input should be 'auto' or a valid boolean, unable to interpret input.",
        ),
        (
            {"name": 1, "inner": {"tags": ["a", 2]}},
            "name",
            "`name`: Input should be a valid string. `inner.tags`: Input should be 'all'. "
            "`inner.tags.1`: Input should be a valid string.",
        ),
        (
            {"name": "a", "x": 1, "inner": {"y": 1, "z": 2}},
            "inner.y",
            "Unknown fields `inner.y`, `inner.z`. Unknown field `x`.",
        ),
    ],
)
def test_every_problem_is_told_with_its_field(data: Any, param: str | None, message: str) -> None:
    error = refused(data)
    assert (error.param, error.message) == (param, message)


def test_unknown_fields_are_told_with_those_that_there_are() -> None:
    data = {"name": "a", "inner": {"rates": 1}}
    error = refused(data, known={"inner": Inner.model_fields})
    assert error.message == (
        "Unknown field `inner.rates`. Did you mean `rate`? `inner` takes rate, tags."
    )


def test_what_is_told_is_bounded() -> None:
    data = {"name": "a", "counts": {f"{n:02}" * 500: "x" for n in range(100)}}
    error = refused(data)
    assert error.message.endswith(f"There are {100 - MOST_TOLD} more problems.")
    assert len(error.message) < 1500
    many = {"name": "a", **dict.fromkeys(map(str, range(100)), 1)}
    assert len(refused(many).message) < 1000
