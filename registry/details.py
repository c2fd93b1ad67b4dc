"""A version as people read it: base, files, training, how good it is, how it is served."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Table

    from registry.aliases import Forced
    from registry.version import Version


_MOST_COLUMNS = 8


def aliases_of(version: "Version") -> list[str]:
    """The aliases of a version, with the share of those whose canary it is: `prod (10 %)`."""
    return [*version.aliases, *(f"{alias} ({share} %)" for alias, share in version.canaries)]


def summary(version: "Version") -> dict[str, Any]:
    """What a program wants to know of a version, as JSON values."""
    manifest = version.manifest
    return {
        "reference": version.reference,
        "name": version.name,
        "version": version.number,
        "aliases": list(version.aliases),
        "canaries": dict(version.canaries),
        "quarantine": version.quarantine,
        "digest": manifest.digest,
        "base": manifest.base.id,
        "rank": manifest.rank,
        "target_modules": list(manifest.target_modules),
        "bytes": manifest.total_bytes,
        "created_at": manifest.created_at.isoformat(),
        "origin": manifest.origin,
        "path": str(version.path),
    }


def print_details(
    version: "Version", others: "Sequence[Version]", forced: "Sequence[Forced]"
) -> None:
    """All that is known of a version, on standard output."""
    from rich.table import Table

    console = Console()

    def show(rows: Iterable[tuple[str, str]]) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for title, text in rows:
            table.add_row(title, Text(text))
        console.print(table)

    manifest = version.manifest
    show([*_facts(version, others, forced), *_values("training", manifest.training)])
    if manifest.evaluation:
        measured = manifest.evaluation.get("measured")
        console.print(Text.assemble(("\nevaluation", "bold"), _circumstances(measured)))
        for table in evaluation_tables(manifest.evaluation):
            console.print(table)
    if manifest.certificate:
        console.print("\n[bold]certificate[/]")
        show(_flat(manifest.certificate))


def evaluation_tables(evaluation: Mapping[str, Any]) -> "Iterator[Table]":
    """The scores of an evaluation with their 95 % intervals, and who was taken for whom."""
    from rich.table import Table

    titles = {
        "base": "base",
        "few_shot": f"base, {evaluation.get('few_shot_examples')} examples",
        "adapter": "adapter",
    }
    known = {who: evaluation.get(who) for who in titles}
    scores = {who: score for who, score in known.items() if isinstance(score, Mapping)}
    differences = evaluation.get("comparison")
    differences = differences if isinstance(differences, Mapping) else {}
    table = Table(box=None, pad_edge=False)
    table.add_column("held-out rows")
    for who in scores:
        table.add_column(titles[who], justify="right")
    figures: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
        "right": lambda _, score: f"{score.get('correct')}/{score.get('rows')}",
        "accuracy": lambda _, score: _figure(score, "accuracy", "low", "high", ".1%"),
        "token F1": lambda _, score: _bounded(score, "token_f1", ".2f"),
        "loss": lambda _, score: _bounded(score, "loss", ".3f"),
        "prompt": lambda _, score: _number(score.get("prompt_tokens"), ".0f", " tokens"),
        "a row takes": lambda _, score: _number(score.get("seconds"), ".2f", " s"),
        "adapter over": lambda who, _: _difference(differences.get(who)),
    }
    for title, figure in figures.items():
        cells = [figure(who, score) for who, score in scores.items()]
        if any(cells):
            table.add_row(title, *cells)
    if metric := differences.get("metric"):
        table.caption = Text(f"(95 % intervals; adapter over: by {metric}".replace("_", " ") + ")")
        table.caption_justify = "left"
    yield table
    adapter = scores.get("adapter", {})
    if confusion := adapter.get("confusion"):
        yield _confusion(confusion)


def _bounded(score: Mapping[str, Any], key: str, form: str) -> str:
    return _figure(score, key, f"{key}_low", f"{key}_high", form)


def _difference(difference: object) -> str:
    if not isinstance(difference, Mapping):
        return ""
    return _figure(difference, "difference", "low", "high", "+.2f")


def _confusion(confusion: Mapping[str, Any]) -> "Table":
    """Every label against every answer; of many labels the most frequent mistakes only."""
    from rich.table import Table

    labels = [str(label) for label in confusion["labels"]]
    answers = [*labels, "none of them"]
    table = Table(box=None, pad_edge=False)
    if len(labels) > _MOST_COLUMNS:
        mistakes = [
            (count, labels[row], answers[column])
            for row, counts in enumerate(confusion["counts"])
            for column, count in enumerate(counts)
            if count and row != column
        ]
        for title in ("most frequent mistakes: expected", "the adapter answered"):
            table.add_column(title)
        table.add_column("rows", justify="right")
        for count, label, answer in sorted(mistakes, key=lambda each: -each[0])[:_MOST_COLUMNS]:
            table.add_row(Text(label), Text(answer), str(count))
        return table
    table.add_column("expected, and what the adapter answered")
    for answer in answers:
        table.add_column(Text(answer), justify="right")
    for label, counts in zip(labels, confusion["counts"], strict=True):
        table.add_row(Text(label), *(str(count) for count in counts))
    return table


def _circumstances(measured: object) -> str:
    """When, on which rows and by what an evaluation was made, where that is known."""
    if not isinstance(measured, Mapping):
        return ""
    return f"  {measured.get('at')}, {measured.get('rows')}, by {measured.get('by')}"


def _figure(values: Mapping[str, Any], key: str, low: str, high: str, form: str) -> str:
    """`0.87 (0.80, 0.91)`."""
    value, bounds = values.get(key), (values.get(low), values.get(high))
    if not isinstance(value, int | float):
        return ""
    if not all(isinstance(bound, int | float) for bound in bounds):
        return format(value, form)
    return f"{value:{form}} ({bounds[0]:{form}}, {bounds[1]:{form}})".replace("%,", ",").replace(
        "%)", ")"
    )


def _number(value: object, form: str, unit: str) -> str:
    return f"{value:{form}}{unit}" if isinstance(value, int | float) else ""


def _facts(
    version: "Version", others: "Sequence[Version]", forced: "Sequence[Forced]"
) -> Iterator[tuple[str, str]]:
    manifest = version.manifest
    yield "adapter", version.reference
    yield "aliases", ", ".join(aliases_of(version)) or "none"
    if version.quarantine:
        yield "quarantine", version.quarantine
    for at, each in enumerate(forced):
        said = f"{each.at:%Y-%m-%d} to {each.alias}: {each.reason} (the gate: {each.refusal})"
        yield "" if at else "forced", said
    yield "versions", ", ".join(str(other.number) for other in others)
    yield "digest", manifest.digest
    yield "base", f"{manifest.base.id} ({manifest.base.digest[:19]})"
    if manifest.base.revision:
        yield "revision", manifest.base.revision
    yield "rank, alpha", f"{manifest.rank}, {manifest.alpha:g}"
    yield "modules", ", ".join(manifest.target_modules)
    yield "made", f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M:%S %Z} by {manifest.origin}"
    if manifest.data_digest:
        yield "data", manifest.data_digest
    yield "folder", str(version.path)
    for name, file in manifest.files.items():
        yield "", f"{name} {size(file.bytes)}"


def _values(title: str, values: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    for at, (key, value) in enumerate((values or {}).items()):
        yield "" if at else title, f"{key}: {_shown(value)}"


def _flat(values: Mapping[str, Any], before: str = "  ") -> Iterator[tuple[str, str]]:
    """A row a figure; those of an object inside go by both names: `loss nf4`."""
    for key, value in values.items():
        name = before + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} ")
        else:
            yield name, _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def size(count: int) -> str:
    """`count` bytes as people write it: `1.2 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
