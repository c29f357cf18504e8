"""How time and memory are measured.

Contenders take turns, so that a noisy neighbour disturbs all of them alike. The time compared is the smallest CPU
time of the process over all undisturbed calls; wall time is told by its 20th, 50th and 80th percentile.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass
class Timing:
    """Seconds of every timed call."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The smallest CPU time of a call that had a processor to itself, or of the one that came nearest to that.

        The clock of a process learns of its other threads' work some milliseconds late: of a call that seems to have
        taken far less CPU than wall time, a part is missing.
        """
        shares = [cpu / wall for cpu, wall in zip(self.cpu, self.wall, strict=True)]
        least = min(0.9, max(shares))
        return min(cpu for cpu, share in zip(self.cpu, shares, strict=True) if share >= least)

    def wall_percentile(self, percent: float) -> float:
        """Of the wall time."""
        return float(np.percentile(self.wall, percent))


def keep_memory() -> None:
    """Make glibc's malloc keep freed memory for the next call, from now on.

    It would give large blocks back at once, and have every call wait for the system to clear them anew: some peers take
    three times as long, one day and not the other, for nothing that they could help.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, 2**30)


def measure(calls: Mapping[str, Call], budget: float, turn: float = 0.02, min_rounds: int = 3) -> dict[str, Timing]:
    """Time each call in turn, again and again until `budget` seconds are spent.

    A turn is as many calls as fit into `turn` seconds, and one at least. One call of each goes before, untimed. Each
    round begins with another contender: the first one finds the caches cold from collecting garbage.
    """
    timings = {name: Timing() for name in calls}
    order = list(calls)
    for call in calls.values():
        call()
    gc.collect()
    gc.disable()
    try:
        start, rounds = time.perf_counter(), 0
        while rounds < min_rounds or time.perf_counter() - start < budget:
            for name in order:
                _take_turn(calls[name], timings[name], turn)
            order.append(order.pop(0))
            rounds += 1
            gc.collect()
    finally:
        gc.enable()
    return timings


def _take_turn(call: Call, timing: Timing, turn: float) -> None:
    end = time.perf_counter() + turn
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        cpu, now = time.process_time() - cpu, time.perf_counter()
        del result
        timing.cpu.append(cpu)
        timing.wall.append(now - wall)
        if now >= end:
            return


def peak_memory(call: Call) -> int | None:
    """Bytes by which the process's resident memory grows at most during one call; None where Linux doesn't tell.

    Free memory is handed back to the system before, as far as the allocators let go of it, so that it isn't reused
    unseen. Results are part of it; a library that keeps a pool of its own shows less than it uses.
    """
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status("VmRSS")
        result = call()
        peak = _status("VmHWM")
        del result
    except (OSError, AttributeError):
        return None
    return max(0, peak - before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")
