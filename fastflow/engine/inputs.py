"""What the engine's callers may pass for latents, times and potentials, and what it is once it has been checked.

The public functions check once, and build `Samples`. What they call takes these and checks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import UninitializedParameter

from fastflow.core.checks import check_count, is_finite
from fastflow.core.errors import InputError
from fastflow.core.forks import use_one_thread_if_forked
from fastflow.engine.integration import Integration
from fastflow.engine.tracing import values_of

Times = float | Tensor | tuple[Tensor, Tensor]
"""One time for all samples, one per sample (B,), or a grid: its distinct times (T,) and each sample's place in it
(B,)."""


class Time(NamedTuple):
    """The samples' times, checked, of the latents' dtype and device.

    values: distinct times (T,), and `place` (B,) long is each sample's place in them; or, where `place` is None, each
    sample's own time (B,).
    """

    values: Tensor
    place: Tensor | None

    def of_each(self) -> Tensor:
        """Each sample's time (B,)."""
        if self.place is None:
            return self.values
        return self.values.expand(self.place.shape) if self.values.shape[0] == 1 else self.values[self.place]


class Index(NamedTuple):
    """The samples' potentials, checked.

    each: each sample's potential (B,) long. one: the potential if the caller gave one for all, otherwise None.
    """

    each: Tensor
    one: int | None


class Samples(NamedTuple):
    """Latents z (B, D) with their times and potentials, checked."""

    z: Tensor
    time: Time
    potential: Index

    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """What has a row for each sample where each has a time of its own: z, the times and the potentials."""
        return self.z, self.time.values, self.potential.each

    def with_columns(self, z: Tensor, times: Tensor, each: Tensor) -> Samples:
        """Other samples of the same kind, in the order of `columns`."""
        return Samples(z, Time(times, self.time.place), Index(each, self.potential.one))


def check_latents(z: Tensor, dim: int, like: Tensor, name: str = "z") -> Tensor:
    """The latents z (B, dim); raise InputError unless they have dtype and device of `like`, and are finite.

    Inside autocast, latents of lower precision are raised to the parameters': derivatives need it.
    """
    use_one_thread_if_forked()
    if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != dim:
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise InputError(f"{name} must be a tensor of shape (B, {dim}), got {got}")
    _check_dense(z, name)
    if z.device != like.device:
        raise InputError(f"{name} must be on the parameters' device {like.device}, got {z.device}: move one of them")
    if like.dtype not in (torch.float32, torch.float64):
        raise InputError(f"the parameters must be float32 or float64, got {like.dtype}: derivatives need the precision")
    raised = z.is_floating_point() and torch.promote_types(z.dtype, like.dtype) == like.dtype
    if raised and torch.is_autocast_enabled(z.device.type):
        z = z.to(like.dtype)
    if z.dtype != like.dtype:
        raise InputError(f"{name} must have the parameters' dtype {like.dtype}, got {z.dtype}: convert one of them")
    if not _all_finite(z):
        raise InputError(f"{name} must be finite, got NaN or infinity")
    return z


def check_parameters(parameters: Iterable[tuple[str, Tensor]]) -> Tensor:
    """The first of these named parameters; raise InputError unless all have values, its dtype and its device."""
    first = None
    for name, parameter in parameters:
        if isinstance(parameter, UninitializedParameter):
            raise InputError(f"parameter {name} isn't initialised: call the network once before")
        if first is None:
            first = name, parameter
        like = first[1]
        if parameter.dtype != like.dtype or parameter.device != like.device:
            raise InputError(
                f"all parameters must have one dtype and device: {first[0]} is {like.dtype} on {like.device}, {name} "
                f"is {parameter.dtype} on {parameter.device}"
            )
    if first is None:
        raise InputError("net must have parameters, got none")
    return first[1]


def check_not_empty(z: Tensor) -> None:
    """Raise InputError if there are no latents z, over which nothing can be averaged."""
    if z.shape[0] == 0:
        raise InputError("z must hold at least one sample to average over, got none")


def check_index(index: int | Tensor, num_potentials: int, z: Tensor) -> Index:
    """The potentials of latents z (B, D); raise InputError unless all lie in [0, num_potentials)."""
    if isinstance(index, int) and not isinstance(index, bool):
        if not 0 <= index < num_potentials:
            raise InputError(f"index must lie in 0..{num_potentials - 1}, got {index}")
        return Index(torch.full(z.shape[:1], index, dtype=torch.long, device=z.device), index)
    if not isinstance(index, Tensor) or index.dtype != torch.long or index.shape != z.shape[:1]:
        got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise InputError(f"index must be an int or a long tensor of shape ({z.shape[0]},), got {got}")
    _check_dense(index, "index")
    if index.device != z.device:
        raise InputError(f"index must be on the latents' device {z.device}, got {index.device}")
    _check_range(index, num_potentials, "index")
    return Index(index, None)


def check_laplacian(laplacian: str) -> None:
    """Raise InputError unless `laplacian` names a way to compute it."""
    if laplacian not in ("exact", "hutchinson", "none", "row_sum"):
        raise InputError(f"laplacian must be one of exact, hutchinson, none, row_sum, got {laplacian!r}")


def check_with_u_tt(with_u_tt: bool) -> None:
    """Raise InputError unless it is True or False."""
    if not isinstance(with_u_tt, bool):
        raise InputError(f"with_u_tt must be True or False, got {with_u_tt!r}")


def check_time(t: Times, z: Tensor) -> Time:
    """The times of latents z (B, D); raise InputError unless they fit."""
    samples = z.shape[0]
    if isinstance(t, tuple):
        if len(t) != 2 or not (isinstance(t[0], Tensor) and t[0].ndim == 1 and t[0].shape[0]):
            raise InputError("t as a grid must be a pair (times, place), its times a tensor (T,)")
        grid, place = t
        if not isinstance(place, Tensor) or place.dtype != torch.long or place.shape != z.shape[:1]:
            raise InputError(f"t as a grid must be a pair (times, place), its place a long tensor ({samples},)")
        _check_dense(place, "t's places in its grid")
        if place.device != z.device:
            raise InputError(f"t as a grid must have its place on the latents' device {z.device}, got {place.device}")
        _check_range(place, grid.shape[0], "t's places in its grid")
        return Time(_finite_times(grid, z), place)
    if isinstance(t, Tensor):
        if t.ndim and t.shape != z.shape[:1]:
            raise InputError(f"t must be a number or have shape ({samples},), got {tuple(t.shape)}")
        times = _finite_times(t, z)
        return Time(times, None) if t.ndim else _one_time(times.reshape(1), z)
    if not isinstance(t, (int, float)) or isinstance(t, bool):
        raise InputError(f"t must be a number or a tensor of shape ({samples},), got {type(t).__name__}")
    if not is_finite(t, z.dtype):
        raise InputError(f"t must be finite, and no larger than {z.dtype} can be")
    return _one_time(torch.zeros(1, dtype=z.dtype, device=z.device) + t, z)  # an addition, traced for any number


def check_integration(integration: Integration, t0: float, dtype: torch.dtype) -> None:
    """Raise InputError unless paths of latents of this dtype can be integrated so, from the time t0 on."""
    dt, method, direction, step_length = integration
    if direction not in ("forward", "descent", "reverse"):
        raise InputError(f"direction must be one of forward, descent, reverse, got {direction!r}")
    if method not in ("euler", "heun", "rk4"):
        raise InputError(f"method must be one of euler, heun, rk4, got {method!r}")
    for name, value in (("t0", t0), ("dt", dt)):
        if not is_finite(value, dtype):
            raise InputError(f"{name} must be a finite number, got {value!r}")
    if step_length is not None and not (is_finite(step_length, dtype) and step_length > 0):
        raise InputError(f"step_length must be a positive number or None, got {step_length!r}")
    if step_length is not None and step_length < torch.finfo(dtype).tiny:
        raise InputError(f"step_length must be at least {torch.finfo(dtype).tiny} in {dtype}, got {step_length!r}")


def draw_probes(z: Tensor, num_probes: int, generator: torch.Generator | None) -> Tensor:
    """Rademacher probes (M, D) for latents z (B, D)."""
    check_count(num_probes, "num_probes")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InputError(f"generator must be a torch.Generator or None, got {generator!r}")
    signs = torch.randint(0, 2, (num_probes, z.shape[1]), generator=generator, device=z.device)
    return (2 * signs - 1).to(z.dtype)


def _one_time(t: Tensor, z: Tensor) -> Time:
    return Time(t, torch.zeros(z.shape[:1], dtype=torch.long, device=z.device))


def _seen(x: Tensor) -> Tensor | None:
    """The values of x, or None where they can't be looked at: on a GPU, or while they are being traced."""
    return values_of(x) if x.device.type == "cpu" else None


def _check_dense(x: Tensor, name: str) -> None:
    if x.layout != torch.strided:
        raise InputError(f"{name} must be a dense tensor, got one of layout {x.layout}: call to_dense() on it")


def _all_finite(x: Tensor) -> bool:
    values = _seen(x)
    # A sum is one pass and finite wherever it matters; only where it isn't, each value is looked at.
    return values is None or isfinite(values.sum().item()) or bool(values.isfinite().all())


def _check_range(indices: Tensor, count: int, name: str) -> None:
    values = _seen(indices)
    if values is not None and values.numel():
        low, high = (int(bound) for bound in values.aminmax())
        if low < 0 or high >= count:
            raise InputError(f"{name} must lie in 0..{count - 1}, got values from {low} to {high}")


def _finite_times(t: Tensor, z: Tensor) -> Tensor:
    _check_dense(t, "t")
    if t.device != z.device and t.device.type != "cpu":
        raise InputError(f"t must be on the CPU or the latents' device {z.device}, got {t.device}")
    t = t if t.is_complex() else t.to(z.dtype)
    if t.is_complex() or not _all_finite(t):
        raise InputError("t must be real and finite")
    return t.to(z.device)
