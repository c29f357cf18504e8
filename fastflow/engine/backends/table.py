"""What a backend computes, and where it lies: a protocol for each group of operators, and the modules that keep to it.

A module is loaded when it is first asked for, and not before: those for GPUs need packages that a machine without one
can lack. `reference` isn't in the table, because autograd differentiates it and no operator is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from fastflow.engine.types import MLP, Jet


class Jets(Protocol):
    """Jets and the mean squared residuals of equations on them.

    All functions take networks, latents (B, D), each sample's network (B,) and its bias row (B,). `precision` is that
    of a GPU's products of float32 matrices; on the CPU there is one alone.
    """

    def jet(
        self,
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
        ...

    def jet_backward(
        self,
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
        ...

    def residual_loss(
        self,
        mlp: MLP,
        z: Tensor,
        index: Tensor,
        slot: Tensor,
        coefficients: Tensor,
        source: Tensor | None,
        precision: str,
    ) -> Tensor:
        """See `reference.residual_loss`."""
        ...

    def residual_loss_and_gradient(
        self,
        mlp: MLP,
        z: Tensor,
        index: Tensor,
        slot: Tensor,
        coefficients: Tensor,
        source: Tensor | None,
        with_z: bool,
        precision: str,
    ) -> list[Tensor]:
        """The loss, then its gradients: for z (empty unless with_z), coefficients, source (or empty), the network."""
        ...


class Paths(Protocol):
    """Whole paths: `slots` (T, K) are each network's bias rows at the times of the path's stages."""

    def flow(
        self,
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
        ...

    def flow_backward(
        self,
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
        """Gradients for the path's start and the network's tensors, from a cotangent of the path."""
        ...


class Rollouts(Protocol):
    """Paths together with the mean squared residual at their points."""

    def rollout_loss(
        self,
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
        ...

    def rollout_loss_and_gradient(
        self,
        mlp: MLP,
        z0: Tensor,
        index: Tensor,
        slots: Tensor,
        coefficients: Tensor,
        dt: float,
        method: str,
        step_length: float | None,
    ) -> list[Tensor]:
        """The loss and the path, then the loss's gradients for z0, coefficients and the network's tensors."""
        ...

    def rollout_loss_backward(
        self,
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
        """The gradients for cotangents of both the loss and the path."""
        ...


class Everything(Jets, Paths, Rollouts, Protocol):
    """What the native backend computes."""


def _native() -> Everything:
    from fastflow.engine.backends import native

    return native


def _triton() -> Jets:
    from fastflow.engine.backends import triton

    return triton


def _cuda() -> Paths:
    from fastflow.engine.backends import cuda

    return cuda


JETS: dict[str, Callable[[], Jets]] = {"native": _native, "triton": _triton}
PATHS: dict[str, Callable[[], Paths]] = {"native": _native, "cuda": _cuda}
ROLLOUTS: dict[str, Callable[[], Rollouts]] = {"native": _native}
