"""The physical equations a potential is held to, as functions of its jet.

An equation's residual is a sum of terms, r = sum_i term_i, and it is normalised by E[sum_i term_i^2]. Write your own by
subclassing `PDE` with `terms`, or pass any callable of a jet, which then has no normalised residual.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import override

from fastflow.core.errors import InputError
from fastflow.engine.types import Jet

Field = Callable[[Tensor | None, Tensor | None, Tensor | None], Tensor]
"""A function of latents (B, D), times (B,) and potential indices (B,) with values (B,)."""


class PDE(nn.Module, ABC):
    """An equation whose residual is the sum of its terms."""

    equation: str

    @abstractmethod
    def terms(
        self, jet: Jet, z: Tensor | None = None, t: Tensor | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The summands of the residual, each (B,), at latents z (B, D), times t (B,) and potentials index (B,)."""

    def forward(
        self, jet: Jet, z: Tensor | None = None, t: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """The residual (B,). z, t and index matter only to equations with fields, or with constants per potential."""
        return _total(self.terms(jet, z, t, index))

    def constants(self) -> dict[str, Tensor]:
        """The equation's constants by name, each of shape () or (K,), those of constant fields among them."""
        owners = (self, *(child for child in self.children() if isinstance(child, ConstantField)))
        return {name: value.detach() for owner in owners for name, value in owner.named_parameters(recurse=False)}


class LinearQuadratic(PDE):
    """r = c0 u + c1 u_t + c2 u_tt + c3 lap + c4 |grad|^2 + source: the family that kernels fuse.

    Subclasses define `coefficients`, and `source` where they have one.
    """

    @abstractmethod
    def coefficients(self) -> Tensor:
        """(c0, c1, c2, c3, c4) as (5,), or (K, 5) where they differ between potentials."""

    has_source = False

    def source(self, z: Tensor | None, t: Tensor | None, index: Tensor | None) -> Tensor | None:
        """The term that doesn't depend on the potential, () or (B,); None where `has_source` is false."""
        return None

    @override
    def terms(
        self, jet: Jet, z: Tensor | None = None, t: Tensor | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        c = _per_sample(self.coefficients().to(jet.u), index).unbind(-1)  # each () or (B,)
        scalars = [jet.u, jet.u_t, jet.u_tt, (jet.grad**2).sum(1)]
        if jet.laplacian.ndim == 2:  # row sums: the residual is a vector per sample
            c = [ci[..., None] for ci in c]
            scalars = [scalar[:, None] for scalar in scalars]
        u, u_t, u_tt, kinetic = scalars
        terms = (c[0] * u, c[1] * u_t, c[2] * u_tt, c[3] * jet.laplacian, c[4] * kinetic)
        source = source_at(self, jet.u, z, t, index)
        return terms if source is None else (*terms, source.view_as(u))


class Wave(LinearQuadratic):
    """u_tt - c^2 lap. The equation of Song et al. (ICML 2023)."""

    equation = "u_tt - c^2 lap"
    c: Tensor

    def __init__(self, c: float | Tensor = 1.0, *, num_potentials: int | None = None, learnable: bool = False) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, c=c)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(u_tt=1.0, laplacian=-(self.c**2))


class DampedWave(LinearQuadratic):
    """u_tt + gamma u_t - c^2 lap."""

    equation = "u_tt + gamma u_t - c^2 lap"
    c: Tensor
    gamma: Tensor

    def __init__(
        self,
        c: float | Tensor = 1.0,
        gamma: float | Tensor = 0.1,
        *,
        num_potentials: int | None = None,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, c=c, gamma=gamma)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(u_tt=1.0, u_t=self.gamma, laplacian=-(self.c**2))


class KleinGordon(LinearQuadratic):
    """u_tt - c^2 lap + m^2 u."""

    equation = "u_tt - c^2 lap + m^2 u"
    c: Tensor
    m: Tensor

    def __init__(
        self,
        c: float | Tensor = 1.0,
        m: float | Tensor = 1.0,
        *,
        num_potentials: int | None = None,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, c=c, m=m)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(u_tt=1.0, laplacian=-(self.c**2), u=self.m**2)


class Heat(LinearQuadratic):
    """u_t - kappa lap."""

    equation = "u_t - kappa lap"
    kappa: Tensor

    def __init__(
        self, kappa: float | Tensor = 1.0, *, num_potentials: int | None = None, learnable: bool = False
    ) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, kappa=kappa)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(u_t=1.0, laplacian=-self.kappa)


class HamiltonJacobi(LinearQuadratic):
    """u_t + |grad|^2 / 2 + f^2 (Song et al., Flow Factorized Representation Learning, NeurIPS 2023).

    Args:
        f: a number, one per potential, a field of (z, t, index), or None for the equation without force.
    """

    equation = "u_t + |grad|^2 / 2 + f^2"
    _one: Tensor  # a coefficient where the module is, so that no step copies one there

    def __init__(
        self, f: float | Tensor | Field | None = None, *, num_potentials: int | None = None, learnable: bool = False
    ) -> None:
        super().__init__()
        self.has_source = f is not None
        self.force = None if f is None else _as_field(f, num_potentials, learnable)
        self.register_buffer("_one", torch.ones((), dtype=torch.float64), persistent=False)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(u_t=self._one, kinetic=0.5)

    @override
    def source(self, z: Tensor | None, t: Tensor | None, index: Tensor | None) -> Tensor | None:
        return None if self.force is None else self.force(z, t, index) ** 2


class ViscousHamiltonJacobi(LinearQuadratic):
    """u_t + |grad|^2 / 2 - nu lap."""

    equation = "u_t + |grad|^2 / 2 - nu lap"
    nu: Tensor

    def __init__(self, nu: float | Tensor = 0.1, *, num_potentials: int | None = None, learnable: bool = False) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, nu=nu)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(u_t=1.0, kinetic=0.5, laplacian=-self.nu)


class Helmholtz(LinearQuadratic):
    """lap + k^2 u."""

    equation = "lap + k^2 u"
    k: Tensor

    def __init__(self, k: float | Tensor = 1.0, *, num_potentials: int | None = None, learnable: bool = False) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, k=k)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(laplacian=1.0, u=self.k**2)


class Poisson(LinearQuadratic):
    """lap - f.

    Args:
        f: a number, one per potential, or a field of (z, t, index).
    """

    equation = "lap - f"
    _one: Tensor
    has_source = True

    def __init__(
        self, f: float | Tensor | Field = 0.0, *, num_potentials: int | None = None, learnable: bool = False
    ) -> None:
        super().__init__()
        self.density = _as_field(f, num_potentials, learnable)
        self.register_buffer("_one", torch.ones((), dtype=torch.float64), persistent=False)

    @override
    def coefficients(self) -> Tensor:
        return _coefficients(laplacian=self._one)

    @override
    def source(self, z: Tensor | None, t: Tensor | None, index: Tensor | None) -> Tensor | None:
        return -self.density(z, t, index)


class PorousMedium(PDE):
    """u_t - lap(u^m) = u_t - m u^(m-1) lap - m (m-1) u^(m-2) |grad|^2. Needs u > 0 unless m is a whole number."""

    equation = "u_t - lap(u^m)"

    def __init__(self, m: float = 2.0) -> None:
        super().__init__()
        if not m >= 1:
            raise InputError(f"m must be at least 1, got {m!r}")
        self.m = float(m)

    @override
    def terms(
        self, jet: Jet, z: Tensor | None = None, t: Tensor | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        m = self.m
        if m == 1:  # the heat equation; the last term's 0 * u^-1 would be NaN at u = 0
            return jet.u_t, -jet.laplacian
        kinetic = (jet.grad**2).sum(1)
        return jet.u_t, -m * jet.u ** (m - 1) * jet.laplacian, -m * (m - 1) * jet.u ** (m - 2) * kinetic


class ConstantField(nn.Module):
    """A field that has the same value everywhere, or one per potential."""

    f: Tensor

    def __init__(self, f: float | Tensor, num_potentials: int | None, learnable: bool) -> None:
        super().__init__()
        _add_constants(self, num_potentials, learnable, f=f)

    def forward(self, z: Tensor | None, t: Tensor | None, index: Tensor | None) -> Tensor:
        """The value, () or (B,)."""
        return _per_sample(self.f[..., None], index)[..., 0]


EQUATIONS: dict[str, type[PDE]] = {
    "wave": Wave,
    "damped-wave": DampedWave,
    "klein-gordon": KleinGordon,
    "heat": Heat,
    "hamilton-jacobi": HamiltonJacobi,
    "viscous-hamilton-jacobi": ViscousHamiltonJacobi,
    "helmholtz": Helmholtz,
    "poisson": Poisson,
    "porous-medium": PorousMedium,
}
"""The equations by the names that configurations use."""


def source_at(
    pde: LinearQuadratic, like: Tensor, z: Tensor | None, t: Tensor | None, index: Tensor | None
) -> Tensor | None:
    """The equation's source at each sample, of the shape (B,), dtype and device of `like`."""
    source = pde.source(z, t, index)
    if source is None:
        return None
    if not isinstance(source, Tensor) or source.shape not in (torch.Size(), like.shape):
        got = f"shape {tuple(source.shape)}" if isinstance(source, Tensor) else type(source).__name__
        raise InputError(
            f"the field of {type(pde).__name__} must give a tensor with one value per sample, shape "
            f"{tuple(like.shape)}, or one for all, shape (), got {got}"
        )
    return source.to(like).expand_as(like)


def residual(pde: PDE | Callable[[Jet], Tensor], jet: Jet, z: Tensor, t: Tensor, index: Tensor) -> Tensor:
    """The residual (B,) of an equation, or of any callable of a jet."""
    if isinstance(pde, type) or not callable(pde):
        raise InputError(f"pde must be an equation such as ff.pde.Wave(), or a function of a jet, got {pde!r}")
    r = pde(jet, z, t, index) if isinstance(pde, PDE) else pde(jet)
    if not isinstance(r, Tensor) or r.shape[:1] != jet.u.shape:
        got = tuple(r.shape) if isinstance(r, Tensor) else type(r).__name__
        raise InputError(f"pde must give one residual per sample, shape {tuple(jet.u.shape)}, got {got}")
    return r


def residual_sums(pde: PDE, jet: Jet, z: Tensor, t: Tensor, index: Tensor, num_potentials: int) -> Tensor:
    """Sums over each potential's samples, (2, K): of r^2, and of the terms' squares.

    Under row sums in place of the Laplacian, r is a vector for each sample, and the squares are its components' mean.
    """
    like = jet.laplacian if jet.laplacian.ndim == 2 else jet.u
    terms = [term.expand_as(like) for term in pde.terms(jet, z, t, index)]
    squared = torch.stack(terms).sum(0).square()
    scale = torch.stack([term.square() for term in terms]).sum(0)
    if like.ndim == 2:
        squared, scale = squared.mean(1), scale.mean(1)
    return torch.stack([jet.u.new_zeros(num_potentials).index_add(0, index, values) for values in (squared, scale)])


def normalized(sums: Tensor) -> Tensor:
    """E[r^2] / E[sum of the terms' squares] from sums (2, ...): 1 where the terms know nothing of one another."""
    # A potential without terms, or without samples, has no residual either.
    return sums[0] / sums[1].clamp_min(torch.finfo(sums.dtype).tiny)


def _total(terms: tuple[Tensor, ...]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _add_constants(module: nn.Module, num_potentials: int | None, learnable: bool, **values: float | Tensor) -> None:
    if num_potentials is not None and (not isinstance(num_potentials, int) or num_potentials < 1):
        raise InputError(f"num_potentials must be a whole number of at least 1 or None, got {num_potentials!r}")
    for name, value in values.items():
        message = f"{name} must be a finite number or one per potential, got {value!r}"
        try:
            # In float64 whatever the potentials' dtype: rounding a constant would make another equation of it.
            tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(message) from error
        if tensor.ndim > 1 or tensor.numel() == 0 or not bool(tensor.isfinite().all()):
            raise InputError(message)
        if num_potentials is not None:
            if tensor.ndim == 1 and tensor.shape[0] != num_potentials:
                raise InputError(f"{name} has {tensor.shape[0]} values for {num_potentials} potentials")
            tensor = tensor.expand(num_potentials).clone()
        module.register_parameter(name, nn.Parameter(tensor, requires_grad=learnable))


def _coefficients(
    u: float | Tensor = 0.0,
    u_t: float | Tensor = 0.0,
    u_tt: float | Tensor = 0.0,
    laplacian: float | Tensor = 0.0,
    kinetic: float | Tensor = 0.0,
) -> Tensor:
    """The given coefficients, at least one a tensor, side by side: (5,), or (K, 5) where one differs by potential."""
    values = (u, u_t, u_tt, laplacian, kinetic)
    like = next(value for value in values if isinstance(value, Tensor))
    # Numbers are written by the device itself: copying them there would wait for it.
    tensors = (value.to(like) if isinstance(value, Tensor) else like.new_full((), value) for value in values)
    return torch.stack(torch.broadcast_tensors(*tensors), -1)


def _as_field(f: float | Tensor | Field, num_potentials: int | None, learnable: bool) -> Field:
    if isinstance(f, (int, float, Tensor)):
        return ConstantField(f, num_potentials, learnable)
    if not callable(f):
        raise InputError(f"f must be a number, one per potential, or a function of (z, t, index), got {f!r}")
    return f


def _per_sample(values: Tensor, index: Tensor | None) -> Tensor:
    """Each sample's row of per-potential values; shared values as they are."""
    if values.ndim == 1:
        return values
    if index is None:
        raise InputError("this equation's constants differ between potentials: pass index=, each sample's potential")
    return values[index]


WAVE = Wave()
"""The equation that losses use unless told otherwise; made once, since a compiled graph can't make modules."""
