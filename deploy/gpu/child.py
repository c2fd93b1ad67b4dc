"""One check in a process of its own, so that a crash or a hang is a row like any other.

python -m deploy.gpu.child NAME RESULT.json
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from deploy.gpu.checks import Check
from deploy.gpu.row import NotMet, Row, Skipped

_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "PYTHONWARNINGS": "ignore"}


def make(check: Check, home: Path, seconds: float) -> Row:
    """Run the check in a child, `seconds` at most, with `home` as the data folder."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", check.function, str(result)],
                cwd=_ROOT,
                env=os.environ | _ENVIRONMENT | {"LORIKEET_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        found: dict[str, Any]
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            found = {"status": "failed", "reason": f"not done after {seconds:.0f} s"}
        else:
            found = _read(result, log, process.returncode)
        finally:
            _end(process)
    return Row(check.name, check.what, seconds=round(time.monotonic() - begun, 1), **found)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and all that it has started: a server has a process group of its own."""
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(result: Path, log: Path, code: int) -> dict[str, Any]:
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    return {"status": "failed", "reason": f"ended with exit code {code}: {lines[-1][:300]}"}


def _outcome(place: str) -> dict[str, Any]:
    module, _, function = place.partition(":")
    try:
        figures = getattr(import_module(module), function)()
    except Skipped as reason:
        return {"status": "skipped", "reason": str(reason)}
    except NotMet as error:
        return {"status": "failed", "reason": str(error), "figures": error.figures}
    except Exception as error:
        words = " ".join(str(error).split())[-300:]
        return {"status": "failed", "reason": f"{type(error).__name__}: {words}"}
    return {"status": "passed", "figures": figures}


if __name__ == "__main__":
    function, place = sys.argv[1:]
    Path(place).write_text(json.dumps(_outcome(function)))
