"""`make gpu-check`, where there is no GPU: what a CPU can do, and a reason for all the rest."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.gpu import child, report
from deploy.gpu.checks import CHECKS, Check
from deploy.gpu.facilities import Facilities
from deploy.gpu.report import Report
from deploy.gpu.row import Row

ROOT = Path(report.__file__).parents[2]
NO_GPU = Facilities(
    date="2026-11-29T12:00:00Z",
    card="",
    gpus=0,
    memory_gib=0.0,
    capability="",
    driver="",
    cuda="",
    python="3.11.7",
    system="Linux",
    versions={"torch": "2.13.0"},
    missing={"cuda": "no CUDA GPU"},
)


def gpu_check(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.gpu", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_a_gpu_a_cpu_does_what_it_can(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU: run make gpu-check")
    done = gpu_check("--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("gpu-check-*.json")
    found = Report.read(path)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == [check.name for check in CHECKS]
    for name in ("lora", "qlora"):
        assert rows[name].status == "passed", rows[name]
        assert rows[name].figures["device"] == "cpu"
        first, last = rows[name].figures["first loss"], rows[name].figures["last loss"]
        assert float(last) < 0.5 * float(first)
    for name in rows.keys() - {"lora", "qlora"}:
        assert rows[name].status == "skipped"
        assert "no CUDA GPU" in rows[name].reason
    assert found.machine.versions["torch"] == torch.__version__
    assert not found.machine.card
    assert "gpu-check" in done.stdout
    for name in rows:
        assert name in done.stdout


@pytest.mark.parametrize(
    ("function", "seconds", "said"),
    [
        ("deploy.gpu.kernels:none_such", 60, "none_such"),
        ("os:abort", 60, "ended with exit code -6"),
        ("signal:pause", 1, "not done after 1 s"),
    ],
)
def test_a_check_that_fails_dies_or_hangs_is_a_row(
    tmp_path: Path, function: str, seconds: float, said: str
) -> None:
    row = child.make(Check("tried", "for the test", (), seconds, function), tmp_path, seconds)
    assert row.status == "failed"
    assert said in row.reason


def test_results_of_another_machine_are_shown_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Facilities(
        **{**NO_GPU.as_dict(), "card": "NVIDIA H200", "gpus": 1, "memory_gib": 139.8}
    )
    rows = [
        Row("peak", "memory", "failed", 31.2, {"planned GiB": 2.0}, "they differ | much"),
        Row("bench", "speed", "skipped", reason="no time left"),
    ]
    path, page = tmp_path / "found.json", tmp_path / "gpu.md"
    Report(machine, rows).write(path)
    assert Report.read(path) == Report(machine, rows)
    shown = gpu_check("--from", str(path))
    assert shown.returncode == 1  # one has failed
    assert "NVIDIA H200" in shown.stdout
    page.write_text("# GPUs\n<!-- begin gpu-check -->\nold\n<!-- end gpu-check -->\nmore\n")
    Report.read(path).record(page)
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("<!-- end gpu-check -->\nmore\n")
    assert "| `peak` | memory | failed | 31 | they differ \\| much; planned GiB 2 |" in text
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="no place"):
        Report.read(path).record(page)


def test_bad_options_and_files(tmp_path: Path) -> None:
    assert "choose of products" in gpu_check("--only", "everything").stderr.replace("\n", " ")
    path = tmp_path / "found.json"
    path.write_text("[]")
    assert gpu_check("--from", str(path)).returncode == 2
    Report(NO_GPU, []).write(path)
    assert "no GPU in these results" in gpu_check("--from", str(path), "--record").stderr


def test_the_page_has_a_place_for_the_table() -> None:
    text = report.PAGE.read_text()
    assert text.count("<!-- begin gpu-check -->") == text.count("<!-- end gpu-check -->") == 1
    for check in CHECKS:
        assert f"`{check.name}`" in text
