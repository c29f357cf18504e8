"""What commands share: the run they look at, starting latents and images, and whether to show progress."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import tyro

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.core.plugins import first_line
from fastflow.latents.inversion import Inversion, invert
from fastflow.runs.loading import load_run
from fastflow.runs.run import Run


class Command(Protocol):
    """A parsed command."""

    def run(self) -> None:
        """Do it."""
        ...


@dataclass(frozen=True)
class OfRun:
    """What the commands that look at a run share: which it is, and its generator."""

    folder: tyro.conf.Positional[str]
    """The run's folder."""
    generator: str | None = None
    """The generator that the run was trained on, such as FILE.py:FUNCTION, where its name doesn't find it again."""
    latent_dim: int | None = None
    """The latents' width, where FUNCTION or an archive maps latents to images itself."""

    def load(self) -> Run:
        """The run."""
        if self.generator is None and self.latent_dim is not None:
            raise InputError("--latent-dim is the width of a --generator's latents: give both")
        return load_run(
            self.folder, None if self.generator is None else generators.load(self.generator, self.latent_dim)
        )


LATENTS_SUFFIXES = (".npy", ".npz", ".safetensors")


def inverted(run: Run, images: Sequence[str], seed: int) -> Inversion:
    """The latents of image files and folders, and a line about each of how well they were found."""
    found = invert(run.generator, images, seed=seed, progress=watched())
    if found.note:
        print(f"note: {found.note}", file=sys.stderr)
    print(f"inverted by {found.method}; mean absolute error of the pixels, images in [0, 1]:")
    for name, error in zip(found.names, found.error.tolist(), strict=True):
        print(f"  {error:.4f}  {name}")
    return found


def read_latents(file: Path, run: Run) -> torch.Tensor:
    """Starting latents (N, D) from a .npy, .npz or .safetensors file with one array.

    Raises:
        InputError: it can't be read, or doesn't hold finite latents of the run's width.
    """
    import numpy as np
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            (z0,) = load_file(file).values()
        elif file.suffix == ".npz":
            # Opened here, as NumPy would leave a damaged archive open.
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                (z0,) = (torch.from_numpy(archive[name]) for name in archive.files)
        elif file.suffix == ".npy":
            z0 = torch.from_numpy(np.load(file, allow_pickle=False))
        else:
            raise InputError(f"latents must be a .npy, .npz or .safetensors file, got {str(file)!r}")
    except InputError:
        raise
    except Exception as error:  # NumPy reads a header as Python, and fails at a broken one in all of Python's ways
        raise InputError(f"latents file {str(file)!r} can't be read as one array: {first_line(error)}") from error
    width = run.generator.latent_dim
    if z0.ndim != 2 or z0.shape[1] != width or not len(z0):
        raise InputError(f"latents in {str(file)!r} must have shape (N, {width}), got {tuple(z0.shape)}")
    if z0.is_complex():
        raise InputError(f"latents in {str(file)!r} must be real numbers, got {z0.dtype}")
    z0 = z0.to(run.bank.out_bias)
    if not bool(z0.isfinite().all()):
        raise InputError(f"latents in {str(file)!r} hold NaN or infinity, or numbers too large for {z0.dtype}")
    return z0


def watched() -> bool:
    """Whether somebody sees a progress bar; in a log it would only be in the way."""
    return sys.stderr.isatty()
