"""The quick form of the benchmark's throughput section: ours beside stock vLLM."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.gpu.row import Figures, NotMet

_OPTIONS = ("--quick", "--only", "throughput", "--servers", "stock,ours", "--seconds", "5")


def quick() -> Figures:
    """Output tokens a second by server and traffic; what was promised is told by `make bench`."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-bench-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.bench", *_OPTIONS, "--output", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        written = sorted(Path(folder).glob("bench-*.json"))
        if not written:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            raise NotMet(lines[-1][:300])
        found = json.loads(written[-1].read_text())
    figures = {
        f"{row['server']}, {row['traffic']}": float(row["figures"]["tokens_per_second"])
        for row in found["rows"]
    }
    if found["problems"]:
        raise NotMet("; ".join(found["problems"]), figures)
    return figures
