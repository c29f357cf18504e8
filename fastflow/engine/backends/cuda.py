"""The CUDA flow integrator behind operators' signatures: outputs and workspace are allocated here, filled there.

Calls are enqueued on the device's current stream and never wait for it, so they can be captured in a CUDA graph. An
index outside the networks, or a slot outside the bias rows, therefore stops the kernel, and torch tells of it at the
next synchronisation.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.core.errors import BackendError, InputError
from fastflow.engine.backends.memory import empty_gradients, plain
from fastflow.engine.backends.reference import num_steps
from fastflow.engine.backends.selection import cuda_missing, cuda_module
from fastflow.engine.types import MLP


class Machine(NamedTuple):
    """Where a call runs."""

    module: Any  # fastflow._cuda
    device: AbstractContextManager[Any]  # makes the tensors' device the current one
    stream: int
    multiprocessors: int
    shared_bytes: int  # that a block may ask for


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
    """See `reference.flow`.

    Raises:
        InputError: tensors of different devices or dtypes, or a network that the integrator doesn't take.
        BackendError: the module is missing.
    """
    machine = _machine(z0)
    z0, index, slots = plain(z0, index, slots)
    network = plain(*mlp.tensors())
    _check(z0, index, slots, *network)
    steps = num_steps(slots.shape[0], method)
    points, error = z0.new_empty(z0.shape[0], steps + 1, z0.shape[1]), z0.new_empty(z0.shape[0])
    with machine.device:
        plan = _plan(
            machine,
            mlp,
            z0=z0,
            slots=slots,
            dt=dt,
            method=method,
            direction=direction,
            step_length=step_length,
            backward=False,
        )
        order, offsets = _sorted(index, mlp.out_bias.shape[0])
        workspace = _workspace(plan, z0)
        machine.module.flow(
            plan=plan, **_addresses(network), order=order.data_ptr(), offsets=offsets.data_ptr(),
            slot_of=slots.data_ptr(), z0=z0.data_ptr(), path=points.data_ptr(), error=error.data_ptr(),
            workspace=workspace.data_ptr(), stream=machine.stream,
        )  # fmt: skip
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
    """Gradients with respect to the path's start and the network's tensors, for a cotangent of the path.

    The same bits every time on the same device.
    """
    machine = _machine(points)
    points, index, slots, points_bar = plain(points, index, slots, points_bar)
    network = plain(*mlp.tensors())
    _check(points, index, slots, points_bar, *network)
    z0_bar, *gradient = empty_gradients(points[:, 0], *network, like=points)
    with machine.device:
        plan = _plan(
            machine,
            mlp,
            z0=points[:, 0],
            slots=slots,
            dt=dt,
            method=method,
            direction=direction,
            step_length=step_length,
            backward=True,
        )
        order, offsets = _sorted(index, mlp.out_bias.shape[0])
        slot_order, slot_offsets = _sorted(slots.flatten(), mlp.bias_jets[0].shape[0])
        workspace = _workspace(plan, points)
        bars = {f"{name}_bar": address for name, address in _addresses(gradient).items()}
        machine.module.flow_backward(
            plan=plan, **_addresses(network), order=order.data_ptr(), offsets=offsets.data_ptr(),
            slot_of=slots.data_ptr(), slot_order=slot_order.data_ptr(), slot_offsets=slot_offsets.data_ptr(),
            path=points.data_ptr(), path_bar=points_bar.data_ptr(), z0_bar=z0_bar.data_ptr(), **bars,
            workspace=workspace.data_ptr(), stream=machine.stream,
        )  # fmt: skip
    return [z0_bar, *gradient]


def _machine(tensor: Tensor) -> Machine:
    reason = cuda_missing()
    if reason is not None:
        raise BackendError(f"the CUDA flow integrator is missing: {reason}")
    if tensor.device.type != "cuda":
        raise InputError(f"the CUDA flow integrator takes tensors on a CUDA device, got one on {tensor.device}")
    properties = torch.cuda.get_device_properties(tensor.device)
    return Machine(
        cuda_module,
        torch.cuda.device(tensor.device),
        torch.cuda.current_stream(tensor.device).cuda_stream,
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
    )


def _plan(
    machine: Machine,
    mlp: MLP,
    z0: Tensor,
    slots: Tensor,
    dt: float,
    method: str,
    direction: str,
    step_length: float | None,
    *,
    backward: bool,
) -> Any:
    try:
        return machine.module.FlowPlan(
            widths=[z0.shape[1], *(weight.shape[1] for weight in mlp.weights)],
            potentials=mlp.out_bias.shape[0],
            slots=mlp.bias_jets[0].shape[0],
            batch=z0.shape[0],
            times=slots.shape[0],
            activation=mlp.activation,
            out_activation=mlp.out_activation,
            dt=dt,
            method=method,
            direction=direction,
            step_length=-1.0 if step_length is None else step_length,
            dtype=str(z0.dtype).removeprefix("torch."),
            backward=backward,
            multiprocessors=machine.multiprocessors,
            shared_bytes=machine.shared_bytes,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _sorted(groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The positions of `groups` sorted by value, and where each value's start (num_groups + 1,), without waiting."""
    values, order = torch.sort(groups, stable=True)
    return order, torch.searchsorted(values, torch.arange(num_groups + 1, device=groups.device))


def _workspace(plan: Any, like: Tensor) -> Tensor:
    return torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=like.device)


def _addresses(network: list[Tensor]) -> dict[str, Any]:
    *layers, out_weight, out_bias = (x.data_ptr() for x in network)
    depth = len(layers) // 2
    return {
        "weights": layers[:depth],
        "bias_jets": layers[depth:],
        "out_weight": out_weight,
        "out_bias": out_bias,
    }


def _check(z: Tensor, index: Tensor, slots: Tensor, *others: Tensor) -> None:
    for name, integers in (("index", index), ("slots", slots)):
        if integers.dtype != torch.long:
            raise InputError(f"{name} must be torch.long, got {integers.dtype}")
    if index.shape != z.shape[:1]:
        raise InputError(f"index must have shape ({z.shape[0]},), got {tuple(index.shape)}")
    for x in (index, slots, *others):
        if x.device != z.device:
            raise InputError(
                f"latents, index, slots and parameters must be on one device, got {z.device} and {x.device}"
            )
    for x in others:
        if x.dtype != z.dtype:
            raise InputError(f"latents and parameters must have one dtype, got {z.dtype} and {x.dtype}")
