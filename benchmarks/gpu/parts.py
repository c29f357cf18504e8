"""Parts of a long run, each in a process of its own: whatever becomes of one, the others' results are there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 8  # lines of a failed part's output that its outcome keeps
_MARGIN = 15.0  # seconds that a part which minds its own time has to end in


class Part(NamedTuple):
    """A command, run in the checkout, that writes its result as JSON to the file that "{result}" in it stands for.

    "{seconds}" stands for the time after which it does well to end by itself, some before it is stopped.
    """

    name: str
    what: str  # it does, for whoever watches
    command: Sequence[str]
    seconds: float  # that it may take


class Outcome(NamedTuple):
    """What became of a part: status "ok", "failed", "timed out" or "left out"; message says why, if it isn't ok."""

    name: str
    status: str
    seconds: float
    message: str
    result: Any


def run(
    parts: Sequence[Part],
    out: Path,
    total: float,
    environment: Mapping[str, str] | None = None,
    after: Callable[[list[Outcome]], object] = len,
) -> list[Outcome]:
    """Run one part after the other, for `total` seconds at most; what they say goes to the terminal and out/logs.

    `after` is called after each with all outcomes so far, so that they outlive whatever ends this process.
    """
    end = time.monotonic() + total
    (out / "logs").mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number, part in enumerate(parts, 1):
        left = max(0.0, end - time.monotonic())
        print(f"[{number}/{len(parts)}, {left:.0f} s left] {part.name}: {part.what}", flush=True)
        if left < min(10.0, part.seconds):
            outcomes.append(Outcome(part.name, "left out", 0.0, "no time was left", None))
        else:
            outcomes.append(_run_one(part, out, min(part.seconds, left), environment))
        last = outcomes[-1]
        print(f"    {last.status} after {last.seconds:.0f} s{f': {last.message}' if last.message else ''}", flush=True)
        after(outcomes)
    return outcomes


def _run_one(part: Part, out: Path, seconds: float, environment: Mapping[str, str] | None) -> Outcome:
    result = out / "logs" / f"{part.name}.json"
    result.unlink(missing_ok=True)
    meant = {"{result}": str(result), "{seconds}": str(max(1.0, seconds - _MARGIN))}
    command = [meant.get(word, word) for word in part.command]
    start, tail = time.monotonic(), deque(maxlen=_TAIL)
    variables = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=variables,
            start_new_session=True, cwd=ROOT,
        )  # fmt: skip
    except OSError as error:
        return Outcome(part.name, "failed", 0.0, str(error), None)
    with (out / "logs" / f"{part.name}.log").open("w", encoding="utf-8") as log:
        assert process.stdout is not None
        reader = threading.Thread(target=_copy, args=(process.stdout, log, tail), daemon=True)
        reader.start()
        try:
            code = process.wait(seconds)
            status, message = ("ok", "") if code == 0 else ("failed", _why(code, tail))
        except subprocess.TimeoutExpired:
            status, message = "timed out", f"stopped after its {seconds:.0f} s"
        finally:
            _stop(process)
        reader.join(5)
    return Outcome(part.name, status, time.monotonic() - start, message, _read(result))


def _copy(stream: TextIO, log: TextIO, tail: deque[str]) -> None:
    with stream:
        for line in stream:
            print(f"    {line}", end="", flush=True)
            log.write(line)
            log.flush()
            if line.strip():
                tail.append(line.strip())


def _stop(process: subprocess.Popen[str]) -> None:
    """The whole group: a part's own children must not hold the device when the next part begins."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _why(code: int, tail: Sequence[str]) -> str:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"{how}: {tail[-1]}" if tail else how


def _read(file: Path) -> Any:
    """What a part wrote before it ended, however it ended."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
