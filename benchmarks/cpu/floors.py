"""How few floating-point operations each operator needs for one sample, a multiply-add counting as two.

The network has D inputs and L hidden layers of width H, so P = (D + 1) H + (L - 1) H^2 + H weights. Its Laplacian takes
r = min(D, H) tangents, lower trapezoidal in the first layer: T operations carry them into the second, F into each later
one. Activations, the time derivatives and everything else that grows only with H are left out.
"""

from __future__ import annotations


def num_weights(dim: int, width: int, depth: int) -> int:
    """P, the multiply-adds of one evaluation."""
    return (dim + 1) * width + (depth - 1) * width**2 + width


def triangle(dim: int, width: int, depth: int) -> int:
    """T = 2 H (H r - r (r - 1) / 2): the triangular tangents times the second layer's weight."""
    rank = min(dim, width)
    return 2 * width * (width * rank - rank * (rank - 1) // 2) if depth > 1 else 0


def full_layer(dim: int, width: int, depth: int) -> int:
    """F = 2 r H^2: tangents times a later layer's weight."""
    return 2 * min(dim, width) * width**2 if depth > 1 else 0


def jet(dim: int, width: int, depth: int) -> int:
    """Value, gradient, Laplacian and time derivatives: 4 P + T + F (L - 2)."""
    layers = full_layer(dim, width, depth) * max(depth - 2, 0)
    return 4 * num_weights(dim, width, depth) + triangle(dim, width, depth) + layers


def training(dim: int, width: int, depth: int) -> int:
    """A loss of the jet with the gradients of all parameters: 12 P + 2 T + F + 3 F (L - 2).

    The triangle is saved twice; the gradient of the first layer's tangents needs a whole product.
    """
    full = full_layer(dim, width, depth)
    layers = full + 3 * full * max(depth - 2, 0)
    return 12 * num_weights(dim, width, depth) + 2 * triangle(dim, width, depth) + layers


def flow(dim: int, width: int, depth: int) -> int:
    """One step along the gradient: 4 P."""
    return 4 * num_weights(dim, width, depth)


def flow_backward(dim: int, width: int, depth: int) -> int:
    """One step and its part of the backward: 12 P, `training` without tangents."""
    return 12 * num_weights(dim, width, depth)


def nested_autograd(dim: int, width: int, depth: int) -> int:
    """The jet by D more backward passes through the gradient: 4 P (D + 1)."""
    return 4 * num_weights(dim, width, depth) * (dim + 1)


def forward_laplacian(dim: int, width: int, depth: int) -> int:
    """The Laplacian by D forward tangents: 2 P (D + 2)."""
    return 2 * num_weights(dim, width, depth) * (dim + 2)


def taylor_mode(dim: int, width: int, depth: int) -> int:
    """The Laplacian by D second-order Taylor expansions: 2 P (2 D + 1)."""
    return 2 * num_weights(dim, width, depth) * (2 * dim + 1)


PER_SAMPLE = {
    "jet": jet,
    "training": training,
    "flow": flow,
    "flow_backward": flow_backward,
    "rollout": training,  # the flow's gradient is part of the jet
}
