"""The study of the likelihood: what do potential flows add to a VAE of images that move, and to its rivals?

Every variant is trained for every seed. Variants of one seed begin with the same weights of encoder and decoder, and
see the same images with the same noise, so that their differences are paired.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastflow import datasets
from fastflow.core.checks import check_count
from fastflow.core.errors import InputError, TrainingError
from fastflow.core.files import check_place, locked_folder, write_sealed
from fastflow.datasets import Sequences
from fastflow.runs.train import train_vae
from fastflow.studies.jobs import (
    advance,
    all_found,
    begin_folder,
    is_current,
    job_bar,
    read_found,
    termination_interrupts,
)
from fastflow.studies.likelihood.measures import measure, measure_beyond
from fastflow.studies.likelihood.parts import Part
from fastflow.studies.likelihood.picture import draw
from fastflow.studies.likelihood.table import Key, Results, is_measured, write_summary
from fastflow.studies.likelihood.variants import GROUPS, OURS, PLAIN, SIZES, VARIANTS, Group, Size
from fastflow.studies.statistics import check_packages
from fastflow.training.checkpoint import latest_checkpoint, read_facts
from fastflow.training.vae_config import PAPER_ONLY, VAEConfig


class Job(NamedTuple):
    """A training and its measurement."""

    folder: Path
    """The run's folder; the measurement's file lies beside it."""
    config: VAEConfig
    root: str | None
    """The folder of the data set's files."""
    side: int | None
    """The side of the images; None for the data set's usual one."""
    size: Size
    group: Group

    @property
    def file(self) -> Path:
        """The measurement's file."""
        return self.folder.with_suffix(".json")


def study_likelihood(
    out: str | Path,
    data: dict[str, str | None],
    *,
    seeds: int = 5,
    size: str | Size = "small",
    variants: tuple[str, ...] = (),
    groups: tuple[Group, ...] = tuple(GROUPS),
    workers: int = 1,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train and measure every variant on every data set for the seeds 0 .. `seeds` - 1, and write a table.

    `out` holds study.json, the runs, and results.json with every measurement and table.md, which grow as runs finish;
    at the end also table.png, where matplotlib is installed.

    Args:
        out: the study's folder.
        data: for each data set's name, the folder of its files; None for a data set that needs no files.
        seeds: how many seeds to train each variant with.
        size: a name in `SIZES`, or a size of your own.
        variants: names in `VARIANTS`; all if left out. "plain" and "companion" are always among them.
        groups: what to train on, among "paths", "pairs" and "parts".
        workers: how many processes train at once, each with its share of torch's threads. They are started anew, so
            with several of them a script needs `if __name__ == "__main__":` around this call.
        resume: go on in `out` with the same data, size and settings, perhaps with more seeds, variants and groups.
            Trainings that failed because of bad input are tried again.
        progress: show a progress bar.

    Returns:
        The path of table.md.

    Raises:
        InputError: an argument can't be used, data are missing, `out` holds something else, or SciPy isn't installed.
        KeyboardInterrupt: a signal stopped the study. Nothing is lost: `resume` goes on from the last checkpoints.
    """
    out, size_name = Path(out), size if isinstance(size, str) else "own"
    check_place(out / "study.json", out)
    check_count(seeds, "seeds")
    check_count(workers, "workers")
    check_packages()
    size = _find_size(size)
    chosen = _choose_variants(variants)
    unknown = [name for name in data if name not in size.configs]
    if unknown or not data:
        raise InputError(f"data must be among {', '.join(size.configs)}, got {', '.join(unknown) or 'none'}")
    other = [group for group in groups if group not in GROUPS]
    if other or not groups:
        raise InputError(f"groups must be among {', '.join(GROUPS)}, got {', '.join(other) or 'none'}")
    settings = _settings(size_name, size, data, chosen)
    with locked_folder(out):
        begin_folder(out, settings, name="study", resume=resume, growing="variants")
        jobs: dict[Key, Job] = {
            (name, group, variant, seed): Job(
                folder=out / "runs" / name / group / variant / f"seed-{seed}",
                config=size.config(name, group, variant, seed),
                root=data[name],
                side=size.sides.get(name),
                size=size,
                group=group,
            )
            for seed in range(seeds)  # outermost, so that a study that was stopped has whole seeds
            for name in data
            for group in GROUPS
            if group in groups
            for variant in chosen
            if group in VARIANTS[variant].groups
        }
        done = {key: read_found(job.file, is_measured) for key, job in jobs.items() if job.file.exists()}
        done = {key: found for key, found in done.items() if is_current(found, jobs[key].folder)}
        results = Results(size_name, seeds, size.lengths, settings["data"], done)
        with job_bar(len(jobs), len(done), "run", progress) as bar, termination_interrupts("study"):
            waiting = {key: job for key, job in jobs.items() if key not in done}
            for key, found in all_found(do, waiting, workers):
                done[key] = found
                advance(bar, key)
                write_summary(results, out)
        return write_summary(results, out, drawn=draw(results, out / "table.png"))


def _find_size(size: str | Size) -> Size:
    """The size of this name, or the size itself; raise InputError unless trainings give what is measured."""
    if isinstance(size, str) and size not in SIZES:
        raise InputError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    size = SIZES[size] if isinstance(size, str) else size
    for name, config in size.configs.items():
        if not size.lengths or min(size.lengths) < 1 or max(size.lengths) > config.path_frames:
            raise InputError(
                f"lengths must be numbers of steps up to the {config.path_frames} of {name}'s paths, got {size.lengths}"
            )
        if config.supervision != "full" or config.objective != "sequence":
            raise InputError(
                "configs must have the objective sequence and full supervision, a potential for each transformation, "
                f"got {config.objective} and {config.supervision} for {name}"
            )
    return size


def _choose_variants(variants: tuple[str, ...]) -> list[str]:
    """The names of these variants, or of all where none is named, in the table's order; two are always there."""
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise InputError(f"variants must be among {', '.join(VARIANTS)}, got {', '.join(unknown)}")
    return [name for name in VARIANTS if not variants or name in variants or name in (PLAIN, OURS)]


def _settings(size_name: str, size: Size, data: dict[str, str | None], variants: list[str]) -> dict[str, Any]:
    """The settings that study.json holds, by which a resumed study is recognised."""
    splits = {name: _splits(size.configs[name], root, size.sides.get(name)) for name, root in data.items()}
    measured = ("lengths", "sequences", "images", "num_samples", "paths", "fitted")
    return {
        "study": "likelihood",
        "size": size_name,
        **{name: getattr(size, name) for name in measured},
        "data": {
            name: {
                "train": train.note,
                "test": test.note,
                # Without the settings of the objective "paper", which have no effect.
                "config": {key: value for key, value in asdict(size.configs[name]).items() if key not in PAPER_ONLY},
            }
            for name, (train, test) in splits.items()
        },
        "variants": {name: VARIANTS[name].changes for name in variants},
    }


def do(job: Job) -> dict[str, Any]:
    """Train or go on training, measure, and write the measurements to the job's file.

    A training that diverged for good is a result, and is written. Bad input, such as a likelihood that isn't finite,
    ends this job alone and isn't written, so that a resumed study tries it again.
    """
    found: dict[str, Any]
    try:
        found = _train_and_measure(job)
    except TrainingError as error:
        found = {"failed": str(error)}
    except InputError as error:
        return {"failed": str(error)}
    found["threads"] = torch.get_num_threads()
    write_sealed(job.file, found)
    return found


def _train_and_measure(job: Job) -> dict[str, Any]:
    """Train a VAE and measure it."""
    begun = latest_checkpoint(job.folder / "checkpoints")
    steps = job.config.steps - (0 if begun is None else begun.step)
    started = time.process_time()
    train, test = _splits(job.config, job.root, job.side)
    shown = Part(train, withheld=True) if job.group == "parts" else train
    run = train_vae(job.config, out=job.folder, resume=True, progress=False, data=shown, held_out=test)
    trained = time.process_time()
    found = (measure_beyond if job.group == "parts" else measure)(run, shown, test, job.size)
    modules = run.learned.modules()
    found["parameters"] = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}
    found["weights"] = run.weights
    found["restarts"] = _restarts(job.folder)
    if steps > 0:  # of all steps, at the pace of those that were left
        found["training_cpu_s"] = (trained - started) * job.config.steps / steps
    found["measuring_cpu_s"] = time.process_time() - trained
    return found


def _splits(config: VAEConfig, root: str | None, side: int | None) -> tuple[Sequences, Sequences]:
    """The images to train on, and the held-out images to measure on."""
    names = config.transformations or None
    train, test = (datasets.load(config.data, root, split, names, size=side) for split in ("train", "test"))
    return train, test


def _restarts(folder: Path) -> int:
    """How often a run diverged and went on with a smaller learning rate."""
    newest = latest_checkpoint(folder / "checkpoints")
    assert newest is not None
    return int(read_facts(newest).get("restarts", 0))
