"""The systemd units: valid, hardened, and patient enough for a drain."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from settings_names import known_variables

from deploy.monitoring.__main__ import DEPLOY
from serve.server import ERROR_SECONDS
from serve.settings import ServeSettings
from serve.worker_child import STOP_SECONDS
from train.worker.settings import WorkerSettings

FOLDER = DEPLOY / "systemd"
EXPOSURE = 25
"""systemd's own figure, 0 (sealed off) to 100, of which it calls up to 49 OK or better."""
unit = pytest.mark.parametrize("unit", sorted(FOLDER.glob("*.service")), ids=lambda it: it.stem)


def _analyze(*arguments: object) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lorikeet" not in done.stderr


def _read(path: Path) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    return unit


@unit
def test_systemd_accepts_it(unit: Path, tmp_path: Path) -> None:
    """With a program that is there in the place of the one that would be installed."""
    text, count = re.subn(
        r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text(), flags=re.M
    )
    assert count == 1
    copy = tmp_path / unit.name
    copy.write_text(text)
    _analyze("verify", "--man=no", copy)


@unit
def test_systemd_finds_it_well_sealed_off(unit: Path) -> None:
    _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit)


@unit
def test_it_stops_no_sooner_than_its_work_is_done(unit: Path) -> None:
    service = _read(unit)["Service"]
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
    drain = ServeSettings().drain_seconds + ERROR_SECONDS
    needed = {
        "lorikeet-server": max(drain, STOP_SECONDS),
        "lorikeet-worker": WorkerSettings().grace_seconds,
    }
    assert int(service["TimeoutStopSec"]) >= needed[unit.stem] + 20


@unit
def test_its_data_folder_is_what_it_may_write_to(unit: Path) -> None:
    service = _read(unit)["Service"]
    assert service["ProtectSystem"] == "strict"
    folder = f"/var/lib/{service['StateDirectory']}"
    assert f"LORIKEET_HOME={folder}" in service["Environment"].split()
    user, home = re.search(r'^u (\S+) - ".*" (\S+)$', _sysusers(), re.M).groups()  # type: ignore[union-attr]
    assert (user, home) == (service["User"], folder)


def _sysusers() -> str:
    return (FOLDER / "lorikeet.sysusers.conf").read_text()


def test_every_variable_of_the_example_is_a_setting() -> None:
    named = re.findall(r"^#?([A-Z_]+)=", (FOLDER / "lorikeet.env").read_text(), re.M)
    assert len(named) > 5
    assert set(named) <= known_variables()
