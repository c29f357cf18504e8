"""What settings of a VAE with flows do on images that the study never tests on: how its small trainings were chosen.

python -m benchmarks.studies.study_settings --root data/mnist
python -m benchmarks.studies.study_settings --root data/mnist plain flows steps=3000,batch_size=64,latent_dim=32

The first takes the study's own settings for MNIST, the second also what is named. Each line is a training on 7,200 of
the training images, measured on 1,300 others: `plain` without flows along its best straight directions, `flows`
along its flows.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastflow import datasets
from fastflow.datasets import Sequences
from fastflow.metrics import equivariance_error, log_likelihood, straight_directions
from fastflow.runs.train import train_vae
from fastflow.studies.likelihood.variants import SIZES, VARIANTS
from fastflow.training.vae_config import VAEConfig

SIZE = SIZES["small"]
SEED = 10  # none of the study's
TRAINED_ON, MEASURED_ON = 7200, 1300


class Rows:
    """Some of a data set's starting images."""

    def __init__(self, data: Sequences, rows: Tensor) -> None:
        self._data, self._rows = data, rows
        self.name, self.image_shape, self.transformations = data.name, data.image_shape, data.transformations
        self.note = f"{data.note}, {len(rows)} of them"

    def __len__(self) -> int:
        return len(self._rows)

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """See `Sequences`."""
        return self._data.frames(self._rows[rows], transformation, place)


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.study_settings", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--root", required=True, help="the folder of MNIST's files")
    parser.add_argument("cases", nargs="*", default=["plain", "flows"], help="[VARIANT,]SETTING=VALUE,...")
    options = parser.parse_args(arguments)
    base = SIZE.configs["mnist"]
    data = datasets.load("mnist", options.root, "train", base.transformations)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(99))
    train, held_out = (
        Rows(data, part.sort().values) for part in (order[:TRAINED_ON], order[TRAINED_ON : TRAINED_ON + MEASURED_ON])
    )
    configs = [config(base, case) for case in options.cases]
    print(f"{'':40} error of paths  of reconstructions  log p(x)")
    for case, settings in zip(options.cases, configs, strict=True):
        print(f"{case:40} {'  '.join(measured(settings, train, held_out))}", flush=True)


def config(base: VAEConfig, case: str) -> VAEConfig:
    """The settings that a case names; a number of steps brings its schedule along, which falls in their last third."""
    first, *rest = case.split(",")
    variant, changes = ("flows", [first, *rest]) if "=" in first else (first, rest)
    readers = {int: int, float: float, str: str, tuple: lambda value: tuple(map(int, value.split("x")))}
    try:
        settings: dict[str, Any] = dict(VARIANTS[variant].changes)
        for name, value in (change.split("=") for change in changes):
            settings[name] = readers[type(getattr(base, name))](value)
    except (KeyError, AttributeError, ValueError):
        known = "|".join(VARIANTS)
        raise SystemExit(f"a case is [{known},]SETTING=VALUE,..., such as plain,hidden=64x64; got {case!r}") from None
    if "steps" in settings:
        steps = settings["steps"]
        settings["learning_rate_schedule"] = ((int(0.7 * steps), 1.0), (steps, 0.1))
    return replace(base, seed=SEED, **settings)


def measured(settings: VAEConfig, train: Sequences, held_out: Sequences) -> tuple[str, str, str]:
    """The three columns of a training."""
    with tempfile.TemporaryDirectory() as out:
        run = train_vae(settings, out=out, progress=False, data=train, held_out=held_out)
        directions = None if settings.flows else straight_directions(run, train, SIZE.fitted)
        paths = equivariance_error(run, held_out, SIZE.paths, directions=directions)
        rows = torch.arange(SIZE.images)
        places = torch.rand(len(rows), 1, generator=torch.Generator().manual_seed(1))
        images = held_out.frames(rows, rows % len(held_out.transformations), places)[:, 0]
        likelihood = log_likelihood(run.vae, images, SIZE.num_samples // 2).mean
    return f"{paths.error:14.4f}", f"{paths.floor:18.4f}", f"{likelihood:8.1f}"


if __name__ == "__main__":
    main()
