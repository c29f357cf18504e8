"""What Nsight Systems and Nsight Compute see of the kernels: `make profile PYTHON=python3 OUT=dir`.

It builds as `make gpu` does, then runs one training step of each kind under `nsys` and `ncu`, whichever is installed.
docs/profiling.md tells how to read what they write.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import suite as gpu
from benchmarks.gpu.parts import Part, run

SECTIONS = Path(__file__).parent / "sections"
WORKLOADS = ("training-B65536-D12-H64-L2-K1", "training-B4096-D128-H128-L2-K32", "flow-B128-D128-H64-L2-K8")
PRECISIONS = ("ieee", "tf32")  # of Triton's kernels; a path's are always float32
KERNELS = "regex:(jet|residual|flow|rotate|reduce)_"
TOTAL = 900.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the profilers that are installed and say where their reports lie."""
    parser = argparse.ArgumentParser(prog="make profile", description="Profile the kernels on a GPU.")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for everything that is written")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    profilers = [name for name in ("nsys", "ncu") if shutil.which(name)]
    reason = gpu.missing(also=("nvtx",))
    if reason is None and not profilers:
        reason = "neither nsys (Nsight Systems) nor ncu (Nsight Compute) is on PATH; install one of them"
    if reason is not None:
        print(f"make profile: {reason}", file=sys.stderr)
        return 2
    for name in ("nsys", "ncu"):
        if name not in profilers:
            print(f"{name} isn't on PATH: its reports are left out")
    out.mkdir(parents=True, exist_ok=True)
    environment = {"PYTHONPATH": str(out / "site"), "FASTFLOW_NVTX": "1"}
    build, *_ = gpu.parts(out, gpu.describe()["capability"])
    outcomes = run([build, *parts(out, profilers)], out, TOTAL, environment)
    for outcome in outcomes:
        print(f"{outcome.name}: {outcome.status} {outcome.message}")
    print(f"Reports are in {out}; docs/profiling.md tells how to read them.")
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1


def parts(out: Path, profilers: Sequence[str]) -> list[Part]:
    """One report for each profiler, workload and precision."""
    commands = {
        "nsys": ["nsys", "profile", "--trace=cuda,nvtx", "--force-overwrite=true", "--output"],
        "ncu": [
            "ncu", "--section-folder", str(SECTIONS), "--section", "Fastflow", "--kernel-name", KERNELS,
            "--launch-count", "8", "--force-overwrite", "--export",
        ],
    }  # fmt: skip
    return [
        Part(
            f"{profiler}-{workload}-{precision}",
            "a report",
            [*commands[profiler], str(out / f"{profiler}-{workload}-{precision}"), sys.executable, "-m",
             "benchmarks.gpu.profile_run", workload, precision],
            120.0,
        )
        for profiler in profilers
        for workload in WORKLOADS
        for precision in (PRECISIONS if workload.startswith("training") else PRECISIONS[:1])
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
