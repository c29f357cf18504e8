"""What several commands take: a run, starting latents, images to start from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import torch
import tyro

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.core.files import in_one_line
from fastflow.core.plugins import first_line
from fastflow.latents.inversion import Inversion, invert
from fastflow.runs.loading import load_run
from fastflow.runs.run import Run
from fastflow.training.progress import Progress

RunFolder = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FOLDER")]]
"""The type of a field that names the folder of a run, without an option before it."""


class Command(Protocol):
    """A command with its options."""

    def run(self) -> None:
        """Do what the command says."""
        ...


@dataclass(frozen=True)
class RunCommand:
    """The options of every command that loads a run: its folder and its generator."""

    folder: RunFolder
    """Folder of the run."""
    generator: str | None = None
    """Generator that the run was trained on, such as FILE.py:FUNCTION. Needed if its recorded name can't find it."""
    latent_dim: int | None = None
    """Width of the latents, needed if FUNCTION or the archive of --generator maps latents to images itself."""
    trust: bool = False
    """Run the program that the run names as its generator, if it is a FILE.py:FUNCTION or an archive.
    It can do all that you can do. Runs that you trained here yourself need no --trust."""

    def load(self) -> Run:
        """The run."""
        return open_run(self.folder, self.generator, self.latent_dim, trust=self.trust)


def open_run(folder: str, generator: str | None, latent_dim: int | None, *, trust: bool) -> Run:
    """The run in a folder, with the generator that the options name, or else the one that the run itself names."""
    if generator is None and latent_dim is not None:
        raise InputError("--latent-dim is the width of the latents of --generator: give both, or neither")
    return load_run(folder, None if generator is None else generators.load(generator, latent_dim), trust=trust)


LATENTS_SUFFIXES = (".npy", ".npz", ".safetensors")


def read_latents(file: Path, run: Run) -> torch.Tensor:
    """Starting latents (N, D) from a .npy, .npz or .safetensors file with one array.

    Raises:
        InputError: the file can't be read, or doesn't hold finite latents of the run's width.
    """
    if file.suffix not in LATENTS_SUFFIXES:
        raise InputError(f"latents must be a .npy, .npz or .safetensors file, got {str(file)!r}")
    if not file.is_file():
        problem = "isn't a file" if file.exists() else "doesn't exist"
        raise InputError(f"latents file {str(file)!r} can't be read: it {problem}")
    try:
        z0 = _read_array(file)
    except Exception as error:  # a damaged file's header is read as Python, and fails in all of Python's ways
        raise InputError(f"latents file {str(file)!r} can't be read as one array: {first_line(error)}") from error
    width = run.generator.latent_dim
    if z0.ndim != 2 or z0.shape[1] != width or not len(z0):
        raise InputError(f"latents in {str(file)!r} must have shape (N, {width}), got {tuple(z0.shape)}")
    if z0.is_complex():
        raise InputError(f"latents in {str(file)!r} must be real numbers, got {z0.dtype}")
    z0 = z0.to(run.bank.out_bias)
    if not bool(z0.isfinite().all()):
        raise InputError(
            f"latents in {str(file)!r} must be finite in {z0.dtype}, but hold NaN or infinity, or numbers too large"
        )
    return z0


def _read_array(file: Path) -> torch.Tensor:
    """The only array in a file."""
    from safetensors.torch import load_file

    from fastflow.datasets.npy import read_only_array

    if file.suffix == ".safetensors":
        (array,) = load_file(file).values()
        return array
    return torch.from_numpy(read_only_array(file))


def invert_images(run: Run, images: Sequence[str], seed: int) -> Inversion:
    """The latents of image files and folders. For each image, a line is printed that says how well they fit it."""
    inversion = invert(run.generator, images, seed=seed, progress=shows_progress())
    if inversion.note:
        print(f"note: {in_one_line(inversion.note)}", file=sys.stderr)
    print(f"inverted by {inversion.method}; mean absolute error of the pixels, images in [0, 1]:")
    for name, error in zip(inversion.names, inversion.error.tolist(), strict=True):
        print(f"  {error:.4f}  {in_one_line(name)}")
    return inversion


def shows_progress() -> bool:
    """Whether to show progress bars: only in a terminal, as they would clutter a log."""
    return sys.stderr.isatty()


def training_progress() -> Progress:
    """How trainings show their progress: by a bar in a terminal, and by a line now and then in a log."""
    return True if shows_progress() else "lines"
