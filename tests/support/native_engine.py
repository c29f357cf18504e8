"""The native engine called on an MLP, with output tensors that start as NaN, so that whatever isn't written shows."""

from dataclasses import dataclass

import torch
from support.tolerances import NATIVE
from torch import Tensor

from fastflow import _native
from fastflow.engine.types import MLP, Jet


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
    path: dict | None = None  # the options of a flow

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
        _native.jet(network(mlp), z, index, slot, jet, **self.options(mlp))
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
        loss = _native.residual_loss_and_gradient(
            network(mlp), z, index, slot, coefficients, source, residual, loss_bar, z_bar, gradient,
            coefficients_bar, source_bar, **self.options(mlp),
        )  # fmt: skip
        return loss, residual, [z_bar, *flat(gradient), coefficients_bar, source_bar]

    def flow(self, mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        path, error = z0.new_full((len(z0), steps + 1, z0.shape[1]), torch.nan), nan_like(z0[:, 0])
        _native.flow(network(mlp), z0, index, slots, path, error, **self.flow_options(mlp))
        return path, error

    def flow_backward(self, mlp: MLP, path: Tensor, index: Tensor, slots: Tensor, path_bar: Tensor) -> list[Tensor]:
        z_bar, gradient = path.new_full((len(path), path.shape[2]), torch.nan), nan_gradient(mlp)
        _native.flow_backward(network(mlp), path, index, slots, path_bar, z_bar, gradient, **self.flow_options(mlp))
        return [z_bar, *flat(gradient)]

    def rollout(
        self, mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, coefficients: Tensor, source: Tensor, steps: int
    ):
        path, residual = z0.new_full((len(z0), steps + 1, z0.shape[1]), torch.nan), nan_like(source)
        options = {**self.options(mlp), **self.path}
        loss = _native.rollout_loss(network(mlp), z0, index, slots, coefficients, source, path, residual, **options)
        return loss, path, residual

    def rollout_backward(
        self, mlp: MLP, z0: Tensor | None, index: Tensor, slots: Tensor, coefficients: Tensor, source: Tensor,
        path: Tensor, loss_bar: float, path_bar: Tensor,
    ):  # fmt: skip
        """Loss, path, then gradients: z0, parameters, coefficients, source. Without z0 from the path that is given."""
        path = path.clone() if z0 is None else nan_like(path)
        z_bar, gradient = nan_like(path[:, 0]), nan_gradient(mlp)
        coefficients_bar, source_bar = nan_like(coefficients), nan_like(source)
        loss = _native.rollout_loss_and_gradient(
            network(mlp), z0, index, slots, coefficients, source, path, None, loss_bar, path_bar, z_bar, gradient,
            coefficients_bar, source_bar, **self.options(mlp), **self.path,
        )  # fmt: skip
        return loss, path, [z_bar, *flat(gradient), coefficients_bar, source_bar]

    def flow_options(self, mlp: MLP) -> dict:
        names = ("activation", "out_activation", "num_threads")
        return {**{name: self.options(mlp)[name] for name in names}, **self.path}


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


def check_all(actual, exact, limit: float = NATIVE) -> None:
    for a, e in zip(actual, exact, strict=True):
        # The floor is for gradients that are zero but for rounding, as the output layer's along normalised steps.
        assert (
            (a - e.detach()).abs().max().nan_to_num(1) <= limit * max(e.abs().max().item(), 1e-3)
            if a.numel()
            else a.shape == e.shape
        )
