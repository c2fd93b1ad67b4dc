"""The picture of a run's loss, also of runs with nothing to draw."""

import json
import math
import struct
from pathlib import Path

import pytest

from train.runs import plot
from train.runs.plot import points, smoothed, write_loss_plot


def pixels(png: Path) -> tuple[int, int]:
    """Width and height, from the header of a PNG file."""
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def write_metrics(folder: Path, *lines: object) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def step(number: int, loss: float | None, rate: float = 1e-3) -> dict[str, object]:
    return {"step": number, "loss": loss, "learning_rate": rate}


def test_a_run_is_drawn_with_its_held_out_loss_and_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    original = plot._draw
    monkeypatch.setattr(
        plot, "_draw", lambda axes, lines: (original(axes, lines), drawn.append(axes))
    )
    metrics = write_metrics(
        tmp_path,
        *(step(n, 3.0 / n, rate=1e-3 / n) for n in range(1, 31)),
        {"step": 30, "held_out_loss": 0.2},
    )
    write_loss_plot(metrics, tmp_path / "loss.png")
    width, height = pixels(tmp_path / "loss.png")
    assert width > 600
    assert height > 300
    [left] = drawn
    lines = {line.get_label(): line for axes in left.figure.axes for line in axes.get_lines()}
    assert set(lines) == {"loss", "loss, smoothed", "held-out loss", "learning rate"}
    assert list(lines["loss"].get_ydata()) == [3.0 / n for n in range(1, 31)]
    assert list(lines["held-out loss"].get_xydata()[0]) == [30, 0.2]
    assert lines["learning rate"].axes is not left
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert sorted(legend) == sorted(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "metrics.jsonl"]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [step(1, math.nan)],
        [step(1, None)],
        [step(1, 2.0)],
        [step(1, math.inf), step(2, 1.0), step(3, math.nan)],
        [{"step": 5, "held_out_loss": 1.0}],
        [step(1, 0.0), step(2, 0.0)],
    ],
)
def test_a_picture_comes_of_any_metrics(tmp_path: Path, lines: list[object]) -> None:
    write_loss_plot(write_metrics(tmp_path, *lines), tmp_path / "loss.png")
    assert pixels(tmp_path / "loss.png")[0] > 0


def test_metrics_that_are_not_there_and_a_line_cut_short(tmp_path: Path) -> None:
    write_loss_plot(tmp_path / "none.jsonl", tmp_path / "loss.png")
    empty = (tmp_path / "loss.png").read_bytes()
    metrics = write_metrics(tmp_path, *(step(n, 3.0 / n) for n in range(1, 9)))
    with metrics.open("a") as file:
        file.write('{"step": 9, "lo')
    write_loss_plot(metrics, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() != empty


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "loss.png"
    (tmp_path / ".loss.png.partial").mkdir()
    target.write_bytes(b"before")
    with pytest.raises(OSError):
        write_loss_plot(write_metrics(tmp_path, step(1, 1.0)), target)
    assert target.read_bytes() == b"before"


def test_numbers_that_are_none_are_left_out() -> None:
    lines = [step(1, 2.0), step(2, math.nan), {"step": 3, "held_out_loss": 1.0}, step(4, 1.0)]
    assert points(lines, "loss") == ([1, 4], [2.0, 1.0])
    assert points(lines, "held_out_loss") == ([3], [1.0])


def test_smoothing_starts_at_the_first_value_and_follows_the_others() -> None:
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    # 0.5: means are 0.5·2 = 1 and 0.5·1 + 0.5·1 = 1; divided by 1 - 0.5 and 1 - 0.25.
    assert smoothed([2.0, 1.0], weight=0.5) == pytest.approx([2.0, 4 / 3])
    assert smoothed([]) == []
