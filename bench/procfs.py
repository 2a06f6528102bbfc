"""Memory and CPU time of processes, as the kernel counts them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: The kind of a process's CPU clock that counts what the scheduler gave it (``MAKE_PROCESS_CPUCLOCK`` of Linux).
_SCHED = 2
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used: CPU seconds since its start, resident memory in MB now (1 MB is 10^6 bytes)."""

    cpu: float
    rss: float


def usage(pid: int) -> Usage:
    """Return what a process has used so far; raises OSError when it is gone."""
    # The process's own CPU clock, in nanoseconds: /proc counts ticks of 10 ms, more than an idle floor spends a second.
    return Usage(time.clock_gettime(~pid << 3 | _SCHED), _rss(pid))


def children(pid: int) -> list[int]:
    """Return the process ids of direct children."""
    found: list[int] = []
    for task in (_PROC / str(pid) / "task").iterdir():
        found += [int(text) for text in (task / "children").read_text().split()]
    return found


def comm(pid: int) -> str:
    """Return the short name of a process."""
    return (_PROC / str(pid) / "comm").read_text().strip()


def busy() -> float:
    """Return the CPU seconds all processors have spent on anything since the start of the machine."""
    fields = [int(text) for text in (_PROC / "stat").read_text().splitlines()[0].split()[1:8]]
    user, nice, system, _idle, _waiting, interrupts, soft = fields
    return (user + nice + system + interrupts + soft) / _TICKS


def machine() -> str:
    """Return a line about the machine."""
    lines = (_PROC / "cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = os.uname()
    return f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GB, {system.sysname} {system.release}"


def _rss(pid: int) -> float:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
