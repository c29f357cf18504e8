"""The physics loss: the mean squared residual of an equation (Song et al., ICML 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastflow.engine.chunking import Piecewise
from fastflow.engine.inputs import Samples, Times, check_not_empty
from fastflow.engine.operators.residual_loss import residual_loss
from fastflow.engine.pde import PDE, WAVE, LinearQuadratic, residual, source_at
from fastflow.engine.potentials import PotentialBank, check_bank
from fastflow.engine.types import Jet, Laplacian


def pde_loss(
    bank: PotentialBank,
    z: Tensor,
    t: Times,
    index: int | Tensor,
    pde: PDE | Callable[[Jet], Tensor] = WAVE,
    *,
    laplacian: Laplacian = "exact",
    num_probes: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean over the samples of the squared residual of `pde` (the wave equation by default), a scalar.

    z, t, index and the rest are those of `PotentialBank.jet`; `pde` is an equation, or any callable of a jet. Under
    "hutchinson" the estimate is squared, so the loss is larger by the estimate's variance in the mean.
    """
    check_bank(bank)
    samples = bank.samples(z, t, index)
    check_not_empty(samples.z)
    if isinstance(pde, LinearQuadratic) and laplacian == "exact":
        return _fused_loss(bank, samples, pde)
    jet = bank.jet_of(samples, laplacian=laplacian, num_probes=num_probes, generator=generator)
    return residual(pde, jet, samples.z, samples.time.of_each(), samples.potential.each).square().mean()


def _fused_loss(bank: PotentialBank, samples: Samples, pde: LinearQuadratic) -> Tensor:
    """The loss without a jet: the operator sums up the residuals while it computes them."""
    source = source_at(pde, samples.z[:, 0], samples.z, samples.time.of_each(), samples.potential.each)
    coefficients, tensors = bank.coefficients(pde, samples.potential), bank.tensors()

    def whole(samples: Samples, source: Tensor | None, coefficients: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        networks = bank.networks(samples, tensors)
        return residual_loss(
            networks.mlp, samples.z, networks.network, networks.slot, coefficients=coefficients, source=source
        )

    def part(
        z: Tensor, times: Tensor, each: Tensor, source: Tensor | None, coefficients: Tensor, *parameters: Tensor
    ) -> tuple[Tensor]:
        piece, given = samples.with_columns(z, times, each), dict(zip(tensors, parameters, strict=True))
        return (whole(piece, source, coefficients, given),)

    pieces = bank.pieces(samples)
    if len(pieces) == 1:
        return whole(samples, source, coefficients, tensors)
    return Piecewise(part, 4, pieces).mean(*samples.columns(), source, coefficients, *tensors.values())
