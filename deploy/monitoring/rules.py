"""What a rules file is made of, and its YAML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from registry import LorikeetError


@dataclass(frozen=True)
class Recorded:
    """A series that Prometheus computes ahead, because several expressions need it."""

    record: str
    expr: str

    def as_dict(self) -> dict[str, Any]:
        """The rule in Prometheus' words."""
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True)
class Condition:
    """A measured value and the bound that it is held against."""

    value: str
    comparison: Literal[">", "<", ">=", "<=", "=="]
    bound: float

    def __str__(self) -> str:
        return f"{self.value} {self.comparison} {self.bound:.10g}"


@dataclass(frozen=True)
class Alert:
    """Fires when all of its conditions have held for `held`; their labels must be the same.

    A page wakes somebody up: users feel it now. A ticket can wait for the morning. The texts are
    for whoever is woken: `summary` in a line, what users feel (`felt`), where to `look`, what to
    `do`; `$labels` and `$value` are Prometheus' templates.
    """

    name: str
    severity: Literal["page", "ticket"]
    conditions: tuple[Condition, ...]
    held: str
    summary: str
    felt: str
    look: str
    do: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def expr(self) -> str:
        """The rule's PromQL."""
        return "\nand ".join(str(condition) for condition in self.conditions)

    @property
    def anchor(self) -> str:
        """Its heading in docs/runbook.md, as a link names it."""
        return self.name.lower()

    def as_dict(self, runbook: str) -> dict[str, Any]:
        """The rule in Prometheus' words."""
        description = f"Users: {self.felt}\nLook: {self.look}\nDo: {self.do}"
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.held,
            "labels": {"severity": self.severity, **dict(self.labels)},
            "annotations": {
                "summary": self.summary,
                "description": description,
                "runbook_url": f"{runbook}#{self.anchor}",
            },
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, one after the other."""

    name: str
    rules: Sequence[Recorded | Alert]


def to_yaml(groups: Sequence[Group], runbook: str) -> str:
    """The rules file. `runbook` is where docs/runbook.md is read.

    Raises: LorikeetError for a runbook that would break out of an annotation.
    """
    if not re.fullmatch(r"[^\s{}#]+", runbook):
        raise LorikeetError(
            f"{runbook!r} cannot be the runbook's address",
            remedy="name the page without an anchor: https://git.example.com/docs/runbook.md",
        )
    document = {
        "groups": [
            {
                "name": group.name,
                "rules": [
                    rule.as_dict(runbook) if isinstance(rule, Alert) else rule.as_dict()
                    for rule in group.rules
                ],
            }
            for group in groups
        ]
    }
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return f"# Made by `python -m deploy.monitoring`: change it there.\n{text}"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
