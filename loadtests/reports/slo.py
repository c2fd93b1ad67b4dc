"""Service-level objectives of a run, from a YAML file, and what came of them.

    objectives:
      - {figure: failure_rate, at_most: 0.001}
      - {figure: ttft_p95, at_most: 2.0, tenant: quiet, stage: beside noise}

Figures are those of `loadtests.reports.figures`; without `stage`, `tenant` and `model` of the
whole run.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loadtests.reports.figures import FIGURES
from loadtests.verdict import Verdict
from registry import UsageError

_REMEDY = "loadtests/slo.yaml is an example; docs/loadtests.md lists the figures"


class Objective(BaseModel):
    """A figure and its bound: exactly one of the two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    stage: str | None = None
    tenant: str | None = None
    model: str | None = None

    @field_validator("figure")
    @classmethod
    def _known(cls, figure: str) -> str:
        if figure not in FIGURES:
            raise ValueError(f"unknown figure {figure!r}")
        return figure

    @model_validator(mode="after")
    def _one_bound(self) -> "Objective":
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("needs one of at_most and at_least")
        if self.model is not None and (self.stage is not None or self.tenant is not None):
            raise ValueError("model goes without stage and tenant")
        return self

    def judge(self, report: Mapping[str, Any]) -> Verdict:
        """What came of it; a figure that the report does not have is not a number, so missed."""
        value = _figures(report, self).get(self.figure)
        of = [f"{key} {name}" for key in ("stage", "tenant", "model") if (name := self._of(key))]
        promise = ", ".join([self.figure, *of])
        goal = self.at_least if self.at_most is None else self.at_most
        number = math.nan if value is None else float(value)
        return Verdict(promise, number, goal, at_most=self.at_most is not None)

    def _of(self, key: str) -> str | None:
        name: str | None = getattr(self, key)
        return name


class SLO(BaseModel):
    """At least one objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objectives: tuple[Objective, ...] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> "SLO":
        """From a YAML file. Raises UsageError with everything that is wrong in it."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read {path}: {error}", remedy=_REMEDY) from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, found['loc'])) or 'file'}: {found['msg']}"
                for found in error.errors()
            ]
            raise UsageError(f"{path}: {'; '.join(problems)}", remedy=_REMEDY) from error

    def judge(self, report: Mapping[str, Any]) -> list[Verdict]:
        """Of each objective, in the file's order."""
        return [objective.judge(report) for objective in self.objectives]


def _figures(report: Mapping[str, Any], objective: Objective) -> Mapping[str, Any]:
    """Those of the part that the objective is about; none where the report lacks it."""
    none: Mapping[str, Any] = {}
    if objective.model is not None:
        return report["models"]["figures"].get(objective.model) or none
    part = report
    if objective.stage is not None:
        part = next((s for s in report["stages"] if s["name"] == objective.stage), none)
    if objective.tenant is not None:
        return (part.get("tenants") or none).get(objective.tenant) or none
    return part.get("figures" if objective.stage is not None else "total") or none
