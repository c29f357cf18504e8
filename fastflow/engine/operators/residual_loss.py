"""The residual-loss operator: a mean squared residual and all its gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastflow.engine.backends import reference
from fastflow.engine.backends.memory import empty_gradients
from fastflow.engine.backends.selection import backend_for
from fastflow.engine.operators.double_backward import differentiate_backward
from fastflow.engine.operators.settings import Settings
from fastflow.engine.operators.vmap import map_slices
from fastflow.engine.tracing import any_requires_grad, second_backward_may_follow
from fastflow.engine.types import MLP


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None = None
) -> Tensor:
    """What `reference.residual_loss` computes, by the backend of z's device.

    The loss is a scalar, so its gradients are computed together with it, and its backward only scales them.
    """
    backend = backend_for(z, mlp)
    if backend == "reference":
        return reference.residual_loss(mlp, z, index, slot, coefficients, source)
    tensors = mlp.tensors()
    differentiated, with_z = any_requires_grad(z, coefficients, source, *tensors), any_requires_grad(z)
    arguments = (Settings.of(mlp, backend), differentiated, with_z, index, slot, z, coefficients, source, *tensors)
    return _ResidualLoss.apply(*arguments)[0]


@torch.library.custom_op("fastflow::residual_loss", mutates_args=())
def _residual_loss(
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    tensors: list[Tensor],
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
) -> Tensor:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    return settings.compute("residual_loss", tensors, z, index, slot, coefficients, source)


@_residual_loss.register_fake
def _(z: Tensor, *_: Any) -> Tensor:
    return z.new_empty(())


@torch.library.custom_op("fastflow::residual_loss_and_gradient", mutates_args=())
def _residual_loss_and_gradient(
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    tensors: list[Tensor],
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    with_z: bool,
) -> list[Tensor]:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    arguments = (z, index, slot, coefficients, source, with_z)
    return settings.compute("residual_loss_and_gradient", tensors, *arguments)


@_residual_loss_and_gradient.register_fake
def _(
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    tensors: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    wanted = (z if rest[-1] else None, coefficients, source, *tensors)
    return [z.new_empty(()), *empty_gradients(*wanted, like=z)]


class _ResidualLoss(torch.autograd.Function):
    """Gives the loss, and its gradients as further outputs so that they can be saved."""

    @staticmethod
    def forward(
        settings: Settings,
        differentiated: bool,
        with_z: bool,
        index: Tensor,
        slot: Tensor,
        z: Tensor,
        coefficients: Tensor,
        source: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        operator = torch.ops.fastflow
        arguments = (z, index, slot, coefficients, source, list(tensors), *settings)
        if not differentiated:
            return (operator.residual_loss(*arguments),)
        return tuple(operator.residual_loss_and_gradient(*arguments, with_z))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, _, _, *tensors = inputs
        gradients = output[1:]
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.num_inputs = len(tensors)
        ctx.save_for_backward(*tensors, *gradients)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        loss_bar = bars[0]
        constants = (None,) * 5
        if loss_bar is None:
            return *constants, *(None,) * (ctx.num_inputs - 2)
        saved = ctx.saved_tensors  # looked at once: a checkpoint gives them only once
        inputs, gradients = saved[: ctx.num_inputs], saved[ctx.num_inputs :]
        scale = _Scale.apply if second_backward_may_follow() else _Scale.forward
        z_bar, coefficients_bar, source_bar, *rest = scale(ctx.settings, loss_bar, len(gradients), *gradients, *inputs)
        return *constants, z_bar, coefficients_bar, None if inputs[4] is None else source_bar, *rest

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _ResidualLoss.apply)


class _Scale(torch.autograd.Function):
    """The gradients times the loss's cotangent, differentiated through the twin."""

    @staticmethod
    def forward(settings: Settings, loss_bar: Tensor, count: int, *tensors: Any) -> tuple[Tensor, ...]:
        return tuple(loss_bar * gradient for gradient in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, loss_bar, ctx.count, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(loss_bar, *tensors[ctx.count :])

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        loss_bar, index, slot, z, coefficients, source, *tensors = ctx.saved_tensors
        with_source = source is not None

        def twin(z: Tensor, coefficients: Tensor, *rest: Tensor) -> Tensor:
            given, parameters = (rest[0], rest[1:]) if with_source else (None, rest)
            mlp = ctx.settings.mlp(list(parameters))
            return reference.residual_loss(mlp, z, index, slot, coefficients, given)

        inputs = (z, coefficients, source, *tensors) if with_source else (z, coefficients, *tensors)
        kept = seconds if with_source else (*seconds[:2], *seconds[3:])
        bars, (loss_bar_bar,) = differentiate_backward(twin, inputs, (loss_bar,), kept)
        z_bar, coefficients_bar, *rest = bars
        rest = rest if with_source else [None, *rest]
        return None, loss_bar_bar, None, *(None,) * ctx.count, None, None, z_bar, coefficients_bar, *rest

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _Scale.apply)
