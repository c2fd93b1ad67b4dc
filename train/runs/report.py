"""`report.html` of a run: all that its folder says, on one page that needs no other file.

    write_report(RunFolder.open(RegistrySettings(), "support-20261124-150103").path)

It is made of the files that are there, so that a run that failed or was killed has one too. Rows
are the users' own text and may hold anything: the template escapes all of it, and the page forbids
scripts.
"""

import base64
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from train.runs.folder import RunFolder, replace_file
from train.runs.metrics import Metrics
from train.runs.plot import Points, points

_TEMPLATE = "report.html.jinja"
_SAMPLES = 8
_LONGEST = 1000
"""Characters of a row that are shown."""

Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; `style` is "figures" where all but the first column are numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    style: str = "figures"


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, whole or not at all, and return where it is.

    Raises OSError where it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    run = RunFolder(folder)
    replace_file(run.report, pages.get_template(_TEMPLATE).render(_Content(run).as_dict()))
    return run.report


class _Content:
    """What the page says of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._notes: list[str] = []
        self._record = self._read(run.path / "run.json")
        self._evaluation = self._read(run.evaluation)

    def as_dict(self) -> dict[str, Any]:
        """The template's variables."""
        record = self._record
        content = {
            "id": self._run.id,
            "status": str(record.get("status") or ""),
            "about": self._about(),
            "error": str(record.get("error") or ""),
            "commands": list(_commands(record, self._run)),
            "plot": self._plot(),
            "course": self._course(),
            "evaluation": list(_evaluation_tables(self._evaluation)),
            "samples": self._samples(),
            "data": _facts(self._read(self._run.data_file)),
            "settings": self._settings(),
            "environment": _facts(self._read(self._run.environment_file)),
        }
        return content | {"notes": self._notes}

    def _read(self, path: Path) -> dict[str, Any]:
        """A JSON file's object; empty, with a note, where it is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._notes.append(f"{path.name} cannot be read: {error}")
            return {}
        return values if isinstance(values, dict) else {}

    def _about(self) -> Facts:
        names = ("name", "version", "base", "base_digest", "data", "eval_data")
        found = [(name.replace("_", " "), self._record.get(name)) for name in names]
        begin, end = (self._record.get(f"{which}_at") for which in ("started", "finished"))
        found += [("started", begin), ("finished", end), ("took", _between(begin, end))]
        found.append(("resumed", _times(self._record.get("resumed"))))
        return [(name, str(value)) for name, value in found if value]

    def _plot(self) -> str:
        try:
            return base64.b64encode(self._run.loss_plot.read_bytes()).decode("ascii")
        except OSError:
            return ""

    def _course(self) -> Facts:
        try:
            lines = Metrics(self._run.metrics).lines()
        except (OSError, ValueError) as error:
            self._notes.append(f"{self._run.metrics.name} cannot be read: {error}")
            return []
        steps = [line for line in lines if "loss" in line]
        facts: Facts = []
        if steps:
            last = steps[-1]
            facts += [("optimiser steps", f"{last['step']:,}"), ("epochs", _shown(last, "epoch"))]
            facts += _speed(last)
        facts += _span("loss", points(lines, "loss"))
        facts += _span("held-out loss", points(lines, "held_out_loss"))
        if norms := points(lines, "grad_norm")[1]:
            facts.append(("largest gradient norm", f"{max(norms):.3g}"))
        if bad := [str(line["step"]) for line in steps if not _is_finite(line.get("loss"))]:
            facts.append(("steps whose loss is not finite", ", ".join(bad)))
        return [(name, value) for name, value in facts if value]

    def _samples(self) -> Table | None:
        """Questions with the expected answers; with those given, where the evaluation has them."""
        samples = self._evaluation.get("samples")
        if isinstance(samples, list) and all(isinstance(sample, dict) for sample in samples):
            headings = list(dict.fromkeys(key for sample in samples for key in sample))
            rows = [[_shown(sample, key) for key in headings] for sample in samples[:_SAMPLES]]
            return Table("", [key.replace("_", " ") for key in headings], rows, "text")
        try:
            with self._run.held_out.open(encoding="utf-8") as file:
                shown = [_turns(json.loads(line)) for line in islice(file, _SAMPLES)]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self._notes.append(f"{self._run.held_out.name} cannot be read: {error}")
            return None
        return Table("", ["question", "expected answer"], shown, "text")

    def _settings(self) -> list[tuple[str, str, bool]]:
        """Each setting's name and value, and whether that is not the default."""
        import yaml

        from train.settings import TrainSettings

        try:
            values = yaml.safe_load(self._run.settings_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, yaml.YAMLError) as error:
            self._notes.append(f"{self._run.settings_file.name} cannot be read: {error}")
            return []
        defaults = TrainSettings().model_dump(mode="json")
        known = values if isinstance(values, dict) else {}
        return [(str(k), _text(v) or "–", v != defaults.get(k)) for k, v in known.items()]


def _commands(record: Mapping[str, Any], run: RunFolder) -> Iterator[tuple[str, str]]:
    """What to do with a run that ended like this, each with its command."""
    name, base, version = (str(record.get(key) or "") for key in ("name", "base", "version"))
    if version and record.get("status") == "succeeded":
        number = version.rpartition("@")[2]
        yield "measure it again", shlex.join(["lorikeet", "eval", version])
        yield (
            "make it the one served",
            shlex.join(["lorikeet", "adapters", "promote", name, number]),
        )
        yield "serve it", shlex.join(["lorikeet", "serve", "--base", base])
        yield "ask it", shlex.join(["lorikeet", "ask", name, "…"])
    elif record.get("status") == "succeeded":
        take_in = ["lorikeet", "adapters", "import", str(run.adapter), "--name", name]
        yield "publish it", shlex.join([*take_in, "--base", base])
    elif record:
        yield "go on with it", shlex.join(["lorikeet", "train", "--resume", run.id])
    if run.settings_file.is_file() and name:
        again = ["lorikeet", "train", "--config", str(run.settings_file), "--base", base]
        again += ["--data", str(record.get("data") or ""), "--name", name]
        if record.get("eval_data"):
            again += ["--eval-data", str(record["eval_data"])]
        if not record.get("publish", True):
            again.append("--no-publish")
        yield "train anew", shlex.join(again)


def _evaluation_tables(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    """The scores, how much better the adapter is, and which labels it takes for which."""
    examples = evaluation.get("few_shot_examples")
    models = {
        "base": "base",
        "few_shot": f"base, {examples} examples in the prompt",
        "adapter": "adapter",
    }
    scores = {
        who: evaluation[key]
        for key, who in models.items()
        if isinstance(evaluation.get(key), Mapping)
    }
    if scores:
        headings = ["right", "accuracy", "exact match", "contains", "token F1", "loss"]
        headings += ["prompt tokens", "seconds"]
        rows = [[who, *_score(score)] for who, score in scores.items()]
        yield _without_empty(Table("", [f"{evaluation.get('task')}", *headings], rows))
    comparison = evaluation.get("comparison")
    if isinstance(comparison, Mapping):
        metric = str(comparison.get("metric")).replace("_", " ")
        rows = [
            [f"adapter over {who}", _estimate(comparison[key], "difference", "low", "high", "+.3f")]
            for key, who in models.items()
            if isinstance(comparison.get(key), Mapping)
        ]
        if rows:
            yield Table("Is it better?", ["", f"difference in {metric}"], rows)
    adapter = evaluation.get("adapter")
    confusion = adapter.get("confusion") if isinstance(adapter, Mapping) else None
    if isinstance(confusion, Mapping) and confusion.get("labels"):
        labels = [str(label) for label in confusion["labels"]]
        counts = confusion.get("counts") or []
        rows = [[label, *map(str, row)] for label, row in zip(labels, counts, strict=False)]
        yield Table("What the adapter answered", ["expected", *labels, "none of them"], rows)


def _score(score: Mapping[str, Any]) -> list[str]:
    return [
        f"{score.get('correct')}/{score.get('rows')}",
        _estimate(score, "accuracy", "low", "high", ".1%"),
        _estimate(score, "exact_match", "", "", ".1%"),
        _estimate(score, "contains", "", "", ".1%"),
        _estimate(score, "token_f1", "token_f1_low", "token_f1_high", ".2f"),
        _estimate(score, "loss", "loss_low", "loss_high", ".3f"),
        _estimate(score, "prompt_tokens", "", "", ".0f"),
        _estimate(score, "seconds", "", "", ".2f"),
    ]


def _estimate(values: Mapping[str, Any], key: str, low: str, high: str, form: str) -> str:
    """`86.5% (80.3% to 91.0%)`; without bounds where there are none, nothing without a value."""
    value, bounds = values.get(key), [values.get(low), values.get(high)]
    if not isinstance(value, int | float):
        return ""
    numbers = [f"{bound:{form}}" for bound in bounds if isinstance(bound, int | float)]
    return f"{value:{form}}" + (f" ({numbers[0]} to {numbers[1]})" if len(numbers) == 2 else "")


def _without_empty(table: Table) -> Table:
    """`table` without the columns that say nothing."""
    kept = [i for i in range(len(table.headings)) if any(row[i] for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.title, [table.headings[i] for i in kept], rows, table.style)


def _speed(last: Mapping[str, Any]) -> Facts:
    """Tokens and seconds up to the last step, and their quotients."""
    facts = [("seconds of training", _shown(last, "seconds"))]
    for key, what in (("tokens", "tokens"), ("trained_tokens", "trained tokens")):
        facts.append((what, _shown(last, key)))
        if _is_finite(last.get("seconds")) and last["seconds"] > 0 and _is_finite(last.get(key)):
            facts.append((f"{what} a second", f"{last[key] / last['seconds']:,.1f}"))
    return facts


def _span(what: str, found: Points) -> Facts:
    """First, last and lowest of the values."""
    steps, values = found
    if not values:
        return []
    lowest = min(range(len(values)), key=values.__getitem__)
    first_to_last = f"{values[0]:.4f} → {values[-1]:.4f}" if len(values) > 1 else ""
    return [
        (f"{what}, first and last", first_to_last),
        (f"{what}, lowest", f"{values[lowest]:.4f} at step {steps[lowest]:,}"),
    ]


def _facts(values: Mapping[str, Any], within: str = "") -> Facts:
    """Nested objects as lines, each with the names that lead to it."""
    facts: Facts = []
    for key, value in values.items():
        name = f"{within}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            facts += _facts(value, f"{name}: ")
        elif value is not None and value != []:
            facts.append((name, _text(value)))
    return facts


def _turns(row: Mapping[str, Any]) -> list[str]:
    """What a messages row asks, and the answer that it expects, the last turn."""
    *prompt, answer = row["messages"]
    lines = [
        _text(turn.get("content")) if len(prompt) == 1 else f"{turn['role']}: {turn.get('content')}"
        for turn in prompt
    ]
    return [_cut("\n".join(lines)), _cut(_text(answer.get("content") or answer))]


def _shown(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return _cut(_text(value))


def _text(value: object) -> str:
    """A JSON value as one reads it."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _times(count: object) -> str:
    return "" if not count else "once" if count == 1 else f"{count} times"


def _between(begin: object, end: object) -> str:
    """The time between two moments of run.json, `1:02:03`."""
    try:
        return str(datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(begin)))
    except ValueError:
        return ""
