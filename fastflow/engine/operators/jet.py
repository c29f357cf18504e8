"""The jet operator: value, gradient, Laplacian and time derivatives in one call of the backend."""

from __future__ import annotations

from collections.abc import Sequence
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
from fastflow.engine.operators.vmap import Folded, fold, map_slices, slice_by_slice, unfold
from fastflow.engine.tracing import any_requires_grad, second_backward_may_follow
from fastflow.engine.types import MLP, Jet, Laplacian


class _Options(NamedTuple):
    settings: Settings
    laplacian: str
    with_u_tt: bool


def jet(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: Laplacian = "exact",
    *,
    probes: Tensor | None = None,
    with_u_tt: bool = True,
) -> Jet:
    """What `reference.jet` computes, by the backend of z's device. Row sums are the reference's alone."""
    backend = "reference" if laplacian == "row_sum" else backend_for(z, mlp)
    if backend == "reference":
        return reference.jet(mlp, z, index, slot, laplacian, probes=probes, with_u_tt=with_u_tt)
    settings, tensors = Settings.of(mlp, backend), mlp.tensors()
    if any_requires_grad(z, *tensors):
        options = _Options(settings, laplacian, with_u_tt)
        return Jet(*_Jet.apply(options, probes, index, slot, z, *tensors))
    return Jet(*torch.ops.fastflow.jet(z, index, slot, tensors, probes, *settings, laplacian, with_u_tt))


@torch.library.custom_op("fastflow::jet", mutates_args=())
def _jet(
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    tensors: list[Tensor],
    probes: Tensor | None,
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    laplacian: str,
    with_u_tt: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = Settings(activation, out_activation, has_time, backend, precision)
    options = {"laplacian": laplacian, "probes": probes, "with_u_tt": with_u_tt, "precision": precision}
    with profiled("jet"):
        return JETS[backend]().jet(settings.mlp(tensors), z, index, slot, **options)


@fake(_jet)
def _(z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, laplacian, u_t, u_tt = (z.new_empty(z.shape[0]) for _ in range(4))
    return u, torch.empty_like(z, memory_format=torch.contiguous_format), laplacian, u_t, u_tt


@_jet.register_vmap
def _(
    info: Any, in_dims: tuple[Any, ...], z: Tensor, index: Tensor, slot: Tensor, tensors: list[Tensor], *rest: Any
) -> tuple[tuple[Tensor, ...], int]:
    z_dim, index_dim, slot_dim, tensor_dims, probes_dim, *_ = in_dims
    tensor_dims = [None] * len(tensors) if tensor_dims is None else tensor_dims
    dims = (probes_dim, index_dim, slot_dim, z_dim, *tensor_dims)
    batch = _fold(info, dims, probes=rest[0], index=index, slot=slot, z=z, tensors=tensors)
    outputs = torch.ops.fastflow.jet(batch.z, batch.network, batch.slot, batch.parameters, *rest)
    return tuple(unfold(output, info.batch_size) for output in outputs), 0


def _fold(
    info: Any,
    dims: Sequence[int | None],
    probes: Tensor | None,
    index: Tensor,
    slot: Tensor,
    z: Tensor,
    tensors: Sequence[Tensor],
) -> Folded:
    if probes is not None and dims[0] is not None:
        raise ValueError("vmap over Hutchinson probes isn't supported: draw them outside")
    return fold(info.batch_size, dims[1:], index=index, slot=slot, z=z, parameters=tensors)


@torch.library.custom_op("fastflow::jet_backward", mutates_args=())
def _jet_backward(
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    tensors: list[Tensor],
    probes: Tensor | None,
    u_bar: Tensor | None,
    grad_bar: Tensor | None,
    laplacian_bar: Tensor | None,
    u_t_bar: Tensor | None,
    u_tt_bar: Tensor | None,
    activation: str,
    out_activation: str,
    has_time: bool,
    backend: str,
    precision: str,
    laplacian: str,
    with_z: bool,
) -> list[Tensor]:
    """Gradients for z, empty unless with_z, and for the network's tensors."""
    settings = Settings(activation, out_activation, has_time, backend, precision)
    jet_bar = (u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar)
    options = {"laplacian": laplacian, "probes": probes, "with_z": with_z, "precision": precision}
    with profiled("jet_backward"):
        return JETS[backend]().jet_backward(settings.mlp(tensors), z, index, slot, jet_bar=jet_bar, **options)


@fake(_jet_backward)
def _(z: Tensor, index: Tensor, slot: Tensor, tensors: list[Tensor], *rest: Any) -> list[Tensor]:
    return empty_gradients(z if rest[-1] else None, *tensors, like=z)


_jet_backward.register_vmap(slice_by_slice(torch.ops.fastflow.jet_backward))


@quick_to_apply
class _Jet(torch.autograd.Function):
    @staticmethod
    def forward(
        options: _Options, probes: Tensor | None, index: Tensor, slot: Tensor, z: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        settings, laplacian, with_u_tt = options
        return torch.ops.fastflow.jet(z, index, slot, list(tensors), probes, *settings, laplacian, with_u_tt)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *jet_bar: Tensor | None) -> tuple[Tensor | None, ...]:
        probes, index, slot, *inputs = ctx.saved_tensors
        if not ctx.options.with_u_tt:  # a constant
            jet_bar = (*jet_bar[:4], None)
        backward = _JetBackward.apply if second_backward_may_follow() else _JetBackward.forward
        gradients = backward(ctx.options, ctx.needs_input_grad[4], probes, index, slot, *jet_bar, *inputs)
        return *(None,) * 4, *gradients

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], int]:
        options, probes, index, slot, z, *tensors = arguments
        batch = _fold(info, in_dims[1:], probes=probes, index=index, slot=slot, z=z, tensors=tensors)
        outputs = _Jet.apply(options, probes, batch.network, batch.slot, batch.z, *batch.parameters)
        return tuple(unfold(output, info.batch_size) for output in outputs), 0


@quick_to_apply
class _JetBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        options: _Options, with_z: bool, probes: Tensor | None, index: Tensor, slot: Tensor, *tensors: Any
    ) -> tuple[Tensor, ...]:
        jet_bar, z, parameters = tensors[:5], tensors[5], tensors[6:]
        arguments = (z, index, slot, list(parameters), probes, *jet_bar, *options.settings, options.laplacian, with_z)
        return tuple(torch.ops.fastflow.jet_backward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        probes, index, slot, *tensors = ctx.saved_tensors
        jet_bar, inputs = tensors[:5], tensors[5:]

        def twin(z: Tensor, *parameters: Tensor) -> Jet:
            mlp = ctx.options.settings.mlp(parameters)
            return reference.jet(mlp, z, index, slot, ctx.options.laplacian, probes=probes)

        inputs_bar, jet_bar_bar = differentiate_backward(twin, inputs, jet_bar, seconds)
        return *(None,) * 5, *jet_bar_bar, *inputs_bar

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        # A sum over each slice's own samples: slices that share networks may not be folded into one call.
        return map_slices(info.batch_size, in_dims, arguments, _JetBackward.apply)
