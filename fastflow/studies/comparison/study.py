"""The comparison of potential flows with other ways to traverse a latent space: one budget, strength and measures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastflow.core.checks import check_count, is_finite
from fastflow.core.devices import find_device
from fastflow.core.errors import BusyError, InputError, TrainingError
from fastflow.core.files import check_place, locked_folder, read_json, remove_named, write_sealed
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import are_pixels, describe, draws_alike, is_description
from fastflow.generators.loading import load_spec, spec_of
from fastflow.generators.specs import Spec
from fastflow.latents.predictors import Predictor
from fastflow.latents.traversal import Traverses
from fastflow.metrics.strength import match_strength
from fastflow.report.comparison import write_comparison
from fastflow.studies.comparison.attributes import (
    Attributes,
    describe_attributes,
    load_predictor,
    measure_alike,
    varying,
)
from fastflow.studies.comparison.measures import draw_strip, is_measured, measure
from fastflow.studies.comparison.methods import FLOWS, Chosen, chosen
from fastflow.studies.comparison.table import summarise, write_table
from fastflow.studies.jobs import (
    Found,
    advance,
    all_found,
    are_numbers,
    begin_folder,
    is_current,
    job_bar,
    read_found,
    saved_weights,
    termination_interrupts,
)
from fastflow.studies.statistics import check_packages
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.run_folder import as_folder

_FILES = ("jobs", "runs", "strips", "results.json", "table.md", "compare.html", "comparison.json")
"""The files of a comparison. comparison.json, which marks the folder, is last: a removal that is stopped can go on."""


class Job(NamedTuple):
    """One method with one seed, to be trained and measured."""

    out: Path
    """The comparison's folder."""
    name: str
    chosen: Chosen
    seed: int
    generator: Generator | Spec
    latent_dim: int
    device: str
    attributes: str | Predictor
    names: list[str]
    columns: list[int]
    strength: float | None
    """The pixel change that every step must have; None for that of the flows."""
    pairs: int
    """How many pairs of images the classifiers have."""
    starts: int
    """How many starts each path has."""
    drawn: bool
    """Whether to draw a strip of its paths."""

    @property
    def folder(self) -> Path:
        """The folder of its training."""
        return self.out / "runs" / self.name / f"seed-{self.seed}"

    @property
    def timing(self) -> Path:
        """The file that holds how long the training took, in case measuring is stopped."""
        return self.folder.with_suffix(".json")

    @property
    def file(self) -> Path:
        """The file of its results."""
        return job_file(self.out, self.name, self.seed)


def job_file(out: Path, name: str, seed: int) -> Path:
    """The file that holds the results of a method with a seed."""
    return out / "jobs" / name / f"seed-{seed}.json"


def compare(
    generator: Generator,
    out: str | Path,
    config: DiscoverConfig | None = None,
    *,
    methods: Sequence[str] = (),
    seeds: int = 3,
    attributes: str | Predictor = "appearance",
    attribute_names: Sequence[str] | None = None,
    strength: float | None = None,
    pairs: int = 2048,
    starts: int = 64,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    trust: bool = False,
) -> Path:
    """Make every method's paths on a generator for several seeds, measure all in the same way, and write a page.

    All methods that train take the configuration's steps, batch, learning rate and classifier. Steps have the latent
    length at which they change the pixels equally in the mean: by `strength`, or if it is None as much as the flows of
    the same seed, which then go at their own speed. A method that can't be made for this generator, or can't reach that
    strength, is left out, and the page says why.

    `out` holds comparison.json, the trainings in runs/, the results of each method with each seed in jobs/, the strips
    of the first seed's paths in strips/, results.json, table.md and compare.html.

    Args:
        generator: the generator whose latents are traversed.
        out: the comparison's folder.
        config: the budget and the flows' settings; its seed is the first one.
        methods: names in `fastflow.studies.comparison.methods.METHODS`; all if left out. "flows" is always among
            them. A name may be followed by settings, as in "flows,pde=heat": the method is then compared with these.
        seeds: how many seeds to compare with.
        attributes: the attributes that a path may change: "appearance" (of any images), "strokes" (of digits),
            FILE.py:FUNCTION, or a function from images (B, C, H, W) in [0, 1] to values (B, A). Attributes that are
            the same at all starts are left out.
        attribute_names: names for the values of a function of your own.
        strength: the mean absolute pixel change of a step, for pixels in [0, 1].
        pairs: how many pairs of images each classifier has, half to train it and half to test it.
        starts: how many starts each path has in all other measures.
        workers: how many processes work at once, on one method with one seed each, with their share of torch's
            threads. They are started anew: the generator and the attributes must have names by which they are found
            again, and a script needs `if __name__ == "__main__":` around this call.
        resume: go on in `out` with the same settings, perhaps with more seeds and methods.
        overwrite: replace the comparison in `out`.
        progress: show a progress bar.
        trust: as for `ff.discover`: run the classifier's FILE.py:FUNCTION if the configuration was read from a file.

    Returns:
        The path of compare.html.

    Raises:
        InputError: an argument can't be used, `out` holds something else, or SciPy isn't installed.
        TrainingError: the flows' training diverged.
        KeyboardInterrupt: a signal stopped the comparison. Nothing is lost: `resume` goes on from the last checkpoints.
    """
    generator, out = as_generator(generator), as_folder(out)
    check_place(out / "comparison.json", out)
    config = DiscoverConfig() if config is None else config
    if trust:
        config = replace(config, classifier=str(config.classifier))
    _check_sizes(config, seeds=seeds, workers=workers, starts=starts, pairs=pairs)
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other: choose one of them")
    if strength is not None and not (is_finite(strength, torch.float64) and strength > 0):
        raise InputError(f"strength must be a positive number, or left out for that of the flows, got {strength!r}")
    check_packages()
    compared = chosen(methods, config)
    if workers > 1 and not (spec_of(generator) is not None and isinstance(attributes, str)):
        raise InputError(
            "several workers need a generator and attributes that are found by their names: take workers=1"
        )
    all_seeds = [config.seed + place for place in range(seeds)]
    measured = varying(attributes, attribute_names, generator, starts, [seed + 1 for seed in all_seeds])
    settings = {
        "generator": describe(generator),
        "config": asdict(config),
        "attributes_from": attributes if isinstance(attributes, str) else None,
        "attribute_names": measured.names,
        "names_given": None if attribute_names is None else list(attribute_names),
        "attribute_values": describe_attributes(measured, generator),
        "strength": strength,
        "pairs": pairs,
        "starts": starts,
    }
    with locked_folder(out):
        if overwrite:
            _remove_comparison(out)
        if resume:
            _keep_descriptions(out, settings, generator)
        begin_folder(out, settings, name="comparison", resume=resume)
        device = str(generator.like.device)
        shared: dict[str, Any] = {
            "out": out,
            "generator": generator if workers == 1 else spec_of(generator),
            "latent_dim": generator.latent_dim,
            "device": device,
            "attributes": attributes,
            "names": measured.names,
            "columns": measured.columns,
            "strength": strength,
            "pairs": pairs,
            "starts": starts,
        }
        done = _do_all(_jobs(compared, all_seeds, shared), workers, progress)
        record = summarise(settings, {name: method.method.what for name, method in compared.items()}, all_seeds, done)
        record["device"] = device
        write_sealed(out / "results.json", record)
        write_table(record, out / "table.md")
        return write_comparison(out)


def _check_sizes(config: DiscoverConfig, *, seeds: int, workers: int, starts: int, pairs: int) -> None:
    """Raise InputError unless everything can be measured with so many paths, steps, starts and pairs."""
    for name, count in (("seeds", seeds), ("workers", workers), ("starts", starts), ("pairs", pairs)):
        check_count(count, name)
    if config.path_steps < 2 or config.num_potentials < 2:
        raise InputError(
            f"a comparison needs num_potentials and path_steps of at least 2, got {config.num_potentials} and "
            f"{config.path_steps}"
        )
    if starts < 2:
        raise InputError("starts must be at least 2, so that attributes have a spread, got 1")
    if pairs < 20 * config.num_potentials:
        raise InputError(f"pairs must be at least {20 * config.num_potentials}, twenty for every path, got {pairs}")


def _remove_comparison(out: Path) -> None:
    """Remove the comparison that a folder holds, if it holds one."""
    if (out / "comparison.json").exists():
        remove_named(out, _FILES)


def _jobs(compared: dict[str, Chosen], seeds: list[int], shared: dict[str, Any]) -> dict[tuple[str, int], Job]:
    """A job for each method with each seed; `shared` are the fields that all jobs have in common."""
    return {
        (name, seed): Job(
            name=name,
            chosen=method._replace(config=replace(method.config, seed=seed)),
            seed=seed,
            drawn=seed == seeds[0],
            **shared,
        )
        for name, method in compared.items()
        for seed in seeds
    }


def _do_all(jobs: dict[tuple[str, int], Job], workers: int, progress: bool) -> dict[tuple[str, int], Found]:
    """Do the jobs that aren't done yet, and return the results of all."""
    done = _done(jobs)
    with job_bar(len(jobs), len(done), "job", progress) as bar, termination_interrupts("comparison"):
        # The flows come first: their strength may be the one that the other methods have to match.
        for flows in (True, False):
            waiting = {key: job for key, job in jobs.items() if key not in done and (key[0] == FLOWS) == flows}
            for key, found in all_found(do, waiting, workers):
                done[key] = found
                advance(bar, key)
    return done


def _done(jobs: dict[tuple[str, int], Job]) -> dict[tuple[str, int], Found]:
    """The results of the jobs that were measured on the weights that their trainings have now.

    If that isn't so for the flows of a seed, it isn't so for any method that has to match their strength either.
    """
    done = {
        key: read_found(job.file, lambda found, job=job: is_measured(found, job.names))
        for key, job in jobs.items()
        if job.file.exists()
    }
    stale = {key for key, found in done.items() if not is_current(found, jobs[key].folder)}
    seeds = [seed for name, seed in stale if name == FLOWS and jobs[name, seed].strength is None]
    return {key: found for key, found in done.items() if key not in stale and key[1] not in seeds}


def do(job: Job) -> Found:
    """Make a method's paths or go on making them, measure them, and write the results to the job's file."""
    generator, config = job.generator, job.chosen.config
    if isinstance(generator, Spec):
        generator = load_spec(generator, job.latent_dim).to(find_device(job.device))
    attributes = Attributes(load_predictor(job.attributes), job.names, job.columns)
    try:
        source = _make_paths(job, generator)
        begun = time.process_time()
        source = _match_strength(source, job)
    except BusyError:
        raise  # nothing is wrong with the method: it can be made once the other process has ended
    except (InputError, TrainingError) as error:
        if job.name == FLOWS:
            raise
        found: Found = {"left_out": str(error)}
    else:
        found = measure(source, config.path_steps, attributes, pairs=job.pairs, starts=job.starts, seed=job.seed + 1)
        found |= read_found(job.timing, lambda timing: are_numbers(timing, timing))
        found["weights"] = saved_weights(job.folder)
        found["step_length"] = source.step_length
        if job.drawn:
            file = job.out / "strips" / f"{job.name}.png"
            found["strip"] = draw_strip(source, config.path_steps, found["paths"], job.names, file)
        found["measuring_cpu_s"] = time.process_time() - begun
    found["threads"] = torch.get_num_threads()
    job.file.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(job.file, found)
    return found


def _make_paths(job: Job, generator: Generator) -> Traverses:
    """Make a method's paths, and record how long a training took, unless another process had done part of it."""
    resumed = latest_checkpoint(job.folder / "checkpoints") is not None
    begun = time.process_time()
    source = job.chosen.method.make(generator, job.chosen.config, job.folder)
    if not job.timing.exists():
        job.timing.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(job.timing, {} if resumed else {"training_cpu_s": time.process_time() - begun})
    return source


def _match_strength(source: Traverses, job: Job) -> Traverses:
    """The same paths, with the steps' length set so that the pixels change as much as they should; see `compare`."""
    strength = job.strength
    if strength is None:
        if job.name == FLOWS:
            return source
        flows = read_found(job_file(job.out, FLOWS, job.seed), lambda found: is_measured(found, job.names))
        strength = flows["strength"]
    return match_strength(
        source, strength, path_steps=job.chosen.config.path_steps, samples=4 * job.starts, seed=job.seed + 1
    )


def _keep_descriptions(out: Path, settings: dict[str, Any], generator: Generator) -> None:
    """Keep the recorded descriptions of the generator and the attributes, if they still describe these.

    Raises:
        InputError: the attributes' values of the same images have changed.
    """
    file = out / "comparison.json"
    if not file.exists():
        return
    recorded = read_json(file)
    described = recorded.get("generator") if isinstance(recorded, dict) else None
    if described is None or not (is_description(described) and draws_alike(described, generator)):
        return  # another generator: `begin_folder` raises the error
    settings["generator"] = described
    if any(recorded.get(key) != settings[key] for key in ("attributes_from", "attribute_names")):
        return
    values = recorded.get("attribute_values")
    if values is None:
        return  # begun by another version: `begin_folder` raises the error
    rows = values if isinstance(values, list) else [values]
    if not (all(map(are_pixels, rows)) and all(rows) and measure_alike(rows, settings["attribute_values"])):
        raise InputError(
            f"can't resume {str(out)!r}: its attributes {settings['attributes_from'] or ''}".rstrip()
            + " give other values of the same images than when it began; resume with the function and what it reads as "
            "they were then, or choose another folder"
        )
    settings["attribute_values"] = values
