"""The native CPU engine behind operators' signatures: outputs are allocated here, filled there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.engine.backends.memory import empty_gradients, plain
from fastflow.engine.backends.reference import num_steps
from fastflow.engine.backends.selection import native_module
from fastflow.engine.types import MLP, Jet

MAX_DEPTH = 8


def jet(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: str,
    probes: Tensor | None,
    with_u_tt: bool,
    precision: str,
) -> Jet:
    """See `reference.jet`."""
    z, index, slot = plain(z, index, slot)
    scalars = [z.new_empty(len(z)) for _ in range(4)]
    result = Jet(scalars[0], torch.empty_like(z), *scalars[1:])
    if not with_u_tt:
        result.u_tt.zero_()
    wanted = result if with_u_tt else (*result[:4], None)
    native_module.jet(_network(mlp), z, index, slot, wanted, **_options(mlp, laplacian, probes))
    return result


def jet_backward(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: str,
    probes: Tensor | None,
    jet_bar: Sequence[Tensor | None],
    with_z: bool,
    precision: str,
) -> list[Tensor]:
    """Gradients for z (empty unless with_z) and the network's tensors, from cotangents of the jet's five parts."""
    z, index, slot = plain(z, index, slot)
    jet_bar = [None if bar is None else bar.detach().contiguous() for bar in jet_bar]
    z_bar, *gradient = empty_gradients(z if with_z else None, *mlp.tensors(), like=z)
    native_module.jet_backward(
        _network(mlp), z, index, slot, jet_bar, z_bar if with_z else None, _nested(gradient),
        **_options(mlp, laplacian, probes),
    )  # fmt: skip
    return [z_bar, *gradient]


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None, precision: str
) -> Tensor:
    """See `reference.residual_loss`."""
    z, index, slot, coefficients = plain(z, index, slot, coefficients)
    source = None if source is None else source.detach().contiguous()
    residual = z.new_empty(len(z))
    options = _options(mlp, "exact", None)
    loss = native_module.residual_loss(_network(mlp), z, index, slot, coefficients, source, residual, **options)
    return z.new_tensor(loss)


def residual_loss_and_gradient(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    with_z: bool,
    precision: str,
) -> list[Tensor]:
    """The loss, then its gradients: for z (empty unless with_z), coefficients, source (empty if None), the network."""
    z, index, slot, coefficients = plain(z, index, slot, coefficients)
    source = None if source is None else source.detach().contiguous()
    wanted = (z if with_z else None, coefficients, source, *mlp.tensors())
    z_bar, coefficients_bar, source_bar, *gradient = empty_gradients(*wanted, like=z)
    loss = native_module.residual_loss_and_gradient(
        _network(mlp), z, index, slot, coefficients, source, z.new_empty(len(z)), 1.0, z_bar if with_z else None,
        _nested(gradient), coefficients_bar, None if source is None else source_bar, **_options(mlp, "exact", None),
    )  # fmt: skip
    return [z.new_tensor(loss), z_bar, coefficients_bar, source_bar, *gradient]


def flow(
    mlp: MLP,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    dt: float,
    method: str,
    direction: str,
    step_length: float | None,
) -> tuple[Tensor, Tensor]:
    """See `reference.flow`."""
    z0, index, slots = plain(z0, index, slots)
    points, error = _empty_path(z0, slots, method), z0.new_zeros(len(z0))
    options = {**_network_options(mlp), **_path_options(dt, method, direction, step_length)}
    native_module.flow(_network(mlp), z0, index, slots, points, error, **options)
    return points, error


def flow_backward(
    mlp: MLP,
    points: Tensor,
    index: Tensor,
    slots: Tensor,
    points_bar: Tensor,
    dt: float,
    method: str,
    direction: str,
    step_length: float | None,
) -> list[Tensor]:
    """Gradients with respect to the path's start and the network's tensors, for a cotangent of the path."""
    points, index, slots, points_bar = plain(points, index, slots, points_bar)
    z0_bar, *gradient = empty_gradients(points[:, 0], *mlp.tensors(), like=points)
    options = {**_network_options(mlp), **_path_options(dt, method, direction, step_length)}
    native_module.flow_backward(_network(mlp), points, index, slots, points_bar, z0_bar, _nested(gradient), **options)
    return [z0_bar, *gradient]


def rollout_loss(
    mlp: MLP,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    dt: float,
    method: str,
    step_length: float | None,
) -> list[Tensor]:
    """See `reference.rollout_loss`."""
    z0, index, slots, coefficients = plain(z0, index, slots, coefficients)
    points = _empty_path(z0, slots, method)
    options = {**_options(mlp, "exact", None), **_path_options(dt, method, "forward", step_length)}
    loss = native_module.rollout_loss(_network(mlp), z0, index, slots, coefficients, None, points, None, **options)
    return [z0.new_tensor(loss), points]


def rollout_loss_and_gradient(
    mlp: MLP,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    dt: float,
    method: str,
    step_length: float | None,
) -> list[Tensor]:
    """The loss and the path, then the loss's gradients with respect to z0, coefficients and the network's tensors."""
    z0, index, slots, coefficients = plain(z0, index, slots, coefficients)
    points = _empty_path(z0, slots, method)
    path = _path_options(dt, method, "forward", step_length)
    return _rollout_gradient(
        mlp,
        z0,
        points=points,
        index=index,
        slots=slots,
        coefficients=coefficients,
        loss_bar=1.0,
        points_bar=None,
        path=path,
    )


def rollout_loss_backward(
    mlp: MLP,
    points: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    loss_bar: Tensor,
    points_bar: Tensor,
    dt: float,
    method: str,
    step_length: float | None,
) -> list[Tensor]:
    """The gradients for cotangents of both loss and path, the path being one that `rollout_loss` gave."""
    points, index, slots, coefficients, points_bar = plain(points, index, slots, coefficients, points_bar)
    path = _path_options(dt, method, "forward", step_length)
    return _rollout_gradient(
        mlp,
        None,
        points=points,
        index=index,
        slots=slots,
        coefficients=coefficients,
        loss_bar=float(loss_bar),
        points_bar=points_bar,
        path=path,
    )[2:]


def _rollout_gradient(
    mlp: MLP,
    z0: Tensor | None,
    points: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    loss_bar: float,
    points_bar: Tensor | None,
    path: dict[str, Any],
) -> list[Tensor]:
    z0_bar, coefficients_bar, *gradient = empty_gradients(points[:, 0], coefficients, *mlp.tensors(), like=points)
    loss = native_module.rollout_loss_and_gradient(
        _network(mlp), z0, index, slots, coefficients, None, points, None, loss_bar, points_bar, z0_bar,
        _nested(gradient), coefficients_bar, None, **_options(mlp, "exact", None), **path,
    )  # fmt: skip
    return [points.new_tensor(loss), points, z0_bar, coefficients_bar, *gradient]


def _network(mlp: MLP) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    if len(mlp.weights) > MAX_DEPTH:
        raise InputError(
            f"the native engine takes up to {MAX_DEPTH} hidden layers, got {len(mlp.weights)}: use fewer, or "
            "compute in ff.use_backend('reference')"
        )
    out_weight, out_bias = plain(mlp.out_weight, mlp.out_bias)
    return plain(*mlp.weights), plain(*mlp.bias_jets), out_weight, out_bias


def _nested(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """A network's tensors in the order of `MLP.tensors`, as the native side takes them."""
    *layers, out_weight, out_bias = tensors
    depth = len(layers) // 2
    return layers[:depth], layers[depth:], out_weight, out_bias


def _network_options(mlp: MLP) -> dict[str, Any]:
    return {
        "activation": mlp.activation,
        "out_activation": mlp.out_activation,
        "num_threads": torch.get_num_threads(),
    }


def _options(mlp: MLP, laplacian: str, probes: Tensor | None) -> dict[str, Any]:
    return {
        **_network_options(mlp),
        "has_time": mlp.has_time,
        "laplacian": laplacian,
        "probes": None if probes is None else probes.detach().to(mlp.out_bias.dtype).contiguous(),
    }


def _path_options(dt: float, method: str, direction: str, step_length: float | None) -> dict[str, Any]:
    return {"dt": float(dt), "method": method, "direction": direction, "step_length": step_length}


def _empty_path(z0: Tensor, slots: Tensor, method: str) -> Tensor:
    return z0.new_empty(z0.shape[0], num_steps(slots.shape[0], method) + 1, z0.shape[1])
