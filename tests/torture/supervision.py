"""A part in a process of its own, which is watched: after a crash or a hang the part goes on with the next case."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from support.processes import context

from torture.parts import PARTS, REFUSED, RIGHT, Entry, Fault, Part

FAILED = "failed"
_COUNTED = (REFUSED, RIGHT, FAILED)
_NUMBER, _BEGAN = 3, 4  # places on the board: the case that is tried, and when it began, or _BETWEEN
_BETWEEN = -1.0
_STARTING = 300.0  # seconds that a part may take to begin its first case
_STILLBORN = 3  # processes in a row that ended before any case
_MOST_KEPT = 200  # faults of a part whose files are kept
_LARGEST_KEPT = 32 << 20  # bytes of a case's files


class Supervised:
    """A part that is under way.

    Args:
        name: the part's name in `PARTS`.
        seed: the seed of all cases.
        out: the folder of the suite's results.
        scratch: a folder for what the parts need meanwhile.
        seconds: how long to go on.
        cases: the numbers to try; all from 0 on if None.
        entry: the part itself; that of this name if None.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        out: Path,
        scratch: Path,
        seconds: float,
        cases: range | None = None,
        entry: Entry | None = None,
    ) -> None:
        self.name, self.seed, self.out, self._folder = name, seed, out, scratch / name
        self.begun = time.monotonic()
        self._deadline = self.begun + seconds
        self._next, self._last = (0, None) if cases is None else (cases.start, cases.stop)
        self._board = context().Array("d", 5)
        self._stillborn = 0
        self._entry = PARTS[name] if entry is None else entry
        self._limit = self._entry.load().limit
        self._written = 0.0
        self._start()

    @property
    def counts(self) -> Counter[str]:
        """How many things were refused, right and failed so far."""
        return Counter({kind: int(self._board[place]) for place, kind in enumerate(_COUNTED)})

    def poll(self) -> bool:
        """Look after the part's process, and tell whether the part is done."""
        if time.monotonic() - self._written > 1:
            self.write_counts()
        began, now = self._board[_BEGAN], time.monotonic()
        if self._process.is_alive():
            since, limit = began, self._limit
            if began == _BETWEEN:  # before the first case; or between two, which takes no time, or after the last
                some = self._board[_NUMBER] >= self._next
                since, limit = max(self._started, self._deadline) if some else self._started, _STARTING
            if now - since > limit:
                self._kill()
                self._lost(f"didn't end within {limit:g} s")
                return self._go_on()
            return False
        self._process.join()
        self._kill()  # whoever is left of its group
        code = self._process.exitcode
        if code == 0:
            self.write_counts()
            return True
        self._lost(
            f"killed the process by {signal.Signals(-code).name}" if code < 0 else f"ended it with status {code}"
        )
        return self._go_on()

    def stop(self) -> None:
        """End the part as it is."""
        self._kill()
        self.write_counts()

    def write_counts(self) -> None:
        """Write the counts to OUT/PART.json."""
        self._written = time.monotonic()
        counts = self.counts
        record = {
            "part": self.name,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.begun, 1),
            "tried": counts.total(),
            **counts,
        }
        (self.out / f"{self.name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _start(self) -> None:
        self._board[_BEGAN], self._started = _BETWEEN, time.monotonic()
        self._board[_NUMBER] = self._next - 1
        shutil.rmtree(self._folder, ignore_errors=True)
        numbers = (self._next, self._last, self._deadline)
        arguments = (self._entry, self.name, self.seed, numbers, self.out, self._folder, self._board)
        self._process = context().Process(target=_work, args=arguments)
        self._process.start()

    def _lost(self, what: str) -> None:
        """Count the case at which the process ended as a fault."""
        number = int(self._board[_NUMBER])
        if number < self._next:
            self._stillborn += 1
            what = f"before any case, the part {what}"
        else:
            self._stillborn = 0
        self._board[_COUNTED.index(FAILED)] += 1
        record = {"what": what, "log": _tail(self.out / f"{self.name}.log")}
        keep_fault(self.out, self._folder / "case", self.name, self.seed, number, record)
        self._next = max(self._next, number + 1)

    def _go_on(self) -> bool:
        """Start a new process for the cases that are left, and tell whether there are none."""
        self.write_counts()
        over = time.monotonic() > self._deadline or (self._last is not None and self._next >= self._last)
        if over or self._stillborn >= _STILLBORN:
            return True
        self._start()
        return False

    def _kill(self) -> None:
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()


def work(part: Part, out: Path, name: str, numbers: Any, board: Any, deadline: float = float("inf")) -> None:
    """Try cases until the time is up, and count them on the board."""
    for number in numbers:
        if time.monotonic() > deadline:
            return
        board[_NUMBER], board[_BEGAN] = number, time.monotonic()
        try:
            outcome = part.try_case(number)
        except Exception as error:
            board[_COUNTED.index(FAILED)] += 1
            what = str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
            record = {"what": what, "traceback": traceback.format_exc()}
            keep_fault(out, part.case_folder, name, part.seed, number, record)
            outcome = error.counts if isinstance(error, Fault) else Counter()
        for kind, count in Counter({outcome: 1} if isinstance(outcome, str) else outcome).items():
            board[_COUNTED.index(kind)] += count
        board[_BEGAN] = _BETWEEN


def keep_fault(out: Path, case: Path, name: str, seed: int, number: int, record: dict[str, Any]) -> None:
    """Write a fault to OUT/faults, with the files of its case and the command that tries it again."""
    faults = out / "faults"
    if len(list(faults.glob(f"{name}-*"))) >= _MOST_KEPT:
        return
    folder = faults / f"{name}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    again = f"PYTHONPATH=tests python -m torture --only {name} --seed {seed} --case {number}"
    text = json.dumps({**record, "again": again}, indent=2)
    (folder / "fault.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    files = [path for path in case.rglob("*") if path.is_file()] if case.is_dir() else []
    if sum(path.stat().st_size for path in files) <= _LARGEST_KEPT:
        shutil.copytree(case, folder / "case", symlinks=True, dirs_exist_ok=True) if files else None


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _work(
    entry: Entry,
    name: str,
    seed: int,
    numbers: tuple[int, int | None, float],
    out: Path,
    folder: Path,
    board: Any,
) -> None:
    """What a part's process does: it tries the cases from the first to before the last number, until a time."""
    first, last, deadline = numbers
    os.setpgrp()
    log = os.open(out / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for whom it starts
    part: Part = entry.load()(folder, seed)
    try:
        cases = itertools.count(first) if last is None else range(first, last)
        work(part, out, name, cases, board, deadline)
    finally:
        part.close()
        sys.stderr.flush()


def _tail(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()[-30:] if file.exists() else []
