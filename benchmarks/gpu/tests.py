"""The tests marked gpu, shared among processes: most of their time is kernels' compilation on the processor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.parts import ROOT

MOST = 16  # processes, each with a context of its own on the device
NOTHING_COLLECTED = 5  # pytest's word for a share without a test
MARK = "mark.gpu"
GRACE = 10.0  # seconds that a process which is asked to end has for its report


def main(
    out: Path,
    result: Path,
    seconds: float = float("inf"),
    processes: int | None = None,
    files: Sequence[str] | None = None,
) -> int:
    """Run them and say what each process said; 0 if all passed. Each leaves its log and report in `out`.

    After `seconds` they are asked to end, and what has passed until then counts; the counts are written to `result`.
    """
    end = time.monotonic() + seconds
    count = processes or min(MOST, os.cpu_count() or 1)
    # From the folder of the tests, so that the checkout's own fastflow, which isn't built, hides nothing. A machine's
    # other packages may warn that they will change; our own warnings remain errors.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", f"--rootdir={ROOT}",
               "-c", str(ROOT / "pyproject.toml"), "-W", "default::FutureWarning", "-W", "default::DeprecationWarning",
               *(sorted(with_gpu_tests()) if files is None else files)]  # fmt: skip
    logs = [out / f"tests-{i}.log" for i in range(count)]  # files, which keep what a process said that then hangs
    running = []
    for i, log in enumerate(logs):
        log.with_suffix(".xml").unlink(missing_ok=True)
        with log.open("w") as stream:
            running.append(
                subprocess.Popen(
                    [*command, f"--junitxml={log.with_suffix('.xml')}"],
                    cwd=ROOT / "tests",
                    env={**os.environ, "FASTFLOW_TEST_SHARD": f"{i}/{count}"},
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
            )
    passed = 0
    for log, process in zip(logs, running, strict=True):
        code = _ended(process, end)
        passed += code in (0, NOTHING_COLLECTED)
        print(f"{log.name}{', stopped for lack of time' if code is None else ''}:", flush=True)
        print(log.read_text(errors="replace"), flush=True)
    counts = _counts([log.with_suffix(".xml") for log in logs])
    result.write_text(json.dumps(counts), encoding="utf-8")
    said = ", ".join(f"{number} {what}" for what, number in counts.items())
    print(f"{passed} of {count} processes passed all of their tests: {said}", flush=True)
    return 0 if passed == count else 1


def with_gpu_tests() -> Iterator[str]:
    """The files, seen from the folder of the tests, in which a test is marked, itself or by its folder's fixtures."""
    tests = ROOT / "tests"
    for file in tests.rglob("test_*.py"):
        fixtures = file.with_name("conftest.py")
        if any(MARK in text.read_text(encoding="utf-8") for text in (file, fixtures) if text.is_file()):
            yield str(file.relative_to(tests))


def _ended(process: subprocess.Popen[bytes], end: float) -> int | None:
    """Its exit status; None where it had to be stopped."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(max(0.0, end - time.monotonic()) if end < float("inf") else None)
    process.send_signal(signal.SIGINT)  # on which pytest writes its report
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def _counts(reports: Sequence[Path]) -> dict[str, int]:
    """How many tests passed, failed and were skipped; a process that was killed has no report."""
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for report in reports:
        if not report.is_file():
            continue
        for case in ElementTree.parse(report).iter("testcase"):
            found = {child.tag for child in case}
            total["failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"] += 1
    return total


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
