"""Do flows that carry a VAE's latents raise the likelihood of held-out images, and are they the transformations?

Every variant is trained for every seed; variants of one seed begin with the same weights of encoder and decoder and see
the same images with the same noise, so their differences are paired.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fastflow import datasets
from fastflow.arguments import check_count
from fastflow.datasets import Sequences
from fastflow.errors import InputError, TrainingError
from fastflow.files import is_leftover, locked_folder, read_json, write_json
from fastflow.studies.measuring import measure
from fastflow.studies.summary import Results, check_packages, draw, write_summary
from fastflow.studies.variants import PLAIN, SIZES, VARIANTS, Size
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.vae_settings import VAEConfig
from fastflow.trainings import train_vae


class Job(NamedTuple):
    """A training and its measurement."""

    folder: Path
    """The run's; its measurement is beside it."""
    config: VAEConfig
    root: str | None
    """The data set's files."""
    starts: int | None
    """How many starting images to train on; all where None."""
    size: Size

    @property
    def file(self) -> Path:
        """Where the measurement goes."""
        return self.folder.with_suffix(".json")


def study_likelihood(
    out: str | Path,
    data: dict[str, str | None],
    *,
    seeds: int = 5,
    size: str | Size = "small",
    variants: tuple[str, ...] = (),
    workers: int = 1,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train and measure every variant on every data set for the seeds 0 .. `seeds` - 1, and write a table.

    OUT holds study.json, the runs, results.json with every measurement and table.md, which grow as runs are done, and
    in the end table.png where matplotlib is.

    Args:
        data: the folders of data sets' files by their names, None where there is none.
        size: a name in `SIZES`, or one of your own.
        variants: names in `VARIANTS`, all if left out; "plain" is always among them.
        workers: processes that train at once, each with its part of torch's threads. They are started anew, so a script
            needs `if __name__ == "__main__":` around this call where there are several.
        resume: go on in `out` with the same data, size and settings; seeds and variants may have become more. What
            failed for bad input is tried again.

    Returns:
        The path of table.md.

    Raises:
        InputError: an argument that doesn't fit, missing data, `out` holds something else, or SciPy isn't there.
        KeyboardInterrupt: stopped by a signal; nothing is lost, and `resume` goes on from the last checkpoints.
    """
    out, size_name = Path(out), size if isinstance(size, str) else "own"
    check_count(seeds, "seeds")
    check_count(workers, "workers")
    check_packages()
    if isinstance(size, str):
        if size not in SIZES:
            raise InputError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        size = SIZES[size]
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise InputError(f"variants must be among {', '.join(VARIANTS)}, got {', '.join(unknown)}")
    chosen = [name for name in VARIANTS if not variants or name in variants or name == PLAIN]
    unknown = [name for name in data if name not in size.configs]
    if unknown or not data:
        raise InputError(f"data must be among {', '.join(size.configs)}, got {', '.join(unknown) or 'none'}")
    splits = {name: _splits(size.configs[name], root, size.starts.get(name)) for name, root in data.items()}
    settings = {
        "study": "likelihood",
        "size": size_name,
        "images": size.images,
        "num_samples": size.num_samples,
        "paths": size.paths,
        "data": {
            name: {"train": train.note, "test": test.note, "config": asdict(size.configs[name])}
            for name, (train, test) in splits.items()
        },
        "variants": {name: VARIANTS[name].changes for name in chosen},
    }
    with locked_folder(out):
        _begin(out, settings, resume)
        jobs = {
            (name, variant, seed): Job(
                out / "runs" / name / variant / f"seed-{seed}",
                replace(size.configs[name], seed=seed, **VARIANTS[variant].changes),
                data[name],
                size.starts.get(name),
                size,
            )
            for seed in range(seeds)  # so that a study that was stopped has whole seeds
            for name in data
            for variant in chosen
        }
        done = {key: read_json(job.file) for key, job in jobs.items() if job.file.exists()}
        waiting = {key: job for key, job in jobs.items() if key not in done}
        results = Results(size_name, seeds, settings["data"], done)
        bar = tqdm(total=len(jobs), initial=len(done), disable=not progress, unit="run", dynamic_ncols=True)
        with bar, _termination_interrupts():
            for key, found in _all(waiting, min(workers, len(waiting))):
                done[key] = found
                bar.set_postfix_str(" ".join(map(str, key)), refresh=False)
                bar.update()
                write_summary(results, out)
        return write_summary(results, out, drawn=draw(results, out / "table.png"))


def do(job: Job) -> dict[str, Any]:
    """Train, or go on training, measure, and write what was found; a training that diverged for good is a finding.

    Bad input, such as a likelihood that isn't finite, costs this training alone, and isn't written: a resumed study
    tries again.
    """
    try:
        found = _found(job)
    except TrainingError as error:
        found = {"failed": str(error)}
    except InputError as error:
        return {"failed": str(error)}
    found["threads"] = torch.get_num_threads()
    write_json(job.file, found)
    return found


def _found(job: Job) -> dict[str, Any]:
    """What a training and its measurement give."""
    started = time.process_time()
    train, test = _splits(job.config, job.root, job.starts)
    run = train_vae(job.config, out=job.folder, resume=True, progress=False, data=train, held_out=test)
    trained = time.process_time()
    found = measure(run, train, test, job.size)
    modules = run.learned.modules()
    found["parameters"] = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}
    found["restarts"] = _restarts(job.folder)
    found["training_cpu_s"] = trained - started
    found["measuring_cpu_s"] = time.process_time() - trained
    return found


def _all(jobs: dict[Any, Job], workers: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """What each job finds, in the order in which they end."""
    if workers < 2:
        for key, job in jobs.items():
            yield key, do(job)
        return
    threads = max(1, torch.get_num_threads() // workers)
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (threads,))
    stop = True
    try:
        keys = {pool.submit(_do_in_worker, job): key for key, job in jobs.items()}
        for future in as_completed(keys):
            yield keys[future], future.result()
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


class _Worker:
    """What a worker is about; there is one in its process."""

    busy = stopped = False


def _do_in_worker(job: Job) -> dict[str, Any]:
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


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let SIGTERM end the study as SIGINT does, workers included."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("the study was stopped; resume to go on from there")

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _begin(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write study.json, or see that it is there and says the same."""
    file = out / "study.json"
    settings = json.loads(json.dumps(settings))  # tuples as they are read again
    if not file.exists():
        if any(not is_leftover(path) for path in out.iterdir()):
            raise InputError(f"{str(out)!r} isn't empty and isn't a study: choose a new folder")
        write_json(file, settings)
        return
    if not resume:
        raise InputError(f"{str(out)!r} holds a study already: resume it, or choose another folder")
    before = read_json(file)
    variants = before.pop("variants", {}) if isinstance(before, dict) else {}
    now = settings.pop("variants")
    changed = [name for name in now if variants.get(name, now[name]) != now[name]]
    if before != settings or changed:
        raise InputError(
            f"can't resume {str(out)!r}: its study was of other data, size or settings"
            + (f" of {', '.join(changed)}" if changed else "")
            + " (see its study.json); resume with the same, or choose another folder"
        )
    write_json(file, {**settings, "variants": {**variants, **now}})


def _splits(config: VAEConfig, root: str | None, starts: int | None) -> tuple[Sequences, Sequences]:
    """What to train on and what to measure on."""
    names = config.transformations or None
    train, test = (datasets.load(config.data, root, split, names) for split in ("train", "test"))
    return train if starts is None else datasets.First(train, starts), test


def _restarts(folder: Path) -> int:
    """How often a run diverged and went on with a smaller learning rate."""
    newest = latest_checkpoint(folder / "checkpoints")
    assert newest is not None
    return int(read_json(newest.folder / "state.json").get("restarts", 0))
