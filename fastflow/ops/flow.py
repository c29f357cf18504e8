"""The flow operator: a whole path in one call of the backend, and its backward in another."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.ops import reference
from fastflow.ops.backends import backend_for, integrator_for
from fastflow.ops.batching import map_slices
from fastflow.ops.jet import jet
from fastflow.ops.settings import Settings, any_requires_grad, empty_gradients, second_backward_may_follow
from fastflow.ops.twin import differentiate_backward
from fastflow.ops.types import MLP, Direction, Method


class Path(NamedTuple):
    """How a path is integrated."""

    dt: float
    method: Method
    direction: Direction
    step_length: float | None


def flow(mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """What `reference.flow` computes, by the backend of z0's device."""
    backend = backend_for(z0, mlp)
    integrator = integrator_for(z0, backend)
    if integrator is None:
        return reference.flow(mlp, z0, index, slots, *path, jet=reference.jet if backend == "reference" else jet)
    settings, tensors = Settings.of(mlp, integrator), mlp.tensors()
    if any_requires_grad(z0, *tensors):
        points, error = _Flow.apply(settings, path, index, slots, z0, *tensors)
        return points, error
    return torch.ops.fastflow.flow(z0, index, slots, tensors, *settings, *path)


@torch.library.custom_op("fastflow::flow", mutates_args=())
def _flow(
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    tensors: list[Tensor],
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    dt: float,
    method: str,
    direction: str,
    step_length: float | None,
) -> tuple[Tensor, Tensor]:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    return settings.compute("flow", tensors, z0, index, slots, dt, method, direction, step_length)


@_flow.register_fake
def _(z0: Tensor, index: Tensor, slots: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    steps = reference.num_steps(slots.shape[0], rest[-3])
    return z0.new_empty(z0.shape[0], steps + 1, z0.shape[1]), z0.new_empty(z0.shape[0])


@_flow.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return map_slices(info.batch_size, in_dims, arguments, torch.ops.fastflow.flow)


@torch.library.custom_op("fastflow::flow_backward", mutates_args=())
def _flow_backward(
    points: Tensor,
    index: Tensor,
    slots: Tensor,
    points_bar: Tensor,
    tensors: list[Tensor],
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    dt: float,
    method: str,
    direction: str,
    step_length: float | None,
) -> list[Tensor]:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    arguments = (points, index, slots, points_bar, dt, method, direction, step_length)
    return settings.compute("flow_backward", tensors, *arguments)


@_flow_backward.register_fake
def _(points: Tensor, index: Tensor, slots: Tensor, points_bar: Tensor, tensors: list[Tensor], *_: Any) -> list[Tensor]:
    return empty_gradients(points[:, 0], *tensors, like=points)


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: Settings, path: Path, index: Tensor, slots: Tensor, z0: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.fastflow.flow(z0, index, slots, list(tensors), *settings, *path)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.settings, ctx.path, *tensors = inputs
        points, error = output
        ctx.mark_non_differentiable(error)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(points, *tensors)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        points_bar, _ = bars
        points, index, slots, *inputs = ctx.saved_tensors
        if points_bar is None:
            return (None,) * (4 + len(inputs))
        backward = _FlowBackward.apply if second_backward_may_follow() else _FlowBackward.forward
        return *(None,) * 4, *backward(ctx.settings, ctx.path, points, index, slots, points_bar, *inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _Flow.apply)


class _FlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: Settings,
        path: Path,
        points: Tensor,
        index: Tensor,
        slots: Tensor,
        points_bar: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        arguments = (points, index, slots, points_bar, list(inputs[1:]), *settings, *path)
        return tuple(torch.ops.fastflow.flow_backward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, ctx.path, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        index, slots, points_bar, *inputs = ctx.saved_tensors
        if ctx.path.direction == "reverse":
            raise RuntimeError(reference.NO_SECOND_DERIVATIVE)

        def twin(z0: Tensor, *parameters: Tensor) -> Tensor:
            return reference.flow(ctx.settings.mlp(parameters), z0, index, slots, *ctx.path)[0]

        bars, (points_bar_bar,) = differentiate_backward(twin, inputs, (points_bar,), seconds)
        return *(None,) * 5, points_bar_bar, *bars

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _FlowBackward.apply)
