"""The rollout-loss operator: a path, the squared residual at its points and all gradients in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastflow.core.nvtx import profiled
from fastflow.engine.backends import reference
from fastflow.engine.backends.memory import empty_gradients
from fastflow.engine.backends.selection import backend_for
from fastflow.engine.backends.table import ROLLOUTS
from fastflow.engine.integration import Integration
from fastflow.engine.operators.double_backward import differentiate_backward
from fastflow.engine.operators.flow import flow
from fastflow.engine.operators.functions import fake, quick_to_apply
from fastflow.engine.operators.residual_loss import residual_loss
from fastflow.engine.operators.settings import Settings
from fastflow.engine.operators.vmap import map_slices, slice_by_slice
from fastflow.engine.tracing import any_requires_grad, second_backward_may_follow
from fastflow.engine.types import MLP


def rollout_loss(
    mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, coefficients: Tensor, integration: Integration
) -> tuple[Tensor, Tensor]:
    """What `reference.rollout_loss` computes, by the backend of z0's device; the path is a forward one.

    The loss's gradients are computed together with it; only a cotangent of the path takes another call.
    """
    backend = backend_for(z0, mlp)
    dt, method, _, step_length = integration
    if backend == "reference":
        options = {"dt": dt, "method": method, "step_length": step_length}
        return reference.rollout_loss(mlp, z0, index, slots, coefficients, **options)
    if backend not in ROLLOUTS:
        path = flow(mlp, z0, index, slots, integration)
        return residual_loss(mlp, *reference.visits(path, index, slots, method), coefficients), path
    settings, tensors = Settings.of(mlp, backend), mlp.tensors()
    if any_requires_grad(z0, coefficients, *tensors):
        loss, points, *_ = _RolloutLoss.apply(settings, integration, index, slots, z0, coefficients, *tensors)
        return loss, points
    arguments = (z0, index, slots, coefficients, tensors, *settings, dt, method, step_length, False)
    loss, points = torch.ops.fastflow.rollout_loss(*arguments)
    return loss, points


@torch.library.custom_op("fastflow::rollout_loss", mutates_args=())
def _rollout_loss(
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    tensors: list[Tensor],
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    dt: float,
    method: str,
    step_length: float | None,
    with_gradient: bool,
) -> list[Tensor]:
    """The loss and the path; then, with_gradient, the loss's gradients for z0, coefficients and the network."""
    settings = Settings(activation, out_activation, has_time, backend, precision)
    rollouts, bound = ROLLOUTS[backend](), (settings.mlp(tensors), z0, index, slots, coefficients)
    with profiled("rollout_loss_and_gradient" if with_gradient else "rollout_loss"):
        function = rollouts.rollout_loss_and_gradient if with_gradient else rollouts.rollout_loss
        return function(*bound, dt=dt, method=method, step_length=step_length)


@fake(_rollout_loss)
def _(
    z0: Tensor, index: Tensor, slots: Tensor, coefficients: Tensor, tensors: list[Tensor], *rest: Any
) -> list[Tensor]:
    *_, method, _, with_gradient = rest
    steps = reference.num_steps(slots.shape[0], method)
    result = [z0.new_empty(()), z0.new_empty(z0.shape[0], steps + 1, z0.shape[1])]
    inputs = (z0, coefficients, *tensors) if with_gradient else ()
    return [*result, *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)]


_rollout_loss.register_vmap(slice_by_slice(torch.ops.fastflow.rollout_loss))


@torch.library.custom_op("fastflow::rollout_loss_backward", mutates_args=())
def _rollout_loss_backward(
    points: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    loss_bar: Tensor,
    points_bar: Tensor,
    tensors: list[Tensor],
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    dt: float,
    method: str,
    step_length: float | None,
) -> list[Tensor]:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    bound, bars = (settings.mlp(tensors), points, index, slots), {"loss_bar": loss_bar, "points_bar": points_bar}
    options = {"dt": dt, "method": method, "step_length": step_length}
    with profiled("rollout_loss_backward"):
        return ROLLOUTS[backend]().rollout_loss_backward(*bound, coefficients, **bars, **options)


@fake(_rollout_loss_backward)
def _(
    points: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    loss_bar: Tensor,
    points_bar: Tensor,
    tensors: list[Tensor],
    *_: Any,
) -> list[Tensor]:
    return empty_gradients(points[:, 0], coefficients, *tensors, like=points)


_rollout_loss_backward.register_vmap(slice_by_slice(torch.ops.fastflow.rollout_loss_backward))


@quick_to_apply
class _RolloutLoss(torch.autograd.Function):
    """Gives the loss and the path, and the loss's gradients as further outputs so that they can be saved."""

    @staticmethod
    def forward(
        settings: Settings,
        integration: Integration,
        index: Tensor,
        slots: Tensor,
        z0: Tensor,
        coefficients: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        dt, method, _, step_length = integration
        arguments = (z0, index, slots, coefficients, list(tensors), *settings, dt, method, step_length, True)
        return tuple(torch.ops.fastflow.rollout_loss(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, ctx.integration, *tensors = inputs
        _, points, *gradients = output
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.num_inputs = len(tensors)
        ctx.save_for_backward(*tensors, points, *gradients)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        loss_bar, points_bar, *_ = bars
        if loss_bar is None and points_bar is None:
            return (None,) * (ctx.num_inputs + 2)
        backward = _RolloutBackward.apply if second_backward_may_follow() else _RolloutBackward.forward
        tensors = ctx.saved_tensors  # looked at once: a checkpoint gives them only once
        inputs, saved = tensors[: ctx.num_inputs], tensors[ctx.num_inputs :]
        cotangents = loss_bar, points_bar
        return *(None,) * 4, *backward(ctx.settings, ctx.integration, len(saved), *cotangents, *saved, *inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _RolloutLoss.apply)


@quick_to_apply
class _RolloutBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: Settings,
        integration: Integration,
        count: int,
        loss_bar: Tensor | None,
        points_bar: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        points, *gradients = tensors[:count]
        loss_bar = points.new_zeros(()) if loss_bar is None else loss_bar
        if points_bar is None:
            return tuple(loss_bar * gradient for gradient in gradients)
        index, slots, _, coefficients, *parameters = tensors[count:]
        dt, method, _, step_length = integration
        arguments = (points, index, slots, coefficients, loss_bar, points_bar, parameters, *settings)
        return tuple(torch.ops.fastflow.rollout_loss_backward(*arguments, dt, method, step_length))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, ctx.integration, ctx.count, loss_bar, points_bar, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(loss_bar, points_bar, *tensors[ctx.count :])

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        loss_bar, points_bar, index, slots, *inputs = ctx.saved_tensors

        def twin(z0: Tensor, coefficients: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
            dt, method, _, step_length = ctx.integration
            options = {"dt": dt, "method": method, "step_length": step_length}
            return reference.rollout_loss(ctx.settings.mlp(parameters), z0, index, slots, coefficients, **options)

        bars, cotangents_bar = differentiate_backward(twin, inputs, (loss_bar, points_bar), seconds)
        return *(None,) * 3, *cotangents_bar, *(None,) * ctx.count, None, None, *bars

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _RolloutBackward.apply)
