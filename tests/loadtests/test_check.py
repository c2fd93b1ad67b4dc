"""A run is judged by its SLO file, and a file that cannot be meant is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

import loadtests
from loadtests.reports.slo import SLO
from loadtests.reports.summary import finite, summary, write_summary
from registry import UsageError

from .test_reports import ANSWERS, STAGES

SAMPLE = Path(loadtests.__file__).with_name("slo.yaml")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    write_summary(finite(summary({"scenario": "noisy"}, ANSWERS, STAGES)), path)
    return path


def slo(folder: Path, *objectives: str) -> Path:
    path = folder / "slo.yaml"
    path.write_text("objectives:\n" + "".join(f"  - {{{each}}}\n" for each in objectives))
    return path


def check(report: Path, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.check", str(report), "--slo", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_run_that_keeps_its_objectives_passes(report: Path, tmp_path: Path) -> None:
    kept = check(
        report,
        slo(
            tmp_path,
            "figure: ttft_p95, at_most: 2.0, tenant: quiet",
            "figure: failures, at_most: 0, stage: before",
            "figure: output_tokens_per_second, at_least: 1.5",
            "figure: ttft_max, at_most: 2.0, stage: beside noise, tenant: quiet",
            "figure: requests, at_least: 5, model: red",
        ),
    )
    assert kept.returncode == 0, kept.stdout
    assert kept.stdout.count("kept") == 5


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("figure: failures, at_most: 1", "missed"),
        ("figure: output_tokens_per_second, at_least: 2", "missed"),
        ("figure: ttft_p50, at_most: 99, stage: nowhere", "not measured"),
        ("figure: ttft_p50, at_most: 99, tenant: nobody", "not measured"),
        ("figure: ttft_p50, at_most: 99, model: none", "not measured"),
        ("figure: itl_p50, at_most: 99, stage: before, tenant: noisy", "not measured"),
    ],
)
def test_one_miss_fails_the_run(report: Path, tmp_path: Path, objective: str, said: str) -> None:
    judged = SLO.read(slo(tmp_path, objective)).judge(finite(summary({}, ANSWERS, STAGES)))
    assert [verdict.kept for verdict in judged] == [False]
    if said == "missed":
        run = check(report, slo(tmp_path, "figure: requests, at_least: 1", objective))
        assert run.returncode == 1
        assert "missed" in run.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("objectives: []", "objectives"),
        ("- 1", "file"),
        ("objectives: [{figure: speed, at_most: 1}]", "unknown figure 'speed'"),
        ("objectives: [{figure: ttft_p50}]", "one of at_most and at_least"),
        ("objectives: [{figure: ttft_p50, at_most: 1, at_least: 1}]", "one of at_most"),
        ("objectives: [{figure: ttft_p50, at_most: .nan}]", "finite"),
        ("objectives: [{figure: ttft_p50, at_most: 1, models: red}]", "models"),
        ("objectives: [{figure: ttft_p50, at_most: 1, model: a, stage: b}]", "model goes without"),
        ("objectives: [{", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        SLO.read(path)


def test_the_sample_is_a_good_file() -> None:
    assert len(SLO.read(SAMPLE).objectives) >= 3
