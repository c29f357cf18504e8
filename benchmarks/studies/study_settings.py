"""What settings of a VAE do on images that the study never tests on: how its small trainings were chosen.

python -m benchmarks.studies.study_settings --root data/mnist
python -m benchmarks.studies.study_settings --root data/mnist plain affine companion steps=3000,latent_dim=16
python -m benchmarks.studies.study_settings --data dsprites companion

The first takes the study's own settings for MNIST, the others what is named. Each line is a training on some of the
training images, measured on others.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastflow import datasets
from fastflow.datasets import Sequences
from fastflow.runs.train import train_vae
from fastflow.studies.likelihood.measures import START, measure, pair, sequence
from fastflow.studies.likelihood.variants import SIZES, VARIANTS, falling
from fastflow.training.vae_config import VAEConfig

SIZE = SIZES["small"]
SEED = 10  # none of the study's
MEASURED_ON = 0.15


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
    parser.add_argument("--data", choices=SIZE.configs, default="mnist", help="the data set")
    parser.add_argument("--root", help="the folder of its files")
    parser.add_argument("cases", nargs="*", default=["plain", "companion"], help="[VARIANT,]SETTING=VALUE,...")
    options = parser.parse_args(arguments)
    base = SIZE.configs[options.data]
    data = datasets.load(options.data, options.root, "train", base.transformations, size=SIZE.sides.get(options.data))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(99))
    count = round(MEASURED_ON * len(data))
    train, held_out = (Rows(data, part.sort().values) for part in (order[count:], order[:count]))
    configs = [config(base, case) for case in options.cases]
    print(f"{'':60} {'  '.join(HEADS)}")
    for case, settings in zip(options.cases, configs, strict=True):
        values = measured(settings, train, held_out)
        cells = (f"{value:{len(head)}.{digits}f}" for head, digits, value in zip(HEADS, DIGITS, values, strict=True))
        print(f"{case:60} {'  '.join(cells)}", flush=True)


HEADS = ("log p(x_0)", "x_0, x_T", "x_0..x_T", "error of paths", "of reconstructions", "CPU s", "measuring")
DIGITS = (1, 1, 1, 4, 4, 0, 0)


def config(base: VAEConfig, case: str) -> VAEConfig:
    """The settings that a case names; a number of steps brings its schedule along."""
    first, *rest = case.split(",")
    variant, changes = ("companion", [first, *rest]) if "=" in first else (first, rest)
    readers = {
        bool: {"on": True, "off": False}.__getitem__,
        int: int,
        float: float,
        str: str,
        tuple: lambda value: tuple(map(int, value.split("x"))),
    }
    try:
        settings: dict[str, Any] = dict(VARIANTS[variant].changes)
        for name, value in (change.split("=") for change in changes):
            settings[name] = readers[type(getattr(base, name))](value)
    except (KeyError, AttributeError, ValueError):
        known = "|".join(VARIANTS)
        raise SystemExit(f"a case is [{known},]SETTING=VALUE,..., such as plain,hidden=64x64; got {case!r}") from None
    if "steps" in settings:
        settings["learning_rate_schedule"] = falling(settings["steps"])
    return replace(base, seed=SEED, **settings)


def measured(settings: VAEConfig, train: Sequences, held_out: Sequences) -> tuple[float, ...]:
    """The columns of a training; sequences are NaN where it was one of pairs."""
    last = max(SIZE.lengths)
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        run = train_vae(settings, out=out, progress=False, data=train, held_out=held_out)
        trained = time.process_time()
        found = measure(run, train, held_out, SIZE)
        ended = time.process_time()
    likelihoods = (found[START], found[pair(last)], found.get(sequence(last), float("nan")))
    errors = found["path_error"], found["reconstruction_error"]
    return *likelihoods, *errors, trained - started, ended - trained


if __name__ == "__main__":
    main()
