"""The native engine called on an MLP, with output tensors that start as NaN, so that whatever isn't written shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastflow import _native
from fastflow.ops.types import MLP, Jet


def nan_like(x: Tensor) -> Tensor:
    return torch.full_like(x, torch.nan)


def network(mlp: MLP) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    return list(mlp.weights), list(mlp.bias_jets), mlp.out_weight, mlp.out_bias


def parameters(mlp: MLP) -> list[Tensor]:
    return [*mlp.weights, *mlp.bias_jets, mlp.out_weight, mlp.out_bias]


def nan_gradient(mlp: MLP) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    return (
        [nan_like(w) for w in mlp.weights],
        [nan_like(b) for b in mlp.bias_jets],
        nan_like(mlp.out_weight),
        nan_like(mlp.out_bias),
    )


def flat(gradient: tuple[list[Tensor], list[Tensor], Tensor, Tensor]) -> list[Tensor]:
    weights, bias_jets, out_weight, out_bias = gradient
    return [*weights, *bias_jets, out_weight, out_bias]


@dataclass(frozen=True)
class Engine:
    """The options of a call, and the calls."""

    has_time: bool = True
    laplacian: str = "exact"
    probes: Tensor | None = None
    num_threads: int = 1

    def options(self, mlp: MLP) -> dict:
        return {
            "activation": mlp.activation,
            "out_activation": mlp.out_activation,
            "has_time": self.has_time,
            "laplacian": self.laplacian,
            "probes": self.probes,
            "num_threads": self.num_threads,
        }

    def jet(self, mlp: MLP, z: Tensor, index: Tensor, slot: Tensor) -> Jet:
        jet = Jet(nan_like(z[:, 0]), nan_like(z), *(nan_like(z[:, 0]) for _ in range(3)))
        _native.jet_forward(network(mlp), z, index, slot, jet, **self.options(mlp))
        return jet

    def jet_backward(self, mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, jet_bar) -> tuple[Tensor, list[Tensor]]:
        z_bar, gradient = nan_like(z), nan_gradient(mlp)
        _native.jet_backward(network(mlp), z, index, slot, jet_bar, z_bar, gradient, **self.options(mlp))
        return z_bar, flat(gradient)

    def residual(self, mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None):
        residual = nan_like(z[:, 0])
        loss = _native.residual_loss(network(mlp), z, index, slot, coefficients, source, residual, **self.options(mlp))
        return loss, residual

    def residual_backward(
        self,
        mlp: MLP,
        z: Tensor,
        index: Tensor,
        slot: Tensor,
        coefficients: Tensor,
        source: Tensor,
        loss_bar: float = 1.0,
    ):
        """Loss, residual, then gradients: z, parameters, coefficients, source."""
        residual, z_bar, gradient = nan_like(z[:, 0]), nan_like(z), nan_gradient(mlp)
        coefficients_bar, source_bar = nan_like(coefficients), nan_like(source)
        loss = _native.residual_loss_backward(
            network(mlp), z, index, slot, coefficients, source, residual, loss_bar, z_bar, gradient,
            coefficients_bar, source_bar, **self.options(mlp),
        )  # fmt: skip
        return loss, residual, [z_bar, *flat(gradient), coefficients_bar, source_bar]


def attach(tensors):
    """Copies that require grad."""
    return [x.detach().clone().requires_grad_() for x in tensors]


def rebuild(mlp: MLP, tensors: list[Tensor]) -> MLP:
    depth = len(mlp.weights)
    return mlp._replace(
        weights=tuple(tensors[:depth]),
        bias_jets=tuple(tensors[depth : 2 * depth]),
        out_weight=tensors[-2],
        out_bias=tensors[-1],
    )


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest deviation, in units of the largest exact entry."""
    scale = exact.abs().max().item() if exact.numel() else 0.0
    deviation = (actual.double() - exact).abs().max().item() if exact.numel() else 0.0
    return deviation / scale if scale > 0 else deviation
