"""A frame as people read it in a terminal."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from registry.finetuning.tables_view import STYLES as JOB_STYLES
from registry.finetuning.tables_view import span
from serve.top.frame import Frame, Job, Model, Server, Tenant, Training
from serve.top.traffic import Traffic

UNKNOWN = "–"
STYLES = {"loaded": "green", "loading": "yellow", "quarantined": "bold red", "cold": "dim"}
MAX_JOBS = 6
"""Of a screen; as many lines are the tenants' at least."""
_NARROW, _WIDE, _WIDEST = 60, 100, 120
_HITS = ("warm", "cold")
_FEWEST = 3
_NOT_ASKED = "An adapter's state and leases are shown with an admin's key (OPENAI_API_KEY)."


class _Column(NamedTuple):
    """`width` is the narrowest terminal that has it."""

    title: str
    cell: Callable[[Traffic], Text]
    width: int = 0


def screen(frame: Frame, width: int, height: int | None = None, keys: str = "") -> RenderableType:
    """The frame on a terminal of `width` columns; with a `height`, no more lines than that.

    `keys` is what can be pressed.
    """
    head = _head(frame)
    foot = _foot(frame, keys)
    jobs = () if frame.training is None else frame.training.running
    room = None if height is None else height - len(head) - len(foot)
    shares = _shares(room, len(frame.models), len(frame.tenants), len(jobs))
    parts: list[RenderableType] = [*head]
    if frame.models:
        parts += ["", _models(frame.models, shares[0], width)]
    if frame.tenants:
        parts += ["", _tenants(frame.tenants, shares[1], width)]
    if jobs and shares[2] != 0:
        parts += ["", _jobs(jobs, shares[2])]
    return Group(*parts, *foot)


def _head(frame: Frame) -> list[Text]:
    lines = [_line(("Lorikeet", "bold"), (frame.url, "dim"))]
    if frame.away is not None:
        lines.append(_line((f"{frame.away}; asking again", "bold red")))
    if frame.server is not None:
        lines += _server(frame.server, stale=frame.away is not None)
    if frame.training is not None:
        lines += _training(frame.training)
    return lines


def _server(server: Server, *, stale: bool) -> list[Text]:
    its = server.traffic
    state = ("ready", "green") if server.ready else (server.status or "not ready", "bold yellow")
    if stale:
        state = ("away", "bold red")
    written, read = _rate(its.output_tokens_per_second), _rate(its.prompt_tokens_per_second)
    lines = [
        _line(
            (server.base or UNKNOWN, "bold"),
            state,
            (f"up {_or_dash(server.up_seconds, span)}", ""),
            ("" if server.version is None else f"version {server.version}", "dim"),
        ),
        _line(
            (f"slots {_count(server.slots_used)}/{_count(server.slots_total)}", ""),
            (f"loaded {_count(server.loaded)} of {_count(server.published)}", ""),
            (f"running {_count(its.running)}", ""),
            (f"queued {_count(its.queued)}", "yellow" if its.queued else ""),
            (f"KV cache {server.kv_cache_used:.0%}" if _finite(server.kv_cache_used) else "", ""),
            (f"disk {_or_dash(server.disk_free_bytes, _gigabytes)} free", ""),
        ),
        _line(
            (f"{_rate(its.requests_per_second)} requests/s", ""),
            (f"{_rate(its.failed_per_second)} failed/s", "red" if its.failed_per_second else ""),
            (f"TTFT {_latency(its.ttft_p50_seconds)}, p95 {_latency(its.ttft_p95_seconds)}", ""),
            (f"tokens/s: {written} out, {read} in", ""),
            (f"({_cached(its)} cached)", ""),
            (f"ITL {_latency(its.itl_p50_seconds)}", ""),
        ),
    ]
    faults = [f"{reason} {_rate(rate)}/s" for reason, rate in server.refusals_per_second.items()]
    faults = [f"refused: {', '.join(faults)}"] if faults else []
    if server.quarantined:
        faults.append(f"quarantined {_count(server.quarantined)}")
    if server.engine_restarts:
        faults.append(f"engine restarts {_count(server.engine_restarts)}")
    return [*lines, _line(*((fault, "red") for fault in faults))] if faults else lines


def _training(training: Training) -> list[Text]:
    if not (training.jobs or training.workers or training.running):
        return []
    jobs = [
        (f"{_count(count)} {status}", JOB_STYLES.get(status, ""))
        for status, count in training.jobs.items()
    ]
    away = "" if training.current else "the job table is away: as it was last"
    workers = (f"workers {_count(training.workers)}", "")
    return [_line(("training", "bold"), workers, *jobs, (away, "bold red"))]


def _foot(frame: Frame, keys: str) -> list[Text]:
    over = "" if frame.seconds is None else f"over {frame.seconds:.1f} s"
    asked = all(one.state is not None for one in frame.models if "@" in one.model)
    hints = [keys, over, "" if asked else _NOT_ASKED]
    return [_line(*((hint, "dim") for hint in hints))] if any(hints) else []


def _models(models: Sequence[Model], most: int | None, width: int) -> Table:
    table = _table("model", "state", *_titles(width), *(_HITS if width >= _WIDE else ()))
    for one in models[:most]:
        leases = f" {one.leases}" if one.leases else ""
        name = f"{one.model} ({one.reason})" if one.reason else one.model
        table.add_row(
            _text(name),
            _text(
                UNKNOWN if one.state is None else one.state + leases, STYLES.get(one.state or "")
            ),
            *_cells(one.traffic, width),
            *((_text(_count(one.warm)), _text(_count(one.cold))) if width >= _WIDE else ()),
        )
    _say_rest(table, len(models), most)
    return table


def _tenants(tenants: Sequence[Tenant], most: int | None, width: int) -> Table:
    table = _table("tenant", *_titles(width))
    for one in tenants[:most]:
        table.add_row(_text(one.tenant), *_cells(one.traffic, width))
    _say_rest(table, len(tenants), most)
    return table


def _jobs(jobs: Sequence[Job], most: int | None) -> Table:
    table = _table("training job", "step", "loss", "tokens/s", "s/step", "left", "last sign")
    for one in jobs[:most]:
        left = _or_dash(one.left_seconds, span)
        table.add_row(
            _text(one.job),
            _text(f"{_count(one.step)}/{_count(one.steps)}"),
            _text(UNKNOWN if one.loss is None else f"{one.loss:.3f}", _loss_style(one.loss)),
            _text(_rate(one.tokens_per_second)),
            _text(_or_dash(one.step_seconds, lambda seconds: f"{seconds:.2f}")),
            _text(left),
            _text(_or_dash(one.silent_seconds, lambda seconds: f"{span(seconds)} ago")),
        )
    _say_rest(table, len(jobs), most)
    return table


_COLUMNS = (
    _Column("run", lambda its: _text(_count(its.running))),
    _Column("wait", lambda its: _text(_count(its.queued), "yellow" if its.queued else "")),
    _Column("req/s", lambda its: _text(_rate(its.requests_per_second))),
    _Column(
        "fail/s",
        lambda its: _text(_rate(its.failed_per_second), "red" if its.failed_per_second else ""),
        _WIDE,
    ),
    _Column("tok/s", lambda its: _text(_rate(its.output_tokens_per_second)), _NARROW),
    _Column("in/s", lambda its: _text(_rate(its.prompt_tokens_per_second)), _WIDEST),
    _Column("TTFT", lambda its: _text(_latency(its.ttft_p50_seconds))),
    _Column("p95", lambda its: _text(_latency(its.ttft_p95_seconds)), _NARROW),
    _Column("ITL", lambda its: _text(_latency(its.itl_p50_seconds)), _WIDEST),
)


def _titles(width: int) -> list[str]:
    return [column.title for column in _COLUMNS if width >= column.width]


def _cells(its: Traffic, width: int) -> list[Text]:
    return [column.cell(its) for column in _COLUMNS if width >= column.width]


def _shares(
    room: int | None, models: int, tenants: int, jobs: int
) -> tuple[int | None, int | None, int | None]:
    """How many rows each table gets; a table takes three lines more: a gap, titles, the rest."""
    if room is None:
        return None, None, None
    left = room - 3 * sum(count > 0 for count in (models, tenants, jobs))
    some_jobs = min(jobs, MAX_JOBS, max(0, left - 2 * _FEWEST))
    left -= some_jobs
    some_tenants = min(tenants, max(_FEWEST, left - models, left // 3))
    return max(1, left - some_tenants), some_tenants, some_jobs


def _table(name: str, *titles: str) -> Table:
    """Names are cut where there is no room, figures last of all."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(name, min_width=8)
    for title in titles:
        table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
    return table


def _say_rest(table: Table, count: int, most: int | None) -> None:
    if most is not None and count > most:
        table.add_row(_text(f"and {count - most} more", "dim"))


def _line(*parts: tuple[str, str | None]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for text, style in parts:
        if text:
            line.append_text(_text(text if not line else f"  {text}", style))
    return line


def _text(text: str, style: str | None = None) -> Text:
    """Names come from clients and files: nothing in them may move the cursor."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return Text(clean, style or "", no_wrap=True, overflow="ellipsis")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    return shown(value) if value is not None and math.isfinite(value) else UNKNOWN


def _count(value: float | None) -> str:
    return _or_dash(value, lambda count: f"{count:,.0f}")


def _rate(value: float | None) -> str:
    return _or_dash(
        value, lambda rate: f"{rate:,.0f}" if rate >= 100 or rate == 0 else f"{rate:.3g}"
    )


def _latency(seconds: float | None) -> str:
    return _or_dash(seconds, lambda s: f"{s * 1000:.0f} ms" if s < 0.9995 else f"{s:.1f} s")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"


def _cached(its: Traffic) -> str:
    if not its.prompt_tokens_per_second or its.cached_tokens_per_second is None:
        return UNKNOWN
    return f"{its.cached_tokens_per_second / its.prompt_tokens_per_second:.0%}"


def _loss_style(loss: float | None) -> str:
    return "" if loss is None or math.isfinite(loss) else "bold red"
