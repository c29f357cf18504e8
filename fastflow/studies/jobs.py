"""Many trainings in one folder: which are done, several at once, and none lost when they are stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

from fastflow.errors import InputError
from fastflow.files import is_leftover, read_json, write_json

Key = TypeVar("Key")
Job = TypeVar("Job")
Found = dict[str, Any]
"""What a job finds, as JSON holds it."""


def begin_folder(out: Path, settings: Found, *, name: str, resume: bool) -> None:
    """Write NAME.json with a study's settings into `out`, or see that it is there and says the same.

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
    if read_json(file) != settings:
        raise InputError(
            f"can't resume {str(out)!r}: its {name} was of other data, size or settings (see its {name}.json); resume "
            "with the same, or choose another folder"
        )


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
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (threads,))
    try:
        keys = {pool.submit(_do_in_worker, do, job): key for key, job in jobs.items()}
        for future in as_completed(keys):
            yield keys[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker died, perhaps for want of memory: resume, with fewer workers if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()  # a training leaves a checkpoint first
            child.join()


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


def _do_in_worker(do: Callable[[Job], Found], job: Job) -> Found:
    try:
        return do(job)
    except KeyboardInterrupt:
        os._exit(1)  # the parent ends its workers, and the pool would still give this one its next job


def _begin_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # typed at a terminal it reaches all: the parent ends its workers
