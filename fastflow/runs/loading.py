"""Runs read back from their folders."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fastflow import generators
from fastflow.core.devices import find_device, torch_as_usual
from fastflow.core.errors import InputError
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import draws_alike, is_description
from fastflow.generators.loading import can_be_found
from fastflow.runs.run import Run, VAERun
from fastflow.training.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from fastflow.training.config import DiscoverConfig, FlowConfig
from fastflow.training.potentials import untrained_potentials
from fastflow.training.run_folder import Record, as_folder, no_run, read_record, recorded_config
from fastflow.training.vae import HeldOutImages
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_data import is_data_description
from fastflow.training.vae_models import build_vae_models


@torch_as_usual()
def load_run(folder: str | Path, generator: Generator | None = None, device: str | torch.device | None = None) -> Run:
    """Load the newest checkpoint of the run in `folder`.

    Args:
        generator: the generator of the training; needed only if it was made from a callable in Python, which can't be
            found again by name.
        device: the device for the run and its generator; if None, the generator's.

    Raises:
        InputError: the folder isn't a run, has no checkpoint, is damaged, or needs another generator.
        BackendError: there is no such device here.
    """
    folder = as_folder(folder)
    record = read_record(folder)
    if record["kind"] == "train-vae":
        if generator is not None:
            raise InputError(f"run {str(folder)!r} has its own generator, the VAE: leave out generator")
        return _load_vae(folder, record, torch.device("cpu") if device is None else find_device(device))
    if record["kind"] != "discover" or not is_description(record.get("generator")):
        raise no_run(folder)
    return _load_discovery(folder, record, generator, device)


def read_config(folder: Path) -> FlowConfig:
    """The configuration that the run in `folder` was trained with.

    Raises:
        InputError: the folder isn't a run.
    """
    record = read_record(folder)
    if record["kind"] not in _KINDS:
        raise no_run(folder)
    return recorded_config(record, _KINDS[record["kind"]], folder)


_KINDS: dict[str, type[FlowConfig]] = {"discover": DiscoverConfig, "train-vae": VAEConfig}
"""The type of configuration by kind of run."""


def _load_discovery(
    folder: Path, record: Record, generator: Generator | None, device: str | torch.device | None
) -> Run:
    config = recorded_config(record, DiscoverConfig, folder)
    generator = _restore_generator(record, folder) if generator is None else as_generator(generator)
    if device is not None:
        generator = generator.to(find_device(device))
    check_generator(record, generator, folder)
    checkpoint = _newest(folder)
    potentials = untrained_potentials(config, generator)
    _read_learned(checkpoint, config, potentials.modules(), ignored=("classifier.",))
    return Run(folder, potentials, generator, config, checkpoint.step)


def _load_vae(folder: Path, record: Record, device: torch.device) -> VAERun:
    if not is_data_description(record.get("data")):
        raise no_run(folder)
    config = recorded_config(record, VAEConfig, folder)
    shape = tuple(record["data"]["image_shape"])
    checkpoint = _newest(folder)
    learned = build_vae_models(config, shape)
    held_out = HeldOutImages(torch.zeros(record["data"]["kept"], *shape))
    nn.ModuleDict({**learned.modules(), "kept": held_out}).to(device)
    _read_learned(checkpoint, config, learned.modules(), others={"kept": held_out})
    return VAERun(folder, learned, held_out, config, checkpoint.step)


def _newest(folder: Path) -> Checkpoint:
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run {str(folder)!r} has no checkpoint yet: train it for longer, with resume")
    return checkpoint


def _read_learned(
    checkpoint: Checkpoint,
    config: FlowConfig,
    learned: dict[str, nn.Module],
    *,
    others: dict[str, nn.Module] | None = None,
    ignored: tuple[str, ...] = (),
) -> None:
    """Load the weights of learned modules, from their moving average if the run has one, and of other modules."""
    modules = learned
    if config.ema:
        modules, ignored = {"average": nn.ModuleDict(learned)}, (*ignored, *(f"{name}." for name in learned))
    module = nn.ModuleDict({**modules, **(others or {})})
    read_checkpoint(checkpoint, module, ignored=ignored).load(module)


def _restore_generator(record: Record, folder: Path) -> Generator:
    """The generator that a run's config.json names.

    Raises:
        InputError: it was made from a callable in Python, or isn't found where it was.
    """
    name = record["generator"].get("name")
    if not can_be_found(name):
        raise InputError(
            f"run {str(folder)!r} was trained on a generator made in Python, which can't be found by name: "
            "pass it to ff.load_run as generator=, or to the command as --generator FILE.py:FUNCTION"
        )
    return generators.load(name, record["generator"].get("latent_dim"))


def check_generator(record: Record, generator: Generator, folder: Path) -> None:
    """Raise InputError unless the generator makes the same images as the run's."""
    if not draws_alike(record["generator"], generator):
        raise InputError(
            f"run {str(folder)!r} was trained on another generator than {generator.name or 'this one'}: pass the one "
            "that it was trained on"
        )
