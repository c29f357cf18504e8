"""The residual-loss operator: a mean squared residual and all its gradients in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.core.nvtx import profiled
from fastflow.engine.backends import reference
from fastflow.engine.backends.memory import empty_gradients
from fastflow.engine.backends.selection import backend_for
from fastflow.engine.backends.table import JETS
from fastflow.engine.operators.double_backward import differentiate_backward
from fastflow.engine.operators.functions import fake, quick_to_apply
from fastflow.engine.operators.settings import Settings
from fastflow.engine.operators.vmap import map_slices, slice_by_slice
from fastflow.engine.tracing import any_requires_grad, second_backward_may_follow
from fastflow.engine.types import MLP


class _Options(NamedTuple):
    settings: Settings
    with_z: bool


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None = None
) -> Tensor:
    """What `reference.residual_loss` computes, by the backend of z's device.

    The loss is a scalar, so its gradients are computed together with it, and its backward only scales them.
    """
    backend = backend_for(z, mlp)
    if backend == "reference":
        return reference.residual_loss(mlp, z, index, slot, coefficients, source=source)
    settings, tensors = Settings.of(mlp, backend), mlp.tensors()
    if any_requires_grad(z, coefficients, source, *tensors):
        options = _Options(settings, any_requires_grad(z))
        return _ResidualLoss.apply(options, index, slot, z, coefficients, source, *tensors)[0]
    return torch.ops.fastflow.residual_loss(z, index, slot, coefficients, source, tensors, *settings)


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
    options = {"source": source, "precision": precision}
    with profiled("residual_loss"):
        return JETS[backend]().residual_loss(settings.mlp(tensors), z, index, slot, coefficients, **options)


@fake(_residual_loss)
def _(z: Tensor, *_: Any) -> Tensor:
    return z.new_empty(())


_residual_loss.register_vmap(slice_by_slice(torch.ops.fastflow.residual_loss))


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
    bound = settings.mlp(tensors), z, index, slot, coefficients
    with profiled("residual_loss_and_gradient"):
        return JETS[backend]().residual_loss_and_gradient(*bound, source=source, with_z=with_z, precision=precision)


@fake(_residual_loss_and_gradient)
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


@quick_to_apply
class _ResidualLoss(torch.autograd.Function):
    """Gives the loss, and its gradients as further outputs so that they can be saved."""

    @staticmethod
    def forward(
        options: _Options,
        index: Tensor,
        slot: Tensor,
        z: Tensor,
        coefficients: Tensor,
        source: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        arguments = (z, index, slot, coefficients, source, list(tensors), *options.settings, options.with_z)
        return tuple(torch.ops.fastflow.residual_loss_and_gradient(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, *tensors = inputs
        gradients = output[1:]
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.num_inputs = len(tensors)
        ctx.save_for_backward(*tensors, *gradients)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        loss_bar = bars[0]
        constants = (None,) * 3
        if loss_bar is None:
            return *constants, *(None,) * (ctx.num_inputs - 2)
        saved = ctx.saved_tensors  # looked at once: a checkpoint gives them only once
        inputs, gradients = saved[: ctx.num_inputs], saved[ctx.num_inputs :]
        scale = _Scale.apply if second_backward_may_follow() else _Scale.forward
        z_bar, coefficients_bar, source_bar, *rest = scale(
            ctx.options.settings, loss_bar, len(gradients), *gradients, *inputs
        )
        return *constants, z_bar, coefficients_bar, None if inputs[4] is None else source_bar, *rest

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _ResidualLoss.apply)


@quick_to_apply
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
            mlp = ctx.settings.mlp(parameters)
            return reference.residual_loss(mlp, z, index, slot, coefficients, source=given)

        inputs = (z, coefficients, source, *tensors) if with_source else (z, coefficients, *tensors)
        kept = seconds if with_source else (*seconds[:2], *seconds[3:])
        bars, (loss_bar_bar,) = differentiate_backward(twin, inputs, (loss_bar,), kept)
        z_bar, coefficients_bar, *rest = bars
        rest = rest if with_source else [None, *rest]
        return None, loss_bar_bar, None, *(None,) * ctx.count, None, None, z_bar, coefficients_bar, *rest

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, _Scale.apply)
