"""Do flows that carry a VAE's latents raise the likelihood of held-out images, and are they the transformations?

Every variant is trained for every seed; variants of one seed begin with the same weights of encoder and decoder and see
the same images with the same noise, so their differences are paired.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fastflow import datasets
from fastflow.core.checks import check_count
from fastflow.core.errors import InputError, TrainingError
from fastflow.core.files import locked_folder, read_json, write_json
from fastflow.datasets import Sequences
from fastflow.runs.train import train_vae
from fastflow.studies.jobs import all_found, begin_folder, termination_interrupts
from fastflow.studies.likelihood.measures import measure
from fastflow.studies.likelihood.summary import Results, draw, write_summary
from fastflow.studies.likelihood.variants import PLAIN, SIZES, VARIANTS, Size
from fastflow.studies.statistics import check_packages
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.vae_config import VAEConfig


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
        "fitted": size.fitted,
        "data": {
            name: {"train": train.note, "test": test.note, "config": asdict(size.configs[name])}
            for name, (train, test) in splits.items()
        },
        "variants": {name: VARIANTS[name].changes for name in chosen},
    }
    with locked_folder(out):
        begin_folder(out, settings, name="study", resume=resume, growing="variants")
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
        with bar, termination_interrupts("study"):
            for key, found in all_found(do, waiting, workers):
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
    found: dict[str, Any]
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
