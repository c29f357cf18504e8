"""The tests marked gpu, shared among processes: most of their time is kernels' compilation on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.parts import ROOT

FOLDERS = ("kernels", "cuda", "training", "generators")
MOST = 8  # processes, each with a context of its own on the device
NOTHING_COLLECTED = 5  # pytest's word for a share without a test


def main(out: Path, processes: int | None = None) -> int:
    """Run them and say what each process said; 0 if all passed. Each leaves its report in `out`."""
    count = processes or min(MOST, os.cpu_count() or 1)
    # From the folder of the tests, so that the checkout's own fastflow, which isn't built, hides nothing.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}",
               "-c", str(ROOT / "pyproject.toml")]  # fmt: skip
    running = [
        subprocess.Popen(
            [*command, f"--junitxml={out / f'tests-{i}.xml'}", *FOLDERS],
            cwd=ROOT / "tests",
            env={**os.environ, "FASTFLOW_TEST_SHARD": f"{i}/{count}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]
    failed = []
    for i, process in enumerate(running):
        said, _ = process.communicate()
        print(f"process {i + 1} of {count}:\n{said}", flush=True)
        if process.returncode not in (0, NOTHING_COLLECTED):
            failed.append(i + 1)
    print(f"{count - len(failed)} of {count} processes passed all of their tests", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
