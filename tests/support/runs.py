"""Runs small enough to be trained within a test."""

import json
from pathlib import Path

import torch

from fastflow import generators
from fastflow.runs.train import discover
from fastflow.training.flow_config import DiscoverConfig

SMALL = {
    "num_potentials": 3,
    "steps": 6,
    "batch_size": 12,
    "hidden": (8,),
    "path_steps": 3,
    "log_every": 2,
    "checkpoint_every": 3,
}

# A generator that anybody might have: a plain function, here from a fixed random matrix to 1 x 6 x 6 images.
WEIGHT = torch.randn(4, 36, generator=torch.Generator().manual_seed(0))


def sigmoid_images(z):
    return torch.sigmoid(z @ WEIGHT.to(z)).unflatten(1, (1, 6, 6))


def sigmoid_generator(**options):
    return generators.from_callable(sigmoid_images, 4, **options)


def small_config(**changes):
    return DiscoverConfig(**{**SMALL, **changes})


def small_run(folder, generator=None, *, resume=False, overwrite=False, options=None, **changes):
    generator = sigmoid_generator() if generator is None else generator
    config = small_config(**changes)
    return discover(generator, config, folder, resume=resume, overwrite=overwrite, progress=False, **(options or {}))


def options(**changes):
    """Command line options that spell a small configuration."""
    words = []
    for name, value in {**SMALL, **changes}.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def weights(run):
    return {**run.bank.state_dict(), **{f"pde.{name}": value for name, value in run.pde.state_dict().items()}}


def saved(folder, step, file="weights.safetensors"):
    return (Path(folder) / "checkpoints" / f"step-{step:06d}" / file).read_bytes()


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def contents(folder):
    """Every file under a folder by its path, hidden ones too."""
    folder = Path(folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
