"""Tables of a page of documentation, in Markdown, from the JSON of measurements.

Each takes a results file's document: that of `loadtests.bench` (about, output, promises, training),
of `loadtests.training_profile` (about, profile), of `loadtests.load` (about, load, promises), of
`loadtests.replicas` (about, replicas) or of `loadtests.simulate` (scaling).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadtests.reports.page import headings, shown
from loadtests.verdict import ratio

Document = Mapping[str, Any]


def about(document: Document) -> str:
    """When, on which machine and with which versions."""
    machine = document["machine"]
    parts = [str(machine["date"])[:10], str(machine["processor"]), f"{machine['cores']} cores"]
    if memory := machine.get("memory_gib"):
        parts.append(f"{memory:g} GiB")
    if note := machine.get("note"):
        parts.append(str(note))
    versions = {"Python": machine.get("python"), **(machine.get("versions") or {})}
    named = [f"{name} {found}" for name, found in versions.items() if found]
    text = ", ".join(parts)
    return f"{text}; {', '.join(named)}." if named else f"{text}."


def output(document: Document) -> str:
    """What each server wrote, by kind of traffic."""
    rows, previous = [], None
    for row in document["rows"]:
        figures = row["figures"]
        rows.append(
            [
                row["server"] if row["server"] != previous else "",
                row["traffic"],
                _number(figures["tokens_per_second"], ".1f"),
                _number(row["of_base"], ".2f"),
                _number(figures["ttft_median"], ".2f", " s"),
                _number(figures["ttft_p95"], ".2f", " s"),
                _number(figures["itl_median"], ".0f", " ms", factor=1000),
            ]
        )
        previous = row["server"]
    names = ["server", "traffic", "output tokens/s", "of base", "TTFT median", "TTFT p95"]
    return _table([*names, "ITL median"], rows, left=2)


def promises(document: Document) -> str:
    """What was promised, and what came of it; `detail`, where there is one, beside its name."""
    rows = []
    for verdict in document["verdicts"]:
        detail = verdict.get("detail")
        sign = "≤" if verdict["at_most"] else "≥"
        goal, kept = verdict["goal"], verdict["kept"]
        rows.append(
            [
                verdict["promise"] + (f" ({detail})" if detail else ""),
                "" if goal is None else f"{sign} {goal:g}",
                "" if verdict["value"] is None else _plain(verdict["value"]),
                {True: "kept", False: "**missed**", None: ""}[kept],
            ]
        )
    return _table(["promised", "goal", "measured", ""], rows, left=1, last_left=True)


def training(document: Document) -> str:
    """Each trainer's speed, memory and held-out loss."""
    rows = [
        [
            run["trainer"],
            _number(_rate(run, "answer_tokens"), ".1f"),
            _number(_rate(run, "tokens"), ".0f"),
            _number(_rate(run, "rows"), ".2f"),
            _number(run["seconds"], ".0f", " s"),
            _number(run["cpu_seconds"], ".0f", " s"),
            _number(run["peak_mib"], ",.0f", " MiB"),
            _number(run["held_out_loss"], ".3f"),
        ]
        for run in document["trainings"]
    ]
    names = ["trainer", "answer tokens/s", "all tokens/s", "rows/s", "training"]
    names += ["CPU time of the process", "peak memory", "held-out loss"]
    return _table(names, rows)


def profile(document: Document) -> str:
    """What a training costs without each saving; the first variant has them all."""
    variants = document["variants"]
    first = variants[0]["cpu_seconds"]
    rows = [
        [
            each["variant"]["what"],
            _number(each["cpu_seconds"], ".1f", " s"),
            _number(each.get("of_first", ratio(each["cpu_seconds"], first)), ".2f"),
            _number(each["peak_mib"], ",.0f", " MiB"),
        ]
        for each in variants
    ]
    return _table(["`lorikeet train`", "CPU time", "of that as it is", "peak memory"], rows)


def load(document: Document) -> str:
    """The figures of a run of load and of its stages."""
    rows = [["all", *shown(document["total"])]]
    if len(document["stages"]) > 1:
        rows += [[stage["name"], *shown(stage["figures"])] for stage in document["stages"]]
    return _table(headings(""), rows)


def replicas(document: Document) -> str:
    """What replicas did with a trace, beside what the simulation foretold."""
    rows = []
    for name, (key, form, unit) in {
        "warm rate": ("warm_rate", ".0%", ""),
        "TTFT median": ("ttft_p50", ".3f", " s"),
        "TTFT p99": ("ttft_p99", ".2f", " s"),
        "output tokens/s": ("tokens_per_second", ".1f", ""),
    }.items():
        seen, foretold = document["measured"][key], document["predicted"][key]
        values = [_number(value, form, unit) for value in (seen, foretold)]
        rows.append([name, *values, _number(foretold / seen - 1, "+.0%")])
    return _table(["", "measured", "simulated", "off"], rows)


def scaling(document: Document) -> str:
    """What each way of routing needs, by the number of adapters."""
    rows, previous = [], None
    for row in document["rows"]:
        figures = row["figures"]
        rows.append(
            [
                f"{row['adapters']:,}" if row["adapters"] != previous else "",
                row["policy"],
                "too many" if row["replicas"] is None else str(row["replicas"]),
                _number(figures["warm_rate"], ".0%"),
                _number(figures["ttft_p50"], ".2f", " s"),
                _number(figures["ttft_p99"], ".2f", " s"),
            ]
        )
        previous = row["adapters"]
    names = ["adapters", "routing", "replicas", "warm", "TTFT median", "TTFT p99"]
    return _table(names, rows, left=2)


TABLES: Mapping[str, Callable[[Document], str]] = {
    "about": about,
    "output": output,
    "promises": promises,
    "training": training,
    "profile": profile,
    "load": load,
    "replicas": replicas,
    "scaling": scaling,
}


def _table(
    names: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, last_left: bool = False
) -> str:
    """The first `left` columns are text; the others are numbers, perhaps but for the last."""
    rules = ["---" if number < left else "---:" for number in range(len(names))]
    if last_left:
        rules[-1] = "---"
    lines = [_line(names), "|" + "|".join(rules) + "|"]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _number(value: Any, form: str, unit: str = "", *, factor: float = 1) -> str:
    return "" if value is None else f"{value * factor:{form}}{unit}"


def _plain(value: float) -> str:
    """A count as it is; of another figure two decimals, where they say something."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def _rate(run: Mapping[str, Any], what: str) -> float | None:
    """So many a second of training: as it is told, or from what was seen in that time."""
    told: float | None = run.get(f"{what}_per_second")
    return told if told is not None else ratio(run[what], run["seconds"])
