"""CPU time and memory of a process tree from the kernel, and what machine this is."""

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


def cpu_us(pid: int) -> int:
    """CPU time, user and system, that a process tree's threads have used, microseconds.

    The scheduler's own account in nanoseconds: finer than clock ticks.
    """
    total_ns = 0
    for member in _tree(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns // 1000


def rss_mb(pid: int, what: str = "VmRSS") -> float:
    """Resident memory of a process tree, MB; `VmHWM` is the most it ever was."""
    total_kb = 0
    for member in _tree(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                total_kb += int(line.split()[1])
    return round(total_kb / 1024, 1)


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
        "load before": str(round(os.getloadavg()[0], 1)),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
