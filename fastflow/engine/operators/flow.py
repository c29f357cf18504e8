"""The flow operator: a whole path in one call of the backend, and its backward in another."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import ConvergenceError
from fastflow.core.nvtx import profiled
from fastflow.engine.backends import reference
from fastflow.engine.backends.memory import empty_gradients
from fastflow.engine.backends.selection import backend_for, integrator_for
from fastflow.engine.backends.table import PATHS
from fastflow.engine.integration import Integration
from fastflow.engine.operators.double_backward import differentiate_backward
from fastflow.engine.operators.functions import fake, quick_to_apply
from fastflow.engine.operators.jet import jet
from fastflow.engine.operators.settings import Settings
from fastflow.engine.operators.vmap import map_slices, slice_by_slice
from fastflow.engine.tracing import any_requires_grad, forward_mode, second_backward_may_follow
from fastflow.engine.types import MLP, Jet

NO_FORWARD_MODE = "the reverse flow has no forward-mode derivative: differentiate it backward, as torch.func.grad does"


def flow(mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, integration: Integration) -> Tensor:
    """The path that `reference.flow` computes, by the backend of z0's device.

    Raises:
        ConvergenceError: a reverse flow didn't converge.
        RuntimeError: forward-mode differentiation of a reverse flow.
    """
    backend = backend_for(z0, mlp)
    integrator = integrator_for(z0, backend)
    if integrator is None:
        return stepped(
            mlp,
            z0,
            index=index,
            slots=slots,
            integration=integration,
            jet=reference.jet if backend == "reference" else jet,
        )
    settings, tensors = Settings.of(mlp, integrator), mlp.tensors()
    if any_requires_grad(z0, *tensors):
        return _Flow.apply(settings, integration, index, slots, z0, *tensors)
    return torch.ops.fastflow.flow(z0, index, slots, tensors, *settings, *integration)


def stepped(
    mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, integration: Integration, jet: Callable[..., Jet]
) -> Tensor:
    """The same step by step, with the gradient that `jet` computes; raises what `flow` does."""
    if integration.direction == "reverse" and forward_mode():
        raise RuntimeError(NO_FORWARD_MODE)
    points, error = reference.flow(mlp, z0, index, slots, **integration._asdict(), jet=jet)
    return _converged(points, error, integration.direction)


def _converged(points: Tensor, error: Tensor, direction: str) -> Tensor:
    """The path; raise ConvergenceError if it is a reverse one whose `error` is more than rounding."""
    if direction == "reverse":
        failed = ~(error <= sqrt(torch.finfo(error.dtype).eps))
        if bool(failed.any()):
            worst = int(error.nan_to_num(torch.inf).argmax())
            raise ConvergenceError(
                f"the reverse flow didn't converge for {int(failed.sum())} of {len(error)} samples (worst: sample "
                f"{worst}, relative error {float(error[worst]):.1e}): the potential bends too sharply for steps this "
                "long; use a smaller dt, or a shorter step_length"
            )
    return points


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
) -> Tensor:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    integration = {"dt": dt, "method": method, "direction": direction, "step_length": step_length}
    with profiled("flow"):
        points, error = PATHS[backend]().flow(settings.mlp(tensors), z0, index, slots, **integration)
    return _converged(points, error, direction)


@fake(_flow)
def _(z0: Tensor, index: Tensor, slots: Tensor, *rest: Any) -> Tensor:
    return z0.new_empty(z0.shape[0], reference.num_steps(slots.shape[0], rest[-3]) + 1, z0.shape[1])


_flow.register_vmap(slice_by_slice(torch.ops.fastflow.flow))


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
    integration = {"dt": dt, "method": method, "direction": direction, "step_length": step_length}
    bound = settings.mlp(tensors), points, index, slots, points_bar
    with profiled("flow_backward"):
        return PATHS[backend]().flow_backward(*bound, **integration)


@fake(_flow_backward)
def _(points: Tensor, index: Tensor, slots: Tensor, points_bar: Tensor, tensors: list[Tensor], *_: Any) -> list[Tensor]:
    return empty_gradients(points[:, 0], *tensors, like=points)


_flow_backward.register_vmap(slice_by_slice(torch.ops.fastflow.flow_backward))


@quick_to_apply
class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: Settings, integration: Integration, index: Tensor, slots: Tensor, z0: Tensor, *tensors: Tensor
    ) -> Tensor:
        return torch.ops.fastflow.flow(z0, index, slots, list(tensors), *settings, *integration)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.settings, ctx.integration, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        (points_bar,) = bars
        points, index, slots, *inputs = ctx.saved_tensors
        if points_bar is None:
            return (None,) * (4 + len(inputs))
        backward = _FlowBackward.apply if second_backward_may_follow() else _FlowBackward.forward
        return *(None,) * 4, *backward(ctx.settings, ctx.integration, points, index, slots, points_bar, *inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _Flow.apply)


@quick_to_apply
class _FlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: Settings,
        integration: Integration,
        points: Tensor,
        index: Tensor,
        slots: Tensor,
        points_bar: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        arguments = (points, index, slots, points_bar, list(inputs[1:]), *settings, *integration)
        return tuple(torch.ops.fastflow.flow_backward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, ctx.integration, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        index, slots, points_bar, *inputs = ctx.saved_tensors
        if ctx.integration.direction == "reverse":
            raise RuntimeError(reference.NO_SECOND_DERIVATIVE)

        def twin(z0: Tensor, *parameters: Tensor) -> Tensor:
            return reference.flow(ctx.settings.mlp(parameters), z0, index, slots, **ctx.integration._asdict())[0]

        bars, (points_bar_bar,) = differentiate_backward(twin, inputs, (points_bar,), seconds)
        return *(None,) * 5, points_bar_bar, *bars

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _FlowBackward.apply)
