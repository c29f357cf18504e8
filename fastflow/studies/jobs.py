"""Many trainings in one folder: begin or resume them, run several at once, and lose none when they are stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from fastflow.core.errors import InputError
from fastflow.core.files import check_no_links, left_by_system, read_json, read_sealed, write_json
from fastflow.core.leftovers import is_leftover, remove_leftovers
from fastflow.training.checkpoint import latest_checkpoint, weights_digest

Key = TypeVar("Key")
Job = TypeVar("Job")
Found = dict[str, Any]
"""The results of a job, as JSON holds them."""


def begin_folder(out: Path, settings: Found, *, name: str, resume: bool, growing: str = "") -> None:
    """Write NAME.json with a study's settings into `out`, or check that the file is there and holds the same settings.

    Args:
        out: the study's folder.
        settings: the study's settings, as JSON can hold them.
        name: the kind of study, which names the file.
        resume: go on with the study that `out` holds.
        growing: the name of a setting, a mapping, to which a resumed study may add keys.

    Raises:
        InputError: `out` holds something else, a link, a study that isn't to be resumed, or one with other settings.
    """
    check_no_links(out, [path.name for path in out.iterdir()])
    remove_leftovers(out)
    file = out / f"{name}.json"
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not file.exists():
        if any(not (is_leftover(path) or left_by_system(path)) for path in out.iterdir()):
            raise InputError(f"{str(out)!r} isn't empty and isn't a {name}: choose a new folder")
        write_json(file, settings)
        return
    if not resume:
        raise InputError(f"{str(out)!r} holds a {name} already: resume it, or choose another folder")
    before = read_json(file)
    known = before.pop(growing, {}) if isinstance(before, dict) else {}
    if not isinstance(before, dict) or not isinstance(known, dict):
        raise InputError(f"{str(file)!r} is damaged, expected the settings of a {name}: choose another folder")
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


def saved_weights(run: Path) -> str | None:
    """The digest of the newest weights that the training in a folder has saved; None if it hasn't saved any."""
    newest = latest_checkpoint(run / "checkpoints")
    return None if newest is None else weights_digest(newest)


def is_current(found: Found, run: Path) -> bool:
    """Whether results were measured on the newest weights that their training in a folder has saved.

    So are results of earlier versions, which don't name their weights, and results whose training was removed.
    """
    weights = saved_weights(run)
    return weights is None or found.get("weights", weights) == weights


def read_found(file: Path, is_whole: Callable[[Found], bool]) -> Found:
    """The results of a job from its file; raise InputError unless they are unchanged and `is_whole` says yes."""
    found = read_sealed(file)
    if not is_whole(found):
        raise InputError(f"{str(file)!r} is damaged, expected the results of a job: remove it to do the job again")
    return found


def are_numbers(found: Found, names: Iterable[str]) -> bool:
    """Whether each of these results is a number, where it is there."""
    return all(isinstance(found.get(name, 0), (int, float)) and found.get(name) is not True for name in names)


def all_found(do: Callable[[Job], Found], jobs: Mapping[Key, Job], workers: int) -> Iterator[tuple[Key, Found]]:
    """Do all jobs, and yield each one's key and results as it ends.

    Args:
        do: a function at a module's top level, which other processes can import.
        jobs: the jobs by their keys.
        workers: how many processes work at once, each with its share of torch's threads; with 1, this process does all.

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
        stop = False  # the workers have done everything and end by themselves
    except BrokenProcessPool as error:
        stop = False  # the pool has already told its other workers to stop
        raise InputError(
            "a worker died, perhaps for lack of memory: resume, with fewer workers if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - others if stop else ():
            child.terminate()  # once only: a second signal would interrupt the checkpoint that a training is writing
        pool.shutdown()


def job_bar(total: int, done: int, unit: str, progress: bool) -> tqdm[Any]:
    """A progress bar over jobs, some of which were done before; it shows nothing unless `progress`."""
    return tqdm(total=total, initial=done, disable=not progress, unit=unit, dynamic_ncols=True)


def advance(bar: tqdm[Any], key: tuple[object, ...]) -> None:
    """Count a finished job on a progress bar, and show its key."""
    bar.set_postfix_str(" ".join(map(str, key)), refresh=False)
    bar.update()


@contextmanager
def termination_interrupts(what: str) -> Iterator[None]:
    """Within this context, let SIGTERM end `what` and its workers as SIGINT does."""
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
    """The state of a worker, of which there is one in each process."""

    busy = stopped = False


def _do_in_worker(do: Callable[[Job], Found], job: Job) -> Found:
    """Do a job, unless the worker has to stop: then return an empty result, which nobody waits for."""
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
    """Prepare a worker so that only its parent ends it: by SIGTERM, at which a training writes a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        _Worker.stopped = True
        if _Worker.busy:
            raise KeyboardInterrupt

    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", "the generator's images (span|have)")  # the parent has warned of them
    signal.signal(signal.SIGTERM, stop)
    os.setpgrp()  # Ctrl-C at a terminal then reaches the parent's group only
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent is gone, perhaps because it was killed, and then end as if it had sent SIGTERM."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    while _Worker.busy:
        time.sleep(0.05)
    os._exit(1)  # nobody is left to take the result
