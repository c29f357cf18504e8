"""What the engine's callers may pass for latents, times and potentials, and the checks that say so."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastflow.errors import InputError

Times = float | Tensor | tuple[Tensor, Tensor]
"""One time for all samples, one per sample (B,), or a grid: its distinct times (T,) and each sample's place in it
(B,)."""


def sample_times(t: Times, z: Tensor) -> Tensor:
    """Each sample's time (B,), whichever way the times were given."""
    if isinstance(t, tuple):
        return t[0].to(z)[t[1]]
    return (t.to(z) if isinstance(t, Tensor) else z.new_full((), t)).expand(z.shape[0])


def check_latents(z: Tensor, dim: int, like: Tensor, name: str = "z") -> Tensor:
    """The latents z (B, dim); raise InputError unless they have dtype and device of `like`, and are finite.

    Inside autocast, latents of lower precision are raised to the parameters': derivatives need it.
    """
    if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != dim:
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise InputError(f"{name} must be a tensor of shape (B, {dim}), got {got}")
    if z.device != like.device:
        raise InputError(f"{name} must be on the parameters' device {like.device}, got {z.device}: move one of them")
    if z.is_floating_point() and torch.is_autocast_enabled(z.device.type):
        z = z.to(like.dtype)
    if like.dtype not in (torch.float32, torch.float64):
        raise InputError(f"the parameters must be float32 or float64, got {like.dtype}: derivatives need the precision")
    if z.dtype != like.dtype:
        raise InputError(f"{name} must have the parameters' dtype {like.dtype}, got {z.dtype}: convert one of them")
    # A sum is one pass and finite wherever it matters; only where it isn't, each value is looked at.
    if not _holds(lambda: z.sum().isfinite(), z) and not _holds(lambda: z.isfinite().all(), z):
        raise InputError(f"{name} must be finite, got NaN or infinity")
    return z


def check_samples(z: Tensor) -> Tensor:
    """The latents z; raise InputError if there are none, over which nothing can be averaged."""
    if z.shape[0] == 0:
        raise InputError("z must hold at least one sample to average over, got none")
    return z


def check_index(index: int | Tensor, num_potentials: int, z: Tensor) -> Tensor:
    """Each sample's potential (B,) long; raise InputError unless all lie in [0, num_potentials)."""
    if isinstance(index, int) and not isinstance(index, bool):
        if not 0 <= index < num_potentials:
            raise InputError(f"index must lie in 0..{num_potentials - 1}, got {index}")
        return torch.full(z.shape[:1], index, dtype=torch.long, device=z.device)
    if not isinstance(index, Tensor) or index.dtype != torch.long or index.shape != z.shape[:1]:
        got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise InputError(f"index must be an int or a long tensor of shape ({z.shape[0]},), got {got}")
    if index.device != z.device:
        raise InputError(f"index must be on the latents' device {z.device}, got {index.device}")
    if len(index) and not _holds(lambda: (index.min() >= 0) & (index.max() < num_potentials), index):
        low, high = int(index.min()), int(index.max())
        raise InputError(f"index must lie in 0..{num_potentials - 1}, got values from {low} to {high}")
    return index


def check_laplacian(laplacian: str) -> None:
    """Raise InputError unless `laplacian` names a way to compute it."""
    if laplacian not in ("exact", "hutchinson", "none", "row_sum"):
        raise InputError(f"laplacian must be one of exact, hutchinson, none, row_sum, got {laplacian!r}")


def check_times(t: Times, z: Tensor) -> Times:
    """The times of latents z (B, D), tensors in z's dtype; raise InputError unless they fit."""
    samples = z.shape[0]
    if isinstance(t, tuple):
        grid, place = t
        if not (isinstance(grid, Tensor) and grid.ndim == 1 and len(grid)):
            raise InputError("t as a grid must be a pair (times, place), its times a tensor (T,)")
        if not isinstance(place, Tensor) or place.dtype != torch.long or place.shape != z.shape[:1]:
            raise InputError(f"t as a grid must be a pair (times, place), its place a long tensor ({samples},)")
        if not _holds(lambda: ((place >= 0) & (place < len(grid))).all(), place):
            raise InputError(f"t as a grid of {len(grid)} times must have places in 0..{len(grid) - 1}")
        return _finite_times(grid, z), place
    if isinstance(t, Tensor):
        if t.ndim and t.shape != z.shape[:1]:
            raise InputError(f"t must be a number or have shape ({samples},), got {tuple(t.shape)}")
        return _finite_times(t, z)
    if not isinstance(t, (int, float)):
        raise InputError(f"t must be a number or a tensor of shape ({samples},), got {type(t).__name__}")
    if not math.isfinite(t):
        raise InputError(f"t must be finite, got {t}")
    return t


def draw_probes(z: Tensor, num_probes: int, generator: torch.Generator | None) -> Tensor:
    """Rademacher probes (M, D) for latents z (B, D)."""
    if not isinstance(num_probes, int) or num_probes < 1:
        raise InputError(f"num_probes must be a whole number of at least 1, got {num_probes!r}")
    signs = torch.randint(0, 2, (num_probes, z.shape[1]), generator=generator, device=z.device)
    return (2 * signs - 1).to(z.dtype)


def _holds(condition: Callable[[], Tensor], x: Tensor) -> bool:
    """Whether a condition on x holds, or can't be looked at: on a GPU, in a compiled graph, under vmap."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    try:
        return bool(condition())
    except RuntimeError:  # vmap's word for a value that depends on the slice
        return True


def _finite_times(t: Tensor, z: Tensor) -> Tensor:
    if t.is_complex() or not _holds(lambda: t.isfinite().all(), t):
        raise InputError("t must be real and finite")
    return t.to(z)
