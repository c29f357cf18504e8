"""Runs read back from their folders."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fastflow import generators
from fastflow.core.devices import find_device
from fastflow.core.errors import InputError
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import draws_alike, is_description
from fastflow.generators.loading import can_be_found
from fastflow.runs.run import Run, VAERun
from fastflow.training.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from fastflow.training.config import DiscoverConfig, FlowSettings
from fastflow.training.potentials import untrained_potentials
from fastflow.training.run_folder import Record, as_folder, no_run, read_record, recorded_config
from fastflow.training.vae import Kept
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_data import is_data_description
from fastflow.training.vae_models import untrained


def load_run(folder: str | Path, generator: Generator | None = None, device: str | torch.device | None = None) -> Run:
    """Load the newest checkpoint of the run in `folder`.

    Args:
        generator: the one the run was trained on; needed only if it was made from a callable in Python, which can't be
            found again by name.
        device: where to put all of it; where the generator is if None.

    Raises:
        InputError: the folder isn't a run, has no checkpoint, is damaged, or needs another generator.
        BackendError: there is no such device here.
    """
    folder = as_folder(folder)
    record = read_record(folder)
    if record["kind"] == "train-vae":
        if generator is not None:
            raise InputError(f"run {str(folder)!r} has a generator of its own, the VAE: leave out generator")
        return _load_vae(folder, record, torch.device("cpu") if device is None else find_device(device))
    if record["kind"] != "discover" or not is_description(record.get("generator")):
        raise no_run(folder)
    return _load_discovery(folder, record, generator, device)


def recorded_settings(folder: Path) -> FlowSettings:
    """The settings that the run in `folder` was trained with.

    Raises:
        InputError: the folder isn't a run.
    """
    record = read_record(folder)
    if record["kind"] not in _KINDS:
        raise no_run(folder)
    return recorded_config(record, _KINDS[record["kind"]], folder)


_KINDS: dict[str, type[FlowSettings]] = {"discover": DiscoverConfig, "train-vae": VAEConfig}
"""The configurations by the commands that make runs of them."""


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
    learned = untrained(config, shape)
    kept = Kept(torch.zeros(record["data"]["kept"], *shape))
    nn.ModuleDict({**learned.modules(), "kept": kept}).to(device)
    _read_learned(checkpoint, config, learned.modules(), beside={"kept": kept})
    return VAERun(folder, learned, kept, config, checkpoint.step)


def _newest(folder: Path) -> Checkpoint:
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run {str(folder)!r} has no checkpoint yet")
    return checkpoint


def _read_learned(
    checkpoint: Checkpoint,
    config: FlowSettings,
    learned: dict[str, nn.Module],
    *,
    beside: dict[str, nn.Module] | None = None,
    ignored: tuple[str, ...] = (),
) -> None:
    """Read the weights of what a run learned for good, or their moving average where it has one, and what is beside."""
    modules = learned
    if config.ema:
        modules, ignored = {"average": nn.ModuleDict(learned)}, (*ignored, *(f"{name}." for name in learned))
    module = nn.ModuleDict({**modules, **(beside or {})})
    read_checkpoint(checkpoint, module, ignored=ignored).load(module)


def _restore_generator(record: Record, folder: Path) -> Generator:
    """The generator that a run names.

    Raises:
        InputError: it was made from a callable in Python, or is no longer where it was.
    """
    name = record["generator"].get("name")
    if not can_be_found(name):
        raise InputError(
            f"run {str(folder)!r} was trained on a generator made in Python, which can't be found by name: "
            "pass it to ff.load_run as generator=, or to the command as --generator FILE.py:FUNCTION"
        )
    return generators.load(name, record["generator"].get("latent_dim"))


def check_generator(record: Record, generator: Generator, folder: Path) -> None:
    """Raise InputError unless the generator draws what the run's own drew."""
    if not draws_alike(record["generator"], generator):
        raise InputError(f"run {str(folder)!r} was trained on another generator than {generator.name or 'this one'}")
