"""Runs read back from their folders."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from fastflow.core import trust as trusted
from fastflow.core.devices import find_device, torch_as_usual
from fastflow.core.errors import InputError
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import draws_alike, is_description
from fastflow.generators.loading import load_spec, recorded_spec
from fastflow.runs.run import Run, VAERun
from fastflow.training.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from fastflow.training.flow_config import DiscoverConfig, FlowConfig
from fastflow.training.potentials import untrained_potentials
from fastflow.training.run_folder import Record, as_folder, no_run, read_record, recorded_config
from fastflow.training.vae import HeldOutImages
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_data import is_data_description
from fastflow.training.vae_models import build_vae_models


@torch_as_usual()
def load_run(
    folder: str | Path,
    generator: Generator | None = None,
    device: str | torch.device | None = None,
    *,
    trust: bool = False,
) -> Run:
    """Load the newest checkpoint of the run in `folder`.

    Args:
        generator: the generator of the training; needed only if it was made from a callable in Python, which can't be
            found again by name.
        device: the device for the run and its generator; if None, the generator's.
        trust: whether to run the program that the run names as its generator, a FILE.py:FUNCTION or an archive, which
            has all your rights. Programs that you trained the run with on this machine, and that haven't changed, need
            no trust; other generators run no code.

    Raises:
        InputError: the folder isn't a run, has no checkpoint, is damaged, needs another generator, or names a program
            that isn't trusted.
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
    return _load_discovery(folder, record, generator, device, trust)


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

_ALWAYS_MADE = 1 << 26


def _load_discovery(
    folder: Path, record: Record, generator: Generator | None, device: str | torch.device | None, trust: bool
) -> Run:
    config = recorded_config(record, DiscoverConfig, folder)
    generator = _restore_generator(record, folder, trust) if generator is None else as_generator(generator)
    if device is not None:
        generator = generator.to(find_device(device))
    check_generator(record, generator, folder)
    checkpoint = _newest(folder)
    _check_size(checkpoint, _least_weights(config, generator.latent_dim))
    potentials = untrained_potentials(config, generator)
    digest = _read_learned(checkpoint, config, potentials.modules(), ignored=("classifier.",))
    return Run(folder, potentials, generator, config, checkpoint.step, saved_as=digest)


def _load_vae(folder: Path, record: Record, device: torch.device) -> VAERun:
    if not is_data_description(record.get("data")):
        raise no_run(folder)
    config = recorded_config(record, VAEConfig, folder)
    shape = tuple(record["data"]["image_shape"])
    checkpoint = _newest(folder)
    _check_size(checkpoint, _least_vae_weights(config, shape) + record["data"]["kept"] * math.prod(shape))
    learned = build_vae_models(config, shape)
    held_out = HeldOutImages(torch.zeros(record["data"]["kept"], *shape))
    nn.ModuleDict({**learned.modules(), "kept": held_out}).to(device)
    digest = _read_learned(checkpoint, config, learned.modules(), others={"kept": held_out})
    return VAERun(folder, learned, held_out, config, checkpoint.step, saved_as=digest)


def _newest(folder: Path) -> Checkpoint:
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run {str(folder)!r} has no checkpoint yet: train it for longer, with resume")
    return checkpoint


def _check_size(checkpoint: Checkpoint, least: int) -> None:
    """Raise InputError if config.json describes many values, and a checkpoint is too small for them; none are made yet.

    Fewer values fit any memory. They are made, and then compared with those in the checkpoint.
    """
    file = checkpoint.folder / "weights.safetensors"
    if least > _ALWAYS_MADE and file.is_file() and least > file.stat().st_size:  # a value takes a byte at least
        raise InputError(
            f"checkpoint {str(checkpoint.folder)!r} is of another model: config.json describes {least:.3g} values or "
            f"more, and weights.safetensors has {file.stat().st_size} bytes"
        )


def _least_weights(config: FlowConfig, latent_dim: int) -> int:
    """A number of weights that the potentials of a configuration have at least."""
    return config.num_potentials * _between((latent_dim, *config.hidden))


def _least_vae_weights(config: VAEConfig, shape: tuple[int, int, int]) -> int:
    """A number of weights that the models of a VAE's configuration have at least, for images (C, H, W)."""
    width, count = config.latent_dim, config.num_potentials
    least = _least_weights(config, width) if config.flows else 0
    if config.objective == "sequence" and config.law != "independent":
        numbers = config.path_frames if config.frames == "pairs" and config.later_latents == "inferred" else 1
        least += count * width * max(numbers, width if config.law == "affine" else 1)
    if config.start_posterior == "all":
        frames = 2 if config.frames == "pairs" else config.path_frames + 1
        least += frames * math.prod(shape) if config.network == "mlp" else frames * shape[0]
    if config.network == "mlp":
        return least + _between((math.prod(shape), *config.widths, width))
    side = min(shape[1:]) >> len(config.widths)
    return least + _between((shape[0], *config.widths, side * side, width))


def _between(widths: tuple[int, ...]) -> int:
    """The number of weights between layers of these widths."""
    return sum(a * b for a, b in pairwise(widths))


def _read_learned(
    checkpoint: Checkpoint,
    config: FlowConfig,
    learned: dict[str, nn.Module],
    *,
    others: dict[str, nn.Module] | None = None,
    ignored: tuple[str, ...] = (),
) -> str:
    """Load the weights of learned modules, from their moving average if the run has one, and of other modules.

    Returns:
        The digest of the weights' file.
    """
    modules = learned
    if config.ema:
        modules, ignored = {"average": nn.ModuleDict(learned)}, (*ignored, *(f"{name}." for name in learned))
    module = nn.ModuleDict({**modules, **(others or {})})
    contents = read_checkpoint(checkpoint, module, ignored=ignored)
    contents.load(module)
    return contents.digest


def _restore_generator(record: Record, folder: Path, trust: bool) -> Generator:
    """The generator that a run's config.json names.

    Raises:
        InputError: it was made from a callable in Python, isn't found where it was, or isn't trusted.
    """
    spec = recorded_spec(record["generator"])
    if spec is None:
        raise InputError(
            f"run {str(folder)!r} was trained on a generator made in Python, which can't be found by name: "
            "pass it to ff.load_run as generator=, or to the command as --generator FILE.py:FUNCTION"
        )
    if spec.program is not None and not trust:
        trusted.check(trusted.identity(record), spec.program, f"opening run {str(folder)!r}")
    return load_spec(spec, record["generator"].get("latent_dim"))


def check_generator(record: Record, generator: Generator, folder: Path) -> None:
    """Raise InputError unless the generator makes the same images as the run's."""
    if not draws_alike(record["generator"], generator):
        raise InputError(
            f"run {str(folder)!r} was trained on another generator than {generator.name or 'this one'}: pass the one "
            "that it was trained on"
        )
