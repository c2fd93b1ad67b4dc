"""A frame as it is drawn."""

import io
from dataclasses import replace

import pytest
from exposition import look, metrics
from rich.console import Console

from serve.top.frame import Frame, Job
from serve.top.screen import screen
from serve.top.source import Residency


def drawn(frame: Frame, width: int = 130, height: int | None = None, keys: str = "") -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(screen(frame, width, height, keys))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def row(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line.split()


def test_all_that_is_known_is_there(frame: Frame) -> None:
    text = drawn(frame, keys="q quits")
    assert "smol  ready  up 1 min 40 s  version 1.2" in text
    assert "slots 2/8  loaded 4 of 9  running 3  queued 2  disk 5.0 GB free" in text
    assert "5 requests/s  1 failed/s  TTFT 100 ms, p95 460 ms  tokens/s: 20 out, 40 in" in text
    assert "(25% cached)  ITL 100 ms" in text
    assert "refused: queue_full 0.5/s  quarantined 1" in text
    assert "training  workers 1  2 queued  1 running" in text
    opl = "opl@1 loaded 3 3 1 4 1 20 40 100 ms 460 ms 100 ms 39 1"
    assert row(text, "opl@1") == opl.split()
    assert row(text, "cold@1") == ["cold@1", "cold", *"000000–––00"]
    assert "bad@2 (its output is not finite)" in text
    acme = "acme 3 2 2 0 10 – 100 ms 460 ms –"
    assert row(text, "acme") == acme.split()
    job = "ftjob-1 30/120 0.500 812 2.00 3 min 0 s 3 s ago"
    assert row(text, "ftjob-1") == job.split()
    assert text.rstrip().endswith("q quits  over 10.0 s")


def test_what_is_not_known_is_a_dash() -> None:
    bare = Frame.of("http://test", look("# TYPE lorikeet_ready gauge\nlorikeet_ready 1\n", 1), None)
    text = drawn(bare)
    assert "slots –/–  loaded – of –  running –  queued –  disk – free" in text
    assert row(text, "smol   ") == ["smol", "base", *"–" * 11]


def test_a_server_that_was_never_there_and_one_that_went_away(frame: Frame) -> None:
    never = Frame("http://test", frame.time).gone("no server answers on http://test")
    assert "no server answers on http://test; asking again" in drawn(never)
    text = drawn(frame.gone("no server answers on http://test"))
    assert "asking again" in text
    assert "smol  away" in text
    assert "opl@1" in text


def test_states_that_may_not_be_asked_for_are_explained() -> None:
    text = drawn(Frame.of("http://test", look(metrics(1), 1.0), None))
    assert row(text, "opl@1")[1] == "–"
    assert "with an admin's key" in text


def test_names_cannot_move_the_cursor_or_be_markup(frame: Frame) -> None:
    name = "x\x1b[2J\n[red]y"
    told = replace(frame, models=(replace(frame.models[0], model=name),))
    text = drawn(told)
    assert "\x1b" not in text
    assert "x?[2J?[red]y" in text


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
def test_it_fits_on_every_screen(frame: Frame, width: int, height: int) -> None:
    many = {f"adapter-{n}@1": Residency("cold") for n in range(1000)}
    jobs = tuple(Job(f"ftjob-{n}", 1, 2, 0.5, 1, 1, 1) for n in range(20))
    assert frame.training is not None
    crowded = replace(
        Frame.of("http://test", look(metrics(1), 1.0, many), None),
        tenants=tuple(replace(frame.tenants[0], tenant=f"tenant-{n}") for n in range(50)),
        training=replace(frame.training, running=jobs),
    )
    lines = drawn(crowded, width, height, "q quits").splitlines()
    assert max(map(len, lines)) <= width
    if height >= 24:
        assert len(lines) <= height
        assert lines[-1].startswith("q quits")
        assert any(line.startswith("opl") for line in lines)
        assert any(line.startswith("tenant-0") for line in lines)
        assert any(line.strip().startswith("and 9") for line in lines)


def test_without_a_height_everything_is_there() -> None:
    many = {f"adapter-{n}@1": Residency("cold") for n in range(200)}
    text = drawn(Frame.of("http://test", look(metrics(1), 1.0, many), None))
    assert text.count("adapter-") == 200


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_long_name_is_cut_before_any_figure(frame: Frame, width: int) -> None:
    opl = frame.models[0]
    long = replace(frame, models=(replace(opl, model="opl-" + "x" * 200 + "@1"),))
    figures = row(drawn(long, width), "opl-x")
    assert figures[0].endswith("…")
    assert figures[1:3] == ["loaded", "3"]
    assert not any("…" in figure for figure in figures[1:])
    assert " ".join(figures).find("100 ms 460 ms") > 0
