"""The native CPU engine behind operators' signatures: outputs are allocated here, filled there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastflow.ops.backends import native_module
from fastflow.ops.types import MLP, Jet

LAPLACIANS = {"exact": "exact", "hutchinson": "probes", "none": "none"}


def jet(mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, laplacian: str, probes: Tensor | None) -> Jet:
    """See `reference.jet`."""
    z, index, slot = _plain(z, index, slot)
    scalars = [z.new_empty(len(z)) for _ in range(4)]
    result = Jet(scalars[0], torch.empty_like(z), *scalars[1:])
    native_module.jet_forward(_network(mlp), z, index, slot, result, **_options(mlp, laplacian, probes))
    return result


def jet_backward(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: str,
    probes: Tensor | None,
    jet_bar: Sequence[Tensor | None],
) -> list[Tensor]:
    """Gradients with respect to z and the network's tensors, for cotangents of the jet's five parts."""
    z, index, slot = _plain(z, index, slot)
    jet_bar = [None if bar is None else bar.detach().contiguous() for bar in jet_bar]
    z_bar, gradient = torch.empty_like(z), _empty_gradient(mlp)
    options = _options(mlp, laplacian, probes)
    native_module.jet_backward(_network(mlp), z, index, slot, jet_bar, z_bar, gradient, **options)
    return [z_bar, *_flat(gradient)]


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None
) -> Tensor:
    """See `reference.residual_loss`."""
    z, index, slot, coefficients = _plain(z, index, slot, coefficients)
    source = None if source is None else source.detach().contiguous()
    residual = z.new_empty(len(z))
    options = _options(mlp, "exact", None)
    loss = native_module.residual_loss(_network(mlp), z, index, slot, coefficients, source, residual, **options)
    return z.new_tensor(loss)


def residual_loss_and_gradient(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients with respect to z, coefficients, source (empty if None) and the network's tensors."""
    z, index, slot, coefficients = _plain(z, index, slot, coefficients)
    source = None if source is None else source.detach().contiguous()
    residual, z_bar, coefficients_bar = z.new_empty(len(z)), torch.empty_like(z), torch.empty_like(coefficients)
    source_bar = None if source is None else torch.empty_like(source)
    gradient = _empty_gradient(mlp)
    loss = native_module.residual_loss_backward(
        _network(mlp), z, index, slot, coefficients, source, residual, 1.0, z_bar, gradient, coefficients_bar,
        source_bar, **_options(mlp, "exact", None),
    )  # fmt: skip
    source_bar = z.new_empty(0) if source_bar is None else source_bar
    return z.new_tensor(loss), [z_bar, coefficients_bar, source_bar, *_flat(gradient)]


def _network(mlp: MLP) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    out_weight, out_bias = _plain(mlp.out_weight, mlp.out_bias)
    return _plain(*mlp.weights), _plain(*mlp.bias_jets), out_weight, out_bias


def _empty_gradient(mlp: MLP) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    def empty(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype)

    return (
        [empty(w) for w in mlp.weights],
        [empty(b) for b in mlp.bias_jets],
        empty(mlp.out_weight),
        empty(mlp.out_bias),
    )


def _flat(gradient: tuple[list[Tensor], list[Tensor], Tensor, Tensor]) -> list[Tensor]:
    weights, bias_jets, out_weight, out_bias = gradient
    return [*weights, *bias_jets, out_weight, out_bias]


def _options(mlp: MLP, laplacian: str, probes: Tensor | None) -> dict[str, Any]:
    return {
        "activation": mlp.activation,
        "out_activation": mlp.out_activation,
        "has_time": mlp.has_time,
        "laplacian": LAPLACIANS[laplacian],
        "probes": None if probes is None else probes.detach().to(mlp.out_bias.dtype).contiguous(),
        "num_threads": torch.get_num_threads(),
    }


def _plain(*tensors: Tensor) -> list[Tensor]:
    """Contiguous and without a graph, as the native side takes them."""
    return [tensor.detach().contiguous() for tensor in tensors]
