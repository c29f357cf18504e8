"""Learned fields beside the potentials: forces and densities of equations, and velocities without divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.engine.inputs import Times
from fastflow.engine.potentials import PotentialBank, TimeInput

_FIRST_CHANGE = 0.03
"""The size of a coordinate's change per time by an affine map that hasn't learned yet, at latents of size 1."""


class NetworkField(nn.Module):
    """A scalar field f_k(z, t) for each of K potentials, each the value of a small network.

    What `ff.pde.HamiltonJacobi` learns as its force, and `ff.pde.Poisson` as its density.
    """

    def __init__(
        self,
        num_potentials: int,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time: TimeInput = "sinusoidal",
    ) -> None:
        super().__init__()
        self.bank = PotentialBank(
            num_potentials, dim, hidden=hidden, activation=activation, out_activation="identity", time=time
        )

    def forward(self, z: Tensor | None, t: Tensor | None, index: Tensor | None) -> Tensor:
        """The values (B,) at latents z (B, D), times t (B,) and potentials index (B,)."""
        if z is None or t is None or index is None:
            raise InputError("this equation has a learned field: pass z, t and index, each sample's own")
        return self.bank.jet(z, t, index, laplacian="none", with_u_tt=False).u


class DivergenceFreeField(nn.Module):
    """Velocities w_k(z, t) = A_k grad psi_k(z, t), A_k antisymmetric, which can turn where a gradient can't.

    div w = tr(A_k Hess psi_k) = 0 at every point, as the trace of an antisymmetric with a symmetric matrix. Beside the
    gradient of a potential it completes Helmholtz's decomposition, as in Song et al., Sparse Transformation Analysis
    (TPAMI 2025); that form of w is ours. A_k = P_k Q_k^T - Q_k P_k^T of rank at most twice `rank`.

    With `affine` an affine map is added, M_k z + d_k. M_k has no trace, so that the divergence stays zero. A network of
    bounded units can follow a linear map only nearby, and a potential can't follow one that turns at all.

    Args:
        num_potentials, dim, hidden, activation, time: as for `ff.PotentialBank`, of the psi_k. dim is at least 2: on a
            line only constants have no divergence.
        rank: columns of P_k and Q_k, (K, D, rank).
        affine: whether there is an affine map, of entries that are small at first.
    """

    def __init__(
        self,
        num_potentials: int,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time: TimeInput = "sinusoidal",
        rank: int = 16,
        affine: bool = False,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise InputError(f"a divergence-free field needs latents of 2 dimensions or more, got {dim}")
        check_count(rank, "rank")
        self.bank = PotentialBank(
            num_potentials, dim, hidden=hidden, activation=activation, out_activation="identity", time=time
        )
        rank = min(rank, dim)
        scale = (dim * rank) ** -0.25  # w is then about as long as grad psi
        self.left = nn.Parameter(scale * torch.randn(num_potentials, dim, rank))
        self.right = nn.Parameter(scale * torch.randn(num_potentials, dim, rank))
        self.matrix = self.displacement = None
        if affine:
            self.matrix = nn.Parameter(_FIRST_CHANGE / dim**0.5 * torch.randn(num_potentials, dim, dim))
            self.displacement = nn.Parameter(_FIRST_CHANGE * torch.randn(num_potentials, dim))

    def forward(self, z: Tensor, t: Times, index: int | Tensor) -> Tensor:
        """The velocities (B, D) at latents z (B, D), times t and potentials index; arguments as for a bank's jet."""
        samples = self.bank.samples(z, t, index)
        gradient = self.bank.jet_of(samples, laplacian="none", with_u_tt=False).grad
        return self.velocity(gradient, z, samples.potential.each)

    def velocity(self, gradient: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """The velocities (B, D) where psi_k has these gradients (B, D), at latents z (B, D), of potentials (B,)."""
        own = index[:, None] == torch.arange(len(self.left), device=z.device)  # (B, K)
        left, right = torch.cat((self.left, -self.right), 2), torch.cat((self.right, self.left), 2)  # (K, D, 2 rank)
        turned = _times(_times(gradient, right, own), left.mT, own)
        if self.matrix is None or self.displacement is None:
            return turned
        trace = self.matrix.diagonal(dim1=1, dim2=2).mean(1)
        mapped = _times(z, self.matrix.mT, own) - trace[index, None] * z
        return turned + mapped + self.displacement[index]


def check_companion(companion: DivergenceFreeField, bank: PotentialBank) -> None:
    """Raise InputError unless it is a companion of this bank: as many fields on latents as wide."""
    if not isinstance(companion, DivergenceFreeField):
        raise InputError(f"companion must be a DivergenceFreeField, got {type(companion).__name__}")
    fields, potentials = ((b.num_potentials, b.dim) for b in (companion.bank, bank))
    if fields != potentials:
        raise InputError(
            f"companion has {fields[0]} fields on latents of width {fields[1]}, the bank {potentials[0]} potentials on "
            f"latents of width {potentials[1]}"
        )


def _times(vectors: Tensor, matrices: Tensor, own: Tensor) -> Tensor:
    """The products (B, N) of vectors (B, M) with that of the matrices (K, M, N) which `own` (B, K) marks.

    It is one product with all of them: there are few, and a copy of its matrix for each sample costs more.
    """
    placed = torch.where(own[:, :, None], vectors[:, None], 0).flatten(1)  # (B, K M), zero but in its own place
    return placed @ matrices.flatten(0, 1)
