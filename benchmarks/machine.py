"""The machine and the software that a result was measured on, and the most that one thread of it can do."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fastflow
from fastflow import _native

PACKAGES = ("fastflow", "torch", "numpy", "jax", "jaxlib", "folx", "torchdiffeq", "jet-for-pytorch")


def record() -> dict[str, Any]:
    """CPU, instruction set, versions and source revision, as plain data."""
    return {
        "cpu": _cpu("model name"),
        "cpu_family_model": f"{_cpu('cpu family')}/{_cpu('model')}",
        "processors": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "instruction_set": _native.instruction_set(),
        "compiler": _native.build_info()["compiler"],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "revision": _revision(),
    }


def folder_name() -> str:
    """Such as amd-epyc-26-2-avx512: the processor's name, family and model, and the instruction set in use."""
    name = f"{_cpu('model name')} {_cpu('cpu family')} {_cpu('model')} {_native.instruction_set()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Peak:
    """One thread's float32 multiply-add rate in FLOP/s: the best of all measurements in the run."""

    def __init__(self) -> None:
        self.measured: list[float] = []
        self.measure(1.0)

    def measure(self, seconds: float = 0.1) -> None:
        """Measure once more."""
        self.measured.append(_native.fma_peak("float32", seconds))

    @property
    def best(self) -> float:
        """FLOP/s."""
        return max(self.measured)


def _cpu(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return platform.processor() if key == "model name" else ""


def _caches() -> dict[str, str]:
    """Size of each cache of the first processor."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (index / "type").read_text().strip()
        level = (index / "level").read_text().strip()
        found[f"L{level} {kind.lower()}"] = (index / "size").read_text().strip()
    return found


def _version(name: str) -> str | None:
    if name == "fastflow":
        return fastflow.__version__
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The checkout's commit, marked where tracked files differ from it."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--match=")
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
