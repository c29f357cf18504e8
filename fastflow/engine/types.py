"""What the engine's operators take and give: the stacked networks and the jet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

Laplacian = Literal["exact", "hutchinson", "none", "row_sum"]
Method = Literal["euler", "heun", "rk4"]
Direction = Literal["forward", "descent", "reverse"]


class Jet(NamedTuple):
    """Value and derivatives of a potential at each sample.

    u (B,), grad (B, D), laplacian (B,): the trace of the spatial Hessian, u_t (B,), u_tt (B,); all of the latents'
    dtype. `laplacian` and `u_tt` are zero where they weren't asked for; `laplacian` is (B, D) under
    `laplacian="row_sum"`.
    """

    u: Tensor
    grad: Tensor
    laplacian: Tensor
    u_t: Tensor
    u_tt: Tensor


class MLP(NamedTuple):
    """K stacked scalar networks whose time dependence has been evaluated into S rows of biases.

    weights: L tensors (K, H_l, H_{l-1}), H_0 = D.
    bias_jets: L tensors (S, 3, H_l): the bias of layer l with its first and second time derivative. A sample's slot
    names its row.
    out_weight (K, H_L), out_bias (K,).
    has_time: False promises that the bias jets' derivatives are zero, so that u_t and u_tt need no computation.
    """

    weights: tuple[Tensor, ...]
    bias_jets: tuple[Tensor, ...]
    out_weight: Tensor
    out_bias: Tensor
    activation: str
    out_activation: str
    has_time: bool = True

    def tensors(self) -> list[Tensor]:
        """All parameters in one list: weights, bias jets, out_weight, out_bias."""
        return [*self.weights, *self.bias_jets, self.out_weight, self.out_bias]

    def with_tensors(self, tensors: Sequence[Tensor]) -> MLP:
        """The same network with other parameters, in the order of `tensors`."""
        *layers, out_weight, out_bias = tensors
        depth = len(layers) // 2
        return self._replace(
            weights=tuple(layers[:depth]), bias_jets=tuple(layers[depth:]), out_weight=out_weight, out_bias=out_bias
        )
