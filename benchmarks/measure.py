"""CPU time of a process from the kernel, and sums over repeated rounds."""

import os
import platform
import statistics
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_us(pid: int) -> int:
    """CPU time a process and its ended children have used, microseconds."""
    schedstat = Path(f"/proc/{pid}/task")
    # Per-thread run time in nanoseconds: finer than clock ticks.
    total_ns = 0
    for task in schedstat.iterdir():
        try:
            total_ns += int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue
    return total_ns // 1000


def machine() -> dict[str, str]:
    """What this ran on, without naming it."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }
