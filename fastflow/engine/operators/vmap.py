"""torch.vmap over operators: per-sample ones fold the mapped axis into their samples, others go slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Folded(NamedTuple):
    """V mapped calls on B samples each, as one call on V * B samples."""

    network: Tensor
    slot: Tensor
    z: Tensor
    parameters: list[Tensor]


def fold(
    size: int, dims: Sequence[int | None], index: Tensor, slot: Tensor, z: Tensor, parameters: Sequence[Tensor]
) -> Folded:
    """Fold `size` mapped calls; dims name the mapped axis of index, slot, z and each parameter, or None."""
    index_dim, slot_dim, z_dim, *parameter_dims = dims
    index, slot, z = (_front(x, d, size) for x, d in ((index, index_dim), (slot, slot_dim), (z, z_dim)))
    if any(dim is not None for dim in parameter_dims):
        # Each slice has networks of its own: K * V networks, and as many times the bias rows.
        networks, rows = parameters[-1], parameters[len(parameters) // 2 - 1]
        num_networks = networks.shape[0 if parameter_dims[-1] is None else int(parameter_dims[-1] == 0)]
        row_dim = parameter_dims[len(parameters) // 2 - 1]
        num_slots = rows.shape[0 if row_dim is None else int(row_dim == 0)]
        slices = torch.arange(size, device=index.device)[:, None]
        index, slot = index + slices * num_networks, slot + slices * num_slots
        parameters = [_front(x, d, size).flatten(0, 1) for x, d in zip(parameters, parameter_dims, strict=True)]
    return Folded(index.flatten(), slot.flatten(), z.flatten(0, 1), list(parameters))


def unfold(output: Tensor, size: int) -> Tensor:
    """(V * B, ...) to (V, B, ...)."""
    return output.unflatten(0, (size, -1))


def map_slices(
    size: int, dims: Sequence[Any], arguments: Sequence[Any], function: Callable[..., Any]
) -> tuple[Any, Any]:
    """Apply `function` to each slice of the mapped tensors and stack what it gives: correct for every operator."""

    def slice_of(argument: Any, dim: Any, v: int) -> Any:
        if isinstance(argument, list) and dim is not None:
            return [slice_of(x, d, v) for x, d in zip(argument, dim, strict=True)]
        return argument.select(dim, v) if isinstance(argument, Tensor) and dim is not None else argument

    slices = [function(*(slice_of(x, d, v) for x, d in zip(arguments, dims, strict=True))) for v in range(size)]
    if isinstance(slices[0], Tensor):
        return torch.stack(slices), 0
    stacked = tuple(torch.stack(outputs) for outputs in zip(*slices, strict=True))
    return stacked, (0,) * len(stacked)


def slice_by_slice(operator: Any) -> Callable[..., Any]:
    """The vmap rule, as `register_vmap` takes it, that calls a custom operator once for each slice."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_slices(info.batch_size, in_dims, arguments, operator)

    return rule


def _front(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
