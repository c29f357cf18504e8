"""The physics loss: the mean squared residual of an equation (Song et al., ICML 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastflow.engine.chunking import Piecewise
from fastflow.engine.inputs import Times, check_index, check_latents, check_samples, check_times, sample_times
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
    z = check_samples(check_latents(z, bank.dim, bank.out_bias))
    if isinstance(pde, LinearQuadratic) and laplacian == "exact":
        t, potential = check_times(t, z), check_index(index, bank.num_potentials, z)
        source = source_at(pde, z[:, 0], z, sample_times(t, z), potential)

        def part(
            z: Tensor, t: Times, index: int | Tensor, source: Tensor | None, coefficients: Tensor, *parameters: Tensor
        ) -> tuple[Tensor]:
            mlp, network, slot, _ = bank.networks(t, index, z, parameters)
            return (residual_loss(mlp, z, network, slot, coefficients, source),)

        pieces, coefficients = bank.pieces(z, t, index), bank.coefficients(pde, index)
        if len(pieces) == 1:
            return part(z, t, index, source, coefficients)[0]
        return Piecewise(part, 4, pieces).mean(z, t, index, source, coefficients, *bank.tensors().values())
    jet = bank.jet(z, t, index, laplacian=laplacian, num_probes=num_probes, generator=generator)
    return residual(pde, jet, z, sample_times(t, z), check_index(index, bank.num_potentials, z)).square().mean()
