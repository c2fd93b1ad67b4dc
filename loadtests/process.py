"""What the operating system says about a process: its CPU time and its memory."""

from pathlib import Path

import psutil  # type: ignore[import-untyped]


def cpu_seconds(pid: int) -> float:
    """User and system time of this process so far, without its children's."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_mib(pid: int) -> float:
    """Memory of this process in RAM, in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 1024**2


def peak_mib(pid: int) -> float:
    """The most memory that this process has had in RAM so far, in MiB; 0 where it has ended.

    Linux keeps this mark itself (`VmHWM`), so that no peak falls between two looks.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    marks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(marks[0]) / 1024 if marks else 0.0
