"""Which way gives a generator's rate of change with its gradients: the first one that agrees with differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from typing_extensions import override

from fastflow.core.plugins import first_line
from fastflow.generators.change import Decode, Way, generator_change

EXACT = (Way.FORWARD, Way.ELEMENTARY, Way.REVERSE)


class Rate(NamedTuple):
    """A rate of change J v, and the gradients of the sum of w times it."""

    change: Tensor
    """(B, C, H, W)"""
    z_gradient: Tensor
    """(B, D)"""
    direction_gradient: Tensor
    """(B, D)"""


def right_way(decode: Decode, z: Tensor) -> tuple[Way, str]:
    """The way of `generator_change` to take for `decode` at latents z (2, D), and why forward mode isn't (or "").

    A training uses the rate of change J v and gradients through it with respect to z and v. Each way's are compared
    with differences of images, and of J v: of a copy in float64 where there is one, so that a small error is found.
    """
    rng = torch.Generator().manual_seed(0)
    v, p = (torch.randn(z.shape, generator=rng, device="cpu").to(z) for _ in range(2))
    with torch.no_grad():
        images = decode(z)
    w = torch.randn(images.shape, generator=rng, device="cpu").to(images)
    checks = _Checks(decode, z, v, p, w)
    in_double = _in_double(decode, z, images)
    reason = ""
    for way in EXACT:
        try:
            if in_double is not None:
                double = _Checks(in_double, z.double(), v.double(), p.double(), w.double())
                problem = double.problem_against_differences(way) or checks.problem_against(double.rate(way), way)
            else:
                problem = checks.problem_against_differences(way)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a user's code or operator raises
            problem = f"failed ({first_line(error)})"
        if not problem:
            return way, reason
        reason = reason or problem
    with suppress(Exception):  # a training will raise it
        reason += checks.problem_of_the_gradient()
    return Way.DIFFERENCES, reason


class _Checks:
    """A map at latents z (B, D), along v and p (B, D), and for images weighed by w (B, C, H, W)."""

    def __init__(self, decode: Decode, z: Tensor, v: Tensor, p: Tensor, w: Tensor) -> None:
        self.decode, self.z, self.v, self.p, self.w = decode, z, v, p, w
        with torch.no_grad():
            # What is smaller is rounding, as where images don't depend on z at all.
            self._least = 1e3 * torch.finfo(z.dtype).eps * float(decode(z).norm())
        # A corner between two points, as ReLU has them, makes a difference wrong: the smaller the steps, the rarer.
        self._steps = (1e-5, 1e-6, 1e-7, 1e-8) if z.dtype == torch.float64 else (1e-2, 3e-3, 1e-3)

    def rate(self, way: Way) -> Rate:
        """As a training computes it, whose backward runs outside of all contexts."""
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in (self.z, self.v)]
            _, change = generator_change(self.decode, *leaves, forward_mode=way)
            if change.requires_grad:
                gradients = torch.autograd.grad((self.w * change).sum(), leaves, materialize_grads=True)
            else:
                gradients = [torch.zeros_like(x) for x in leaves]
        return Rate(change.detach(), *gradients)

    def problem_against_differences(self, way: Way) -> str:
        """What is wrong with a way, by differences in the latents' own dtype; empty if nothing is."""
        steps, tolerance = self._steps, 1e-4 if self.z.dtype == torch.float64 else 3e-2
        rate = self.rate(way)

        def weighed_change(x: Tensor) -> Tensor:
            change = generator_change(self.decode, x, self.v, forward_mode=way)[1].detach()
            return (self.w * change).flatten(1).double().sum(1)

        problem = _disagreement(
            "its rate of change", rate.change, self._differences(self.decode, self.v, steps), tolerance, 0.0
        ) or _disagreement(
            "its gradient",
            (rate.direction_gradient * self.p).sum(1),
            ((self.w * x).flatten(1).sum(1) for x in self._differences(self.decode, self.p, steps)),
            tolerance,
            1e-2 * float(rate.direction_gradient.norm()),
        )
        size = float(rate.z_gradient.norm())
        least = size + 1e-2 * float(rate.direction_gradient.norm())
        along = rate.z_gradient * (float(self.p.norm()) / size if size else 0.0)
        for direction in (self.p, along):
            problem = problem or _disagreement(
                "the gradient of its rate of change",
                (rate.z_gradient * direction).sum(1),
                self._differences(weighed_change, direction, steps),
                tolerance,
                least,
            )
        return problem

    def problem_of_the_gradient(self) -> str:
        """What is wrong with the gradient that a difference passes on to its direction; empty if nothing is."""
        found = (self.rate(Way.DIFFERENCES).direction_gradient * self.p).sum(1)
        estimates = ((self.w * x).flatten(1).sum(1) for x in self._differences(self.decode, self.p, self._steps))
        problem = _disagreement("autograd's gradient", found, estimates, 0.1, 0.0)
        return f", and even its first derivative {problem}" if problem else ""

    def problem_against(self, expected: Rate, way: Way) -> str:
        """What is wrong with a way, by a rate that is right; empty if nothing is."""
        found = self.rate(way)
        parts = ("its rate of change", "the gradient of its rate of change", "its gradient")
        for part, got, right in zip(parts, found, expected, strict=True):
            least = self._least
            if got is not found.change:
                least = max(
                    1e-2 * float(expected.direction_gradient.norm()),
                    least * float(self.w.norm()) / float(self.v.norm()),
                )
            if problem := _disagreement(part, got.double(), iter((right, right)), 0.1, least):
                return problem
        return ""

    @torch.no_grad()
    def _differences(
        self, function: Callable[[Tensor], Tensor], direction: Tensor, steps: Sequence[float]
    ) -> Iterator[Tensor]:
        reach = max(1.0, float(self.z.square().mean().sqrt()))
        for step in steps:
            h = step * reach
            yield (function(self.z + h * direction) - function(self.z - h * direction)) / (2 * h)


def _disagreement(what: str, found: Tensor, estimates: Iterator[Tensor], tolerance: float, least: float) -> str:
    """How far a value is from all of its estimates, if two of these agree with each other; empty if it isn't."""
    before, errors, reliable = None, [], False
    for estimate in estimates:
        errors.append(_distance(found, estimate, least))
        if errors[-1] <= tolerance:
            return ""
        # Where a difference is zero at every step, the images have steps themselves, and nothing follows.
        reliable = reliable or (
            before is not None and _distance(before, estimate, least) <= tolerance and bool((estimate != 0).any())
        )
        before = estimate
    return f"is wrong ({what} is off by {min(errors):.1%})" if reliable or not math.isfinite(min(errors)) else ""


def _distance(a: Tensor, b: Tensor, least: float) -> float:
    size = max(float(a.norm()), float(b.norm()), least)
    return float((a - b).norm()) / size if size else 0.0


def _in_double(decode: Decode, z: Tensor, images: Tensor) -> Decode | None:
    """The same map in float64, if there is one: as it is with all it computes raised, or a copy of its module."""
    if z.dtype == torch.float64:
        return None
    for make in (_raised, _copied):
        with suppress(Exception), torch.enable_grad():  # whatever a user's code raises where it meets another dtype
            double, x = make(decode), z.double().requires_grad_()
            again = double(x)
            torch.autograd.grad(again.sum(), x)  # a checkpoint computes anew, where nothing is raised any more
            if again.dtype == torch.float64 and _distance(again.detach(), images.double(), 0.0) < 1e-2:
                return double
    return None


def _raised(decode: Decode) -> Decode:
    def raised(z: Tensor) -> Tensor:
        with _Double():
            return decode(z)

    return raised


def _copied(decode: Decode) -> Decode:
    """The map with a copy of its module in float64; a TypeError if it is neither a module nor a method of one."""
    owner = decode if isinstance(decode, nn.Module) else getattr(decode, "__self__", None)
    if not isinstance(owner, nn.Module):
        raise TypeError("not a module")
    copied = copy.deepcopy(owner).double()
    return copied if owner is decode else getattr(copied, str(getattr(decode, "__name__", "")))


class _Double(TorchFunctionMode):
    """Inside this context torch's functions compute in float64, whatever the dtype of weights and constants."""

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func = torch.Tensor.double if func in _CONVERSIONS else func
        return tree_map(_doubled, func(*tree_map(_doubled, tuple(args)), **tree_map(_doubled, kwargs or {})))


_LOWER = (torch.float32, torch.float16, torch.bfloat16)
_CONVERSIONS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


def _doubled(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.to(torch.float64) if x.dtype in _LOWER else x
    return torch.float64 if isinstance(x, torch.dtype) and x in _LOWER else x
