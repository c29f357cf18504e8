"""Generators from archives that hold their program: TorchScript and torch.export."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.core.file_kinds import what_it_is
from fastflow.core.files import DAMAGED_ZIP, check_zip
from fastflow.core.plugins import first_line
from fastflow.generators.base import Generator
from fastflow.generators.state_dicts import is_exported, is_torchscript


def archive(
    file: str | Path,
    latent_dim: int,
    value_range: tuple[float, float] = (0.0, 1.0),
    name: str | None = None,
    *,
    output: str | int | None = None,
) -> Generator:
    """A generator from an archive of torch.jit.save or torch.export.save; it maps (B, latent_dim) to (B, C, H, W).

    Export it with a dynamic batch dimension. If it returns several outputs, `output` names the images. An archive can
    run any code, also by pickles in it: load only those that you trust.

    Raises:
        InputError: the file is missing or isn't such an archive, or its program can't be used.
    """
    file = Path(file)
    check_program(file)
    return Generator(_program(file), latent_dim, value_range=value_range, output=output, name=name)


def check_program(file: Path) -> None:
    """Raise InputError unless a file is an archive of torch.jit.save or torch.export.save; nothing in it is run."""
    if not file.is_file():
        raise InputError(f"generator file {str(file)!r} " + ("is a folder" if file.is_dir() else "doesn't exist"))
    try:
        check_zip(file)
        is_program = is_torchscript(file) or is_exported(file)
    except InputError:
        raise
    except DAMAGED_ZIP:
        is_program = False
    if not is_program:
        what = what_it_is(file) or (
            f"if it holds a state dict, name its architecture before it, as in {shlex.quote(f'sngan:{file.name}')}, or "
            "load it in a FILE.py:FUNCTION"
        )
        raise InputError(
            f"generator file {str(file)!r} can't be read as a program of torch.jit.save or torch.export.save: {what}"
        )


class _Exported(nn.Module):
    """An exported program, whose mode can't be switched."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, z: Tensor) -> Tensor:
        return self.program(z)

    def train(self, mode: bool = True) -> _Exported:
        self.training = False
        return self


def _program(file: Path) -> nn.Module:
    """The program in an archive."""
    try:
        if is_torchscript(file):
            with warnings.catch_warnings():  # torch deprecates TorchScript, which the file's owner can't change
                warnings.simplefilter("ignore", DeprecationWarning)
                return torch.jit.load(file, map_location="cpu")
        return _Exported(torch.export.load(file).module())
    except Exception as error:
        raise InputError(
            f"generator file {str(file)!r} can't be read as a program of torch.jit.save or torch.export.save: "
            f"{first_line(error)}"
        ) from error
