"""What makes a run: a discovery on a pretrained generator, and a VAE's training from scratch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fastflow import datasets
from fastflow.core.devices import find_device
from fastflow.core.errors import InputError
from fastflow.core.files import write_json
from fastflow.core.plugins import import_function, name_of
from fastflow.datasets import Sequences
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import describe, is_description
from fastflow.latents.predictors import Predictor
from fastflow.runs.loading import check_generator
from fastflow.runs.run import Run, VAERun
from fastflow.training.config import DiscoverConfig
from fastflow.training.discover import Discovery, check_task
from fastflow.training.distributed import team
from fastflow.training.run_folder import About, Record, as_folder, no_run, train_in
from fastflow.training.vae import VAETraining, resolved, some_images
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_data import describe_data, is_data_description, same_data


def discover(
    generator: Generator,
    config: DiscoverConfig | None = None,
    out: str | Path = "runs/discover",
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    classifier: nn.Module | None = None,
    predictor: Predictor | str | None = None,
) -> Run:
    """Train potentials on a pretrained generator (Song et al., ICML 2023) and return the run.

    Args:
        generator: frozen; see `fastflow.generators`.
        config: the settings, with sensible defaults.
        out: the run's folder: config.json, metrics.jsonl, checkpoints/.
        resume: go on from the newest checkpoint in `out`, or start if there is none.
        overwrite: replace the run in `out`.
        progress: show a progress bar.
        classifier: a module of your own that tells the potentials apart, in place of the configuration's: two batches
            of images (B, C, H, W) in [0, 1] to logits (B, K). It is trained as well, and restarted by resume.
        predictor: a differentiable function of images (B, C, H, W) in [0, 1], whose values (B,) or (B, P) the first
            potentials learn to raise, one property each, or to lower; see `guidance` in the configuration. Or its
            FILE.py:FUNCTION. A resumed run must have the one that it had, as far as names tell.

    In processes that torchrun started, all train together, each on its part of every batch, and the first one writes.

    Raises:
        InputError: `out` holds another run or foreign files or is in use, the settings don't fit, or no gradient passes
            through the generator.
        TrainingError: training diverged; the message names the step, the term and the last good checkpoint.
        KeyboardInterrupt: stopped by a signal, after writing a checkpoint.
    """
    generator = as_generator(generator)
    config = DiscoverConfig() if config is None else config
    if not isinstance(config, DiscoverConfig):
        raise InputError(
            f"config must be a DiscoverConfig, got {type(config).__name__}: use DiscoverConfig(**settings)"
        )
    folder = as_folder(out)
    named: str | bool = predictor is not None
    if isinstance(predictor, str):
        named, predictor = predictor, import_function(predictor, "predictor")
    elif predictor is not None:
        named = name_of(predictor) or True
    with team(generator.sample(1).device) as group:
        task = Discovery(config, generator, classifier=classifier, predictor=predictor, team=group)
        check_task(task)
        about = _about_discovery(generator, named)
        train_in(folder, task, config, about, group, resume=resume, overwrite=overwrite, progress=progress)
    task.module.requires_grad_(False)
    return Run(folder, task.average or task.potentials, generator, config, config.steps)


def train_vae(
    config: VAEConfig | None = None,
    data_root: str | Path | None = None,
    out: str | Path = "runs/vae",
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    device: str | torch.device = "cpu",
    data: Sequences | None = None,
    held_out: Sequences | None = None,
) -> VAERun:
    """Train a VAE on moving images, with potential flows as its inductive bias or without, and return the run.

    Args:
        config: the settings; `flow_weight` 0 trains a plain VAE.
        data_root: the folder of the data set's files, where it has such.
        out, resume, overwrite, progress: as for `discover`.
        device: where to train.
        data, held_out: data sets of your own in place of the one that the configuration names: to train on, and to
            start traversals from (the former where there is none).

    In processes that torchrun started, all train together, each on its part of every batch, and the first one writes.

    Raises:
        InputError: `out` holds another run or foreign files or is in use, or the data can't be read or don't fit.
        BackendError: there is no such device here.
        TrainingError: training diverged; the message names the step, the term and the last good checkpoint.
        KeyboardInterrupt: stopped by a signal, after writing a checkpoint.
    """
    config = VAEConfig() if config is None else config
    if not isinstance(config, VAEConfig):
        raise InputError(f"config must be a VAEConfig, got {type(config).__name__}: use VAEConfig(**settings)")
    folder, where = as_folder(out), find_device(device)
    if data is None:
        names = config.transformations or None
        data = datasets.load(config.data, data_root, "train", names)
        held_out = datasets.load(config.data, data_root, "test", names)
    description = describe_data(data)
    config = resolved(config, data)
    kept = some_images(data if held_out is None else held_out)
    about = _about_data({**description, "root": _absolute(data_root), "kept": len(kept)})
    with team(where) as group:
        task = VAETraining(config, data, kept, where, group)
        train_in(folder, task, config, about, group, resume=resume, overwrite=overwrite, progress=progress)
        if config.flows and config.supervision == "full":
            group.led(lambda: _name_potentials(folder, config.transformations))
    return VAERun(folder, task.average or task.learned, task.kept, config, config.steps)


def _about_discovery(generator: Generator, predictor: str | bool) -> About:
    """Of a discovery with the predictor of this name, or one without a name, or none."""

    def check(record: Record, folder: Path) -> None:
        if not is_description(record.get("generator")):
            raise no_run(folder)
        check_generator(record, generator, folder)
        before = record.get("predictor", False)
        renamed = isinstance(before, str) and isinstance(predictor, str) and before != predictor
        if renamed or bool(before) != bool(predictor):
            raise InputError(
                f"can't resume {str(folder)!r}: predictor was {_told(before)} and is now {_told(predictor)}; resume "
                "with the same one, or start again with overwrite"
            )

    return About("discover", {"generator": describe(generator), "predictor": predictor}, check)


def _told(predictor: str | bool) -> str:
    return repr(predictor) if isinstance(predictor, str) else "one without a name" if predictor else "none"


def _about_data(description: Record) -> About:
    def check(record: Record, folder: Path) -> None:
        if not is_data_description(record.get("data")):
            raise no_run(folder)
        if not same_data(record["data"], description):
            raise InputError(
                f"run {str(folder)!r} was trained on other data than {description['name']}: name those it was on"
            )

    return About("train-vae", {"data": description}, check)


def _absolute(root: str | Path | None) -> str | None:
    return None if root is None else str(Path(root).resolve())


def _name_potentials(folder: Path, transformations: tuple[str, ...]) -> None:
    """Let potentials have the names of what they learned, unless somebody has named them."""
    if not (folder / "names.json").exists():
        write_json(folder / "names.json", {str(k): name for k, name in enumerate(transformations)})
