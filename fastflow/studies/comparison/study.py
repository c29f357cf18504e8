"""Potential flows beside older ways to traverse a latent space: one budget, one strength, the same measures for all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fastflow import generators
from fastflow.core.checks import check_count, is_finite
from fastflow.core.devices import find_device
from fastflow.core.errors import BusyError, InputError, TrainingError
from fastflow.core.files import locked_folder, read_json, write_json
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import describe, draws_alike, is_description
from fastflow.generators.loading import can_be_found
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
from fastflow.studies.comparison.measures import draw_strip, measure
from fastflow.studies.comparison.methods import FLOWS, Chosen, chosen
from fastflow.studies.comparison.table import summarise, write_table
from fastflow.studies.jobs import Found, all_found, begin_folder, termination_interrupts
from fastflow.studies.statistics import check_packages
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.config import DiscoverConfig
from fastflow.training.run_folder import as_folder

_MADE = ("jobs", "runs", "strips", "results.json", "table.md", "compare.html", "comparison.json")
"""What a comparison leaves in its folder. What says that it is one is last: a removal that is stopped can go on."""


class Job(NamedTuple):
    """A method with a seed: its training and its measurement."""

    out: Path
    """The comparison's folder."""
    name: str
    chosen: Chosen
    seed: int
    generator: Generator | str
    latent_dim: int
    device: str
    attributes: str | Predictor
    names: list[str]
    columns: list[int]
    strength: float | None
    """What every step has to change; what the flows change if None."""
    pairs: int
    """Pairs of images for the fresh classifiers."""
    starts: int
    """Starts for each path."""
    drawn: bool
    """Whether its paths are drawn."""

    @property
    def folder(self) -> Path:
        """Where it trains."""
        return self.out / "runs" / self.name / f"seed-{self.seed}"

    @property
    def timing(self) -> Path:
        """Where it is kept how long the training took, should measuring be stopped."""
        return self.folder.with_suffix(".json")

    @property
    def file(self) -> Path:
        """Where its findings go."""
        return job_file(self.out, self.name, self.seed)


def job_file(out: Path, name: str, seed: int) -> Path:
    """Where a comparison keeps what a method with a seed was found to do."""
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
) -> Path:
    """Make every method's paths on a generator for several seeds, measure them alike, and write a page.

    All that train take the configuration's steps, batch, learning rate and classifier. Steps have the latent length at
    which they change the pixels equally in the mean: by `strength`, or where None as much as the flows of the same
    seed, which then go at their own speed. A method that can't be made for this generator, or can't reach that
    strength, is left out with its reason.

    OUT holds comparison.json, the trainings in runs/, what each method was found to do with each seed in jobs/, strips/
    of the first seed's paths, results.json, table.md and compare.html.

    Args:
        config: the budget and the flows' settings; the seeds count from its own.
        methods: names in `fastflow.studies.comparison.methods.METHODS`, all if left out; "flows" is always among
            them. With settings after a comma, "flows,pde=heat", a method is compared under these.
        attributes: what a path may change: appearance (of any images), strokes (of digits), FILE.py:FUNCTION or a
            function, values (B, A) of images (B, C, H, W) in [0, 1]. Those that are the same at all starts are left
            out.
        attribute_names: of a function's values.
        strength: mean absolute change in a step of pixels in [0, 1].
        pairs: pairs of images for each classifier, half to train it and half to test it.
        starts: starts for each path, in all other measures.
        workers: processes that do a method with a seed each, with their part of torch's threads. They are started anew:
            the generator and the attributes must have names that find them again, and a script needs
            `if __name__ == "__main__":` around this call.
        resume: go on in `out`, with the same settings; seeds and methods may have become more.
        overwrite: replace the comparison in `out`.

    Returns:
        The path of compare.html.

    Raises:
        InputError: an argument that doesn't fit, `out` holds something else, or SciPy isn't there.
        TrainingError: the flows' training diverged.
        KeyboardInterrupt: stopped by a signal; nothing is lost, and `resume` goes on from the last checkpoints.
    """
    generator, out = as_generator(generator), as_folder(out)
    config = DiscoverConfig() if config is None else config
    for name, count in (("seeds", seeds), ("workers", workers), ("starts", starts), ("pairs", pairs)):
        check_count(count, name)
    if config.path_steps < 2 or config.num_potentials < 2:
        raise InputError("a comparison needs num_potentials and path_steps of at least 2")
    if starts < 2:
        raise InputError("starts must be at least 2, so that attributes have a spread, got 1")
    if pairs < 20 * config.num_potentials:
        raise InputError(f"pairs must be at least {20 * config.num_potentials}, twenty for every path, got {pairs}")
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other")
    if strength is not None and not (is_finite(strength, torch.float64) and strength > 0):
        raise InputError(f"strength must be a positive number, or left out for that of the flows, got {strength!r}")
    check_packages()
    compared = chosen(methods, config)
    if workers > 1 and not (can_be_found(generator.name) and isinstance(attributes, str)):
        raise InputError(
            "several workers need a generator and attributes that are found by their names: take workers=1"
        )
    all_seeds = [config.seed + place for place in range(seeds)]
    looked_at = varying(attributes, attribute_names, generator, starts, [seed + 1 for seed in all_seeds])
    settings = {
        "generator": describe(generator),
        "config": asdict(config),
        "attributes_from": attributes if isinstance(attributes, str) else None,
        "attribute_names": looked_at.names,
        "names_given": None if attribute_names is None else list(attribute_names),
        "attribute_values": describe_attributes(looked_at, generator),
        "strength": strength,
        "pairs": pairs,
        "starts": starts,
    }
    with locked_folder(out):
        if overwrite and (out / "comparison.json").exists():
            for path in (out / name for name in _MADE):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if resume:
            _keep_descriptions(out, settings, generator)
        begin_folder(out, settings, name="comparison", resume=resume)
        like = generator.sample(1)
        known: Generator | str = generator
        if workers > 1:
            assert generator.name is not None
            known = generator.name
        jobs = {
            (name, seed): Job(
                out,
                name,
                method._replace(config=replace(method.config, seed=seed)),
                seed,
                known,
                generator.latent_dim,
                str(like.device),
                attributes,
                looked_at.names,
                looked_at.columns,
                strength,
                pairs,
                starts,
                seed == all_seeds[0],
            )
            for name, method in compared.items()
            for seed in all_seeds
        }
        done = {key: read_json(job.file) for key, job in jobs.items() if job.file.exists()}
        bar = tqdm(total=len(jobs), initial=len(done), disable=not progress, unit="job", dynamic_ncols=True)
        with bar, termination_interrupts("comparison"):
            # The flows come first: they may say how strong the others' steps have to be.
            for first in (True, False):
                waiting = {key: job for key, job in jobs.items() if key not in done and (key[0] == FLOWS) == first}
                for key, found in all_found(do, waiting, workers):
                    done[key] = found
                    bar.set_postfix_str(" ".join(map(str, key)), refresh=False)
                    bar.update()
        record = summarise(settings, {name: method.method.what for name, method in compared.items()}, all_seeds, done)
        record["device"] = str(like.device)
        write_json(out / "results.json", record)
        write_table(record, out / "table.md")
        return write_comparison(out)


def do(job: Job) -> Found:
    """Make a method's paths, or go on making them, measure them, and write what was found."""
    generator, config = job.generator, job.chosen.config
    if isinstance(generator, str):
        generator = generators.load(generator, job.latent_dim).to(find_device(job.device))
    looked_at = Attributes(load_predictor(job.attributes), job.names, job.columns)
    try:
        source = _made(job, generator)
        begun = time.process_time()
        source = _matched(source, job)
    except BusyError:
        raise  # the method is none the worse for it, and can be made once that process has ended
    except (InputError, TrainingError) as error:
        if job.name == FLOWS:
            raise
        found: Found = {"left_out": str(error)}
    else:
        found = measure(source, config.path_steps, looked_at, job.pairs, job.starts, job.seed + 1)
        found |= read_json(job.timing)
        found["step_length"] = source.step_length
        if job.drawn:
            found["strip"] = draw_strip(
                source, config.path_steps, found, job.names, job.out / "strips" / f"{job.name}.png"
            )
        found["measuring_cpu_s"] = time.process_time() - begun
    found["threads"] = torch.get_num_threads()
    job.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(job.file, found)
    return found


def _made(job: Job, generator: Generator) -> Traverses:
    """A method's paths, trained where need be; how long that took is kept, unless another process did part of it."""
    resumed = latest_checkpoint(job.folder / "checkpoints") is not None
    begun = time.process_time()
    source = job.chosen.method.make(generator, job.chosen.config, job.folder)
    if not job.timing.exists():
        job.timing.parent.mkdir(parents=True, exist_ok=True)
        write_json(job.timing, {} if resumed else {"training_cpu_s": time.process_time() - begun})
    return source


def _matched(source: Traverses, job: Job) -> Traverses:
    """The same paths in steps that change the pixels as much as they have to; see `compare`."""
    strength = job.strength
    if strength is None:
        if job.name == FLOWS:
            return source
        strength = read_json(job_file(job.out, FLOWS, job.seed))["strength"]
    return match_strength(
        source, strength, path_steps=job.chosen.config.path_steps, samples=4 * job.starts, seed=job.seed + 1
    )


def _keep_descriptions(out: Path, settings: dict[str, Any], generator: Generator) -> None:
    """Take the generator's and the attributes' descriptions as they were recorded, if they describe these still.

    Raises:
        InputError: the attributes of the same images were others.
    """
    file = out / "comparison.json"
    if not file.exists():
        return
    recorded = read_json(file)
    described = recorded.get("generator")
    if not (is_description(described) and draws_alike(described, generator)):
        return  # of another generator, as `begin_folder` says
    settings["generator"] = described
    if any(recorded.get(key) != settings[key] for key in ("attributes_from", "attribute_names")):
        return
    values = recorded.get("attribute_values")
    if values is None:
        return  # begun by another version, as `begin_folder` says
    if not measure_alike(values, settings["attribute_values"]):
        raise InputError(
            f"can't resume {str(out)!r}: its attributes {settings['attributes_from'] or ''}".rstrip()
            + " give other values of the same images than when it began; resume with the function and what it reads as "
            "they were, or choose another folder"
        )
    settings["attribute_values"] = values
