"""Many trainings in one folder: which are done, several at once, and none lost when they are stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

from fastflow.core.errors import InputError
from fastflow.core.files import is_leftover, read_json, write_json

Key = TypeVar("Key")
Job = TypeVar("Job")
Found = dict[str, Any]
"""What a job finds, as JSON holds it."""


def begin_folder(out: Path, settings: Found, *, name: str, resume: bool, growing: str = "") -> None:
    """Write NAME.json with a study's settings into `out`, or see that it is there and says the same.

    Args:
        growing: the setting, a mapping, to which a resumed study may add keys.

    Raises:
        InputError: `out` holds something else, a study that isn't to be resumed, or one of other settings.
    """
    file = out / f"{name}.json"
    settings = json.loads(json.dumps(settings))  # tuples as they are read again
    if not file.exists():
        if any(not is_leftover(path) for path in out.iterdir()):
            raise InputError(f"{str(out)!r} isn't empty and isn't a {name}: choose a new folder")
        write_json(file, settings)
        return
    if not resume:
        raise InputError(f"{str(out)!r} holds a {name} already: resume it, or choose another folder")
    before = read_json(file)
    known = before.pop(growing, {}) if isinstance(before, dict) else {}
    now = settings.pop(growing, {})
    changed = [key for key in now if known.get(key, now[key]) != now[key]]
    if before != settings or changed:
        raise InputError(
            f"can't resume {str(out)!r}: its {name} was of other data, size or settings"
            + (f" of {', '.join(changed)}" if changed else "")
            + f" (see its {name}.json); resume with the same, or choose another folder"
        )
    if growing:
        write_json(file, {**settings, growing: {**known, **now}})


def all_found(do: Callable[[Job], Found], jobs: Mapping[Key, Job], workers: int) -> Iterator[tuple[Key, Found]]:
    """What each job finds, in the order in which they end.

    Args:
        do: a function at a module's top level.
        workers: processes that do one job each at once, with their part of torch's threads; 1 is this process.

    Raises:
        InputError: a worker died.
    """
    if min(workers, len(jobs)) < 2:
        for key, job in jobs.items():
            yield key, do(job)
        return
    workers = min(workers, len(jobs))
    threads = max(1, torch.get_num_threads() // workers)
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (threads,))
    stop = True
    try:
        keys = {pool.submit(_do_in_worker, do, job): key for key, job in jobs.items()}
        for future in as_completed(keys):
            yield keys[future], future.result()
        stop = False  # they have done all, and end by themselves
    except BrokenProcessPool as error:
        stop = False  # the pool has told its other workers to stop
        raise InputError(
            "a worker died, perhaps for want of memory: resume, with fewer workers if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - others if stop else ():
            child.terminate()  # once: a training leaves a checkpoint, and a second signal would tear it away from that
        pool.shutdown()


@contextmanager
def termination_interrupts(what: str) -> Iterator[None]:
    """Let SIGTERM end `what` as SIGINT does, workers included."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"the {what} was stopped; resume to go on from there")

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Worker:
    """What a worker is about; there is one in its process."""

    busy = stopped = False


def _do_in_worker(do: Callable[[Job], Found], job: Job) -> Found:
    """`do`, unless the worker is to stop: then nothing, which nobody waits for."""
    if _Worker.stopped:
        return {}
    _Worker.busy = True
    try:
        return do(job)
    except KeyboardInterrupt:
        _Worker.stopped = True
        return {}
    finally:
        _Worker.busy = False


def _begin_worker(threads: int) -> None:
    """Leave it to the parent when to end: by SIGTERM, which a training answers with a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        _Worker.stopped = True
        if _Worker.busy:
            raise KeyboardInterrupt

    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, stop)
    os.setpgrp()  # Ctrl-C at a terminal reaches the parent's group alone
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent is gone, killed perhaps, and then end as it would have had us end."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    while _Worker.busy:
        time.sleep(0.05)
    os._exit(1)  # nobody is there to take the result
