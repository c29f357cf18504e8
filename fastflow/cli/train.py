"""What the commands that train take and do."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from fastflow import generators
from fastflow.cli.inputs import watched
from fastflow.core.devices import find_device
from fastflow.core.errors import InputError
from fastflow.core.files import read_json
from fastflow.runs.train import discover, train_vae
from fastflow.training.config import DiscoverConfig
from fastflow.training.config_file import from_dict
from fastflow.training.distributed import is_follower, local_device
from fastflow.training.presets import preset
from fastflow.training.run_folder import read_record
from fastflow.training.vae_config import VAEConfig


@dataclass(frozen=True)
class _Training:
    """What the commands that train share: where, on what, and what becomes of a run that is there."""

    out: str
    """The run's folder."""
    config: str | None = None
    """A JSON file with settings, for example another run's config.json; options override it."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, ...; under torchrun, cuda is a device for each process."""
    resume: bool = False
    """Go on from the newest checkpoint in OUT."""
    overwrite: bool = False
    """Replace the run that OUT holds."""

    def own_device(self) -> torch.device:
        """This process's device."""
        device = find_device(local_device(self.device))
        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL's, too
        return device


@dataclass(frozen=True)
class Discover(_Training):
    """Learn potentials on a pretrained generator."""

    generator: str = tyro.MISSING
    """digits-vae, faces, KIND:PATH for weights of a known kind (sngan, dcgan, mlp-vae, conv-vae, biggan,
    autoencoder-kl), FILE.pt for a TorchScript or torch.export archive, or FILE.py:FUNCTION."""
    settings: tyro.conf.OmitArgPrefixes[DiscoverConfig] = field(default_factory=DiscoverConfig)
    preset: str | None = None
    """The published settings for a kind of generator: anime-sngan, mnist-sngan, biggan, stylegan2, vae-mnist or
    vae-dsprites; options override them."""
    predictor: str | None = None
    """FILE.py:FUNCTION, a differentiable property of images (B, C, H, W) in [0, 1]; the first potentials follow its
    gradient, or oppose it."""
    latent_dim: int | None = None
    """The latents' width, where FUNCTION maps latents to images itself."""

    def run(self) -> None:
        """Train and say what to do next."""
        run = discover(
            generators.load(self.generator, self.latent_dim).to(self.own_device()),
            self.settings,
            self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=watched(),
            predictor=self.predictor,
        )
        if not is_follower():
            _point_out_clipping(run.generator)
            print(f"trained {run}; next: fastflow report {self.out}")


@dataclass(frozen=True)
class TrainVAE(_Training):
    """Train a VAE from scratch on moving images, its latents carried along potential flows."""

    data_root: str | None = None
    """The folder of the data set's files, where it has such."""
    settings: tyro.conf.OmitArgPrefixes[VAEConfig] = field(default_factory=VAEConfig)
    preset: str | None = None
    """Settings for a data set: vae-digits, vae-mnist or vae-dsprites; options override them."""

    def run(self) -> None:
        """Train and say on what, and what to do next."""
        run = train_vae(
            self.settings,
            self.data_root,
            self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=watched(),
            device=self.own_device(),
        )
        if not is_follower():
            print(f"trained on {read_record(run.folder)['data']['note']}")
            print(f"{run}" + (f"; next: fastflow report {self.out}" if run.config.flows else ""))


_CONFIGURED: dict[str, tuple[type[Any], type[Any]]] = {
    "discover": (Discover, DiscoverConfig),
    "train-vae": (TrainVAE, VAEConfig),
}


def with_defaults(arguments: list[str]) -> Discover | TrainVAE | None:
    """The defaults that `--config FILE` or `--preset NAME` asks of a training, read before the other options."""
    if not arguments or arguments[0] not in _CONFIGURED:
        return None
    command, kind = _CONFIGURED[arguments[0]]
    file, name = _option(arguments, "--config"), _option(arguments, "--preset")
    if file is not None and name is not None:
        raise InputError("--config and --preset exclude each other")
    if name is not None:
        return command(tyro.MISSING, settings=preset(name, kind))
    if file is None:
        return None
    values = read_json(Path(file))
    values = values.get("config", values) if isinstance(values, dict) else values
    if not isinstance(values, dict):
        raise InputError(f"{file!r} must hold a JSON object of settings")
    return command(tyro.MISSING, settings=from_dict(kind, values, file))


def _option(arguments: list[str], option: str) -> str | None:
    """An option's value among arguments that aren't parsed yet."""
    for position, argument in enumerate(arguments):
        name, separator, value = argument.partition("=")
        if name == option and (separator or position + 1 < len(arguments)):
            return value if separator else arguments[position + 1]
    return None


def _point_out_clipping(generator: generators.Generator) -> None:
    if generator.outside > 0.25:
        low, high = generator.value_range
        print(
            f"note: {generator.outside:.0%} of the generator's pixels lie outside its value_range ({low:g}, {high:g}) "
            "and will be clipped in pictures and measurements; if they span another, name it",
            file=sys.stderr,
        )
