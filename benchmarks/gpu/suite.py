"""Build, test and time the engine on a machine with a GPU, in under 8 minutes: `make gpu PYTHON=python3 OUT=dir`.

Each part runs in a process of its own within its own time. Everything that is needed is there already: nothing is
downloaded, and what is built goes into OUT, beside the results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu import report as gpu_report
from benchmarks.gpu.parts import ROOT, Outcome, Part, run

TOTAL = 465.0  # seconds of all parts
OLDEST = {"torch": (2, 11), "triton": (3, 6), "pytest": (8, 3)}
# Of what the package needs, what these parts import: neither the command line's tyro nor nvtx, which profiles need.
NEEDED = ("torch", "triton", "numpy", "safetensors", "tqdm", "pillow", "jinja2", "pytest")
BUILD_TOOLS = ("scikit-build-core", "nanobind")
TESTS = 200.0  # seconds

# What is timed, and the seconds that it may take with torch.compile; names are of benchmarks.gpu.part.
BENCHMARKS = {
    "ceilings": ("copy bandwidth and matrix products", 30.0),
    "flow": ("paths of 20 steps: one call against PyTorch loops, with and without CUDA graphs", 45.0),
    "training-B65536-D12-H64-L2-K1": ("the training step against nested autograd and torch.compile", 75.0),
    "training-B4096-D128-H128-L2-K32": ("the same with 32 potentials", 75.0),
    "jet-B65536-D12-H64-L2-K1": ("jets against nested autograd and torch.compile", 60.0),
    "precisions": ("the training step in each precision, for wide layers", 60.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, or those that the command line names, and write what they gave."""
    parser = argparse.ArgumentParser(prog="make gpu", description="Build, test and time the engine on a GPU.")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for everything that is written")
    parser.add_argument("--only", default="", help="only parts whose name contains this, beside the build")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    reason = missing()
    if reason is not None:
        print(f"make gpu: {reason}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    device = describe()
    print(f"{device['name']}, {device['multiprocessors']} multiprocessors, torch {device['torch']}", flush=True)
    chosen = [part for part in parts(out, device["capability"]) if part.name == "build" or options.only in part.name]
    environment = {"PYTHONPATH": str(out / "site"), "TORCHINDUCTOR_COMPILE_THREADS": "8"}
    outcomes = run(chosen, out, TOTAL, environment, lambda so_far: write(device, so_far, out))
    draw(device, outcomes, out)
    print((out / "results.md").read_text(encoding="utf-8"))
    bad = [outcome.name for outcome in outcomes if outcome.status != "ok"]
    print(f"Written to {out}." + (f" Not ok: {', '.join(bad)}." if bad else ""))
    return 1 if bad else 0


def missing(also: Sequence[str] = ()) -> str | None:
    """Why nothing can be run here, in a line, or None; `also` names further packages that must be there."""
    absent = [name for name in (*NEEDED, *also, *BUILD_TOOLS) if _version(name) is None]
    if _version("cmake") is None and shutil.which("cmake") is None:
        absent.append("cmake")
    if absent:
        return f"{sys.executable} lacks {', '.join(absent)}; install them, or name another interpreter with PYTHON="
    for name, oldest in OLDEST.items():
        found = _version(name) or ""
        if tuple(int(part) for part in found.split("+")[0].split(".")[:2]) < oldest:
            return f"{name} must be {'.'.join(map(str, oldest))} or newer, got {found}"
    import torch

    if not torch.cuda.is_available():
        return "torch finds no CUDA device; run it on a machine with an NVIDIA GPU and a torch built for CUDA"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        name, (major, minor) = torch.cuda.get_device_name(), capability
        return f"the kernels need compute capability 8.0, {name} has {major}.{minor}"
    return None


def describe() -> dict[str, Any]:
    """The device and the software, as plain data."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": _driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "python": sys.version.split()[0],
        "nvcc": shutil.which("nvcc") is not None or "CUDACXX" in os.environ,
    }


def parts(out: Path, capability: Sequence[int]) -> list[Part]:
    """The build, every benchmark, and the tests, with the seconds that each may take.

    The tests come last: they take what time is left, and those that have passed by then count.
    """
    site = out / "site"
    architecture = "90" if capability[0] >= 9 else "80-real"
    python = [sys.executable, "-m", "benchmarks.gpu.part"]
    build = [
        sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--upgrade",
        "--disable-pip-version-check", "--target", str(site),
        f"--config-settings=cmake.define.FASTFLOW_CUDA_ARCHITECTURES={architecture}", str(ROOT),
    ]  # fmt: skip
    tests = [sys.executable, "-m", "benchmarks.gpu.tests", str(out), "{result}", "{seconds}"]
    return [
        Part("build", "the package with its CUDA module, without a network", build, 200.0),
        *(Part(name, what, [*python, name, "{result}"], seconds) for name, (what, seconds) in BENCHMARKS.items()),
        Part("tests", "all that are marked gpu", tests, TESTS),
    ]


def write(device: dict[str, Any], outcomes: Sequence[Outcome], out: Path) -> None:
    """results.json and results.md."""
    results = _results(device, outcomes)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(gpu_report.markdown(results), encoding="utf-8")


def draw(device: dict[str, Any], outcomes: Sequence[Outcome], out: Path) -> None:
    """results.png, where matplotlib is, and results.md with it; what was measured outlives a plot that fails."""
    results = _results(device, outcomes)
    try:
        drawn = gpu_report.draw(results, out / "results.png")
    except Exception as error:  # of matplotlib, whose version is the machine's own
        print(f"there is no plot: {type(error).__name__}: {error}")
        return
    (out / "results.md").write_text(gpu_report.markdown(results, drawn), encoding="utf-8")


def _results(device: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {"device": device, "parts": [outcome._asdict() for outcome in outcomes]}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
