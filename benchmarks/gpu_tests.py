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
    """Run them and say what each process said; 0 if all passed. Each leaves its log and report in `out`."""
    count = processes or min(MOST, os.cpu_count() or 1)
    # From the folder of the tests, so that the checkout's own fastflow, which isn't built, hides nothing.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}",
               "-c", str(ROOT / "pyproject.toml")]  # fmt: skip
    logs = [out / f"tests-{i}.log" for i in range(count)]  # files, which keep what a process said that then hangs
    running = []
    for i, log in enumerate(logs):
        with log.open("w") as stream:
            running.append(
                subprocess.Popen(
                    [*command, f"--junitxml={out / f'tests-{i}.xml'}", *FOLDERS],
                    cwd=ROOT / "tests",
                    env={**os.environ, "FASTFLOW_TEST_SHARD": f"{i}/{count}"},
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
            )
    passed = 0
    for log, process in zip(logs, running, strict=True):
        passed += process.wait() in (0, NOTHING_COLLECTED)
        print(f"{log.name}:\n{log.read_text(errors='replace')}", flush=True)
    print(f"{passed} of {count} processes passed all of their tests", flush=True)
    return 0 if passed == count else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
