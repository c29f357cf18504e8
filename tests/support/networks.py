"""Small stacked networks for tests, and their derivatives by nested automatic differentiation, sample by sample."""

import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev

from fastflow.engine.activations import derivatives, out_derivatives
from fastflow.engine.types import MLP, Jet


def random_mlp(
    num_networks: int,
    dim: int,
    hidden: tuple[int, ...],
    slots: int,
    activation: str = "tanh",
    out_activation: str = "tanh",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> MLP:
    """K networks with weights of a trained network's size."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    widths = (dim, *hidden)
    weights = tuple(normal(num_networks, h, w, scale=1.3 / w**0.5) for w, h in zip(widths[:-1], hidden, strict=True))
    bias_jets = tuple(normal(slots, 3, h, scale=0.5) for h in hidden)
    return MLP(weights, bias_jets, normal(num_networks, hidden[-1]), normal(num_networks), activation, out_activation)


def random_samples(mlp: MLP, batch: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, potentials and bias rows for `batch` samples."""
    rng = torch.Generator().manual_seed(seed)
    num_networks, _, dim = mlp.weights[0].shape
    z = torch.randn(batch, dim, generator=rng, dtype=torch.float64).to(mlp.out_bias)
    index = torch.randint(num_networks, (batch,), generator=rng)
    slot = torch.randint(mlp.bias_jets[0].shape[0], (batch,), generator=rng)
    return z, index, slot


def value(mlp: MLP, z: Tensor, index: int, slot: int, t: Tensor) -> Tensor:
    """One sample's potential t after its bias row's time: what the MLP means, written as plainly as can be."""
    h = z
    for weight, bias_jet in zip(mlp.weights, mlp.bias_jets, strict=True):
        bias, velocity, acceleration = bias_jet[slot]
        h = derivatives(mlp.activation, weight[index] @ h + bias + velocity * t + acceleration * t**2 / 2)[0]
    return out_derivatives(mlp.out_activation, mlp.out_weight[index] @ h + mlp.out_bias[index])[0]


def nested_jet(mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, row_sum: bool = False) -> Jet:
    """Every sample's jet by automatic differentiation of `value`, nested; differentiable again."""
    now = z.new_zeros(())
    rows = []
    for sample, k, s in zip(z, index.tolist(), slot.tolist(), strict=True):

        def u(x: Tensor, t: Tensor, k: int = k, s: int = s) -> Tensor:
            return value(mlp, x, k, s, t)

        spatial = hessian(u)(sample, now)
        rows.append(
            Jet(
                u(sample, now),
                jacrev(u)(sample, now),
                spatial.sum(1) if row_sum else spatial.trace(),
                grad(u, argnums=1)(sample, now),
                grad(grad(u, argnums=1), argnums=1)(sample, now),
            )
        )
    return Jet(*map(torch.stack, zip(*rows, strict=True)))
