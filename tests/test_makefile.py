"""`make install` refuses what it could only make a muddle of."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of one as the Makefile looks at before it installs anything."""
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / "requirements").mkdir()
    (tmp_path / ".venv").mkdir()
    for name in ("pyproject.toml", "requirements/cpu.lock", "requirements/gpu.lock"):
        (tmp_path / name).touch()
    return tmp_path


def refused(checkout: Path, *, path: str = "") -> str:
    """What `make install FLAVOR=cpu` says before it fails; it must not come to a pip."""
    done = subprocess.run(
        ["make", "install", "FLAVOR=cpu", "BIN=nowhere", f"PYTHON={sys.executable}"],
        cwd=checkout,
        env={"PATH": f"{path}:/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pip" not in done.stdout
    return done.stdout


def test_two_flavors_do_not_share_an_environment(checkout: Path) -> None:
    (checkout / ".venv" / ".installed-gpu").touch()
    said = refused(checkout)
    assert said.startswith("error: .venv/.installed-gpu is there")
    assert "Run make clean first" in said


def test_another_platform_is_told_so(checkout: Path) -> None:
    uname = checkout / "bin" / "uname"
    uname.parent.mkdir()
    uname.write_text("#!/bin/sh\necho Darwin arm64\n")
    uname.chmod(0o755)
    said = refused(checkout, path=str(uname.parent))
    assert said.splitlines()[0].endswith("this is Darwin arm64")
