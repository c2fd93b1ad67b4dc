"""What the operating system says about a process: its CPU time and its memory."""

import psutil  # type: ignore[import-untyped]


def cpu_seconds(pid: int) -> float:
    """User and system time of this process so far, without its children's."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_mib(pid: int) -> float:
    """Memory of this process in RAM, in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 1024**2
