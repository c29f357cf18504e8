"""The commands that train: demo, discover and train-vae."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from fastflow import generators
from fastflow.cli.inputs import training_progress
from fastflow.core.devices import find_device
from fastflow.core.errors import InputError
from fastflow.core.files import as_argument, in_one_line, printable, read_json
from fastflow.core.trust import marked
from fastflow.runs.train import discover, train_vae
from fastflow.training.config_file import from_dict
from fastflow.training.distributed import is_follower, local_device
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.presets import preset
from fastflow.training.run_folder import read_record
from fastflow.training.vae_config import VAEConfig


@dataclass(frozen=True)
class Demo:
    """Try everything on real data that comes with fastflow: discover, evaluate, traverse and report."""

    out: str = "demo"
    """Folder of the run. The page is OUT/report.html."""
    seed: int = 0
    """Random seed."""
    steps: int = DiscoverConfig.steps
    """Number of training steps."""
    overwrite: bool = False
    """Replace the run in OUT, if there is one."""

    def run(self) -> None:
        """Train, measure and draw, and print where the page is."""
        config = DiscoverConfig(seed=self.seed, steps=self.steps)
        print(f"discovering {config.num_potentials} potentials on the digits VAE")
        run = discover(
            generators.load("digits-vae"), config, self.out, overwrite=self.overwrite, progress=training_progress()
        )  # fmt: skip
        print("evaluating on latents that training never saw")
        print(printable(f"look at {run.report()}; next: {_command('serve', self.out)}"))


@dataclass(frozen=True)
class _Training:
    """The options that discover and train-vae share."""

    out: str
    """Folder of the run."""
    config: str | None = None
    """JSON file with settings, such as another run's config.json. Options override its settings."""
    device: str = "cpu"
    """Device to train on, such as cpu, cuda or cuda:1. Under torchrun, cuda gives each process its own device."""
    resume: bool = False
    """Continue the run in OUT from its newest checkpoint."""
    overwrite: bool = False
    """Replace the run in OUT, if there is one."""

    def own_device(self) -> torch.device:
        """The device of this process."""
        device = find_device(local_device(self.device))
        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL uses the current device
        return device


@dataclass(frozen=True)
class Discover(_Training):
    """Learn potentials on a pretrained generator."""

    generator: str = tyro.MISSING
    """Generator of images: digits-vae, faces, KIND:PATH, FILE.pt or FILE.py:FUNCTION.
    KIND:PATH has the weights of a known kind: sngan, dcgan, mlp-vae, conv-vae, biggan or autoencoder-kl.
    FILE.pt is an archive of TorchScript or torch.export.
    FUNCTION takes nothing and returns a generator, or it maps latents to images."""
    settings: tyro.conf.OmitArgPrefixes[DiscoverConfig] = field(default_factory=DiscoverConfig)
    preset: str | None = None
    """Published settings for a kind of generator. Options override its settings.
    The presets are anime-sngan, mnist-sngan, biggan, stylegan2, vae-mnist and vae-dsprites."""
    guide: tuple[str, ...] | None = None
    """What the first potentials learn to change, one attribute each, while the others stay as they are.
    Names: strokes or appearance, which are sets of attributes, or their members, such as thickness or brightness.
    Or FILE.py:FUNCTION, which gives differentiable values for images (B, C, H, W) in [0, 1].
    The default is strokes where images look drawn, unless --preset is given, and otherwise nothing.
    --guide alone means nothing too: all potentials are free, and a classifier keeps them distinct."""
    keep: tuple[str, ...] | None = None
    """Features of images that guided potentials leave as they are.
    shape is that of strokes, wherever they lie and however large and slanted they are.
    Or FILE.py:FUNCTION, which gives differentiable features, such as an embedding of identity.
    The default is shape where strokes guide, and otherwise nothing, as --keep alone means."""
    predictor: str | None = None
    """FILE.py:FUNCTION, as in --guide. If it gives more values than there are potentials, the first ones guide."""
    latent_dim: int | None = None
    """Width of the latents, needed if FUNCTION or the archive maps latents to images itself."""
    trust: bool = False
    """Run the FILE.py:FUNCTION that the file of --config names as the classifier. It can do all that you can do.
    A --classifier needs no --trust, nor does the config.json of a run that you trained here yourself."""

    def run(self) -> None:
        """Train, and print what to do next."""
        run = discover(
            generators.load(self.generator, self.latent_dim).to(self.own_device()),
            self.settings,
            self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=training_progress(),
            guide=() if self.guide is None and self.preset is not None else self.guide,
            keep=self.keep,
            predictor=self.predictor,
            trust=self.trust,
        )
        if not is_follower():
            print(printable(f"trained {run}; next: {_command('report', self.out)}"))


@dataclass(frozen=True)
class TrainVAE(_Training):
    """Train a VAE from scratch on moving images, while potential flows move its latents."""

    data_root: str | None = None
    """Folder with the data set's files, for a data set that needs them."""
    settings: tyro.conf.OmitArgPrefixes[VAEConfig] = field(default_factory=VAEConfig)
    preset: str | None = None
    """Settings for a data set: vae-digits, vae-mnist or vae-dsprites. Options override its settings."""

    def run(self) -> None:
        """Train, and print what it trained on and what to do next."""
        run = train_vae(
            self.settings,
            self.data_root,
            self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=training_progress(),
            device=self.own_device(),
        )
        if not is_follower():
            print(f"trained on {in_one_line(read_record(run.folder)['data']['note'])}")
            print(printable(f"{run}" + (f"; next: {_command('report', self.out)}" if run.config.flows else "")))


def _command(name: str, folder: str) -> str:
    """A command for a run's folder, as one types it."""
    return shlex.join(["fastflow", name, as_argument(folder)])


_CONFIGURED: dict[str, tuple[type[Any], type[Any]]] = {
    "discover": (Discover, DiscoverConfig),
    "train-vae": (TrainVAE, VAEConfig),
}


def training_defaults(arguments: Sequence[str]) -> Discover | TrainVAE | None:
    """The defaults that `--config FILE` or `--preset NAME` sets for the other options, or None without them."""
    if not arguments or arguments[0] not in _CONFIGURED:
        return None
    command, kind = _CONFIGURED[arguments[0]]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--config", "--preset"):
        parser.add_argument(option, nargs="?")  # tyro explains a missing value
    found, _ = parser.parse_known_args(arguments[1:])
    if found.config is not None and found.preset is not None:
        raise InputError("--config and --preset exclude each other: give one of them")
    if found.preset is not None:
        return command(out=tyro.MISSING, settings=preset(found.preset, kind))
    if found.config is not None:
        return command(out=tyro.MISSING, settings=_read_settings(found.config, kind))
    return None


def _read_settings(file: str, kind: type[Any]) -> Any:
    """The configuration in a JSON file, which may be a run's config.json."""
    record = read_json(Path(file), typed=True)
    of_run = isinstance(record, dict) and "config" in record
    values = record["config"] if of_run else record
    if not isinstance(values, dict):
        raise InputError(f"{file!r} must hold a JSON object of settings, got a {type(values).__name__}")
    if of_run:
        values = {**kind.before, **values}
    return from_dict(kind, marked(values, file, record), file)
