"""The forward Laplacian by folx (JAX on the CPU, jax.jit), held to one thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# XLA makes its thread pool, one thread for each processor that it may use, with the first client.
_allowed = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(_allowed)})
try:
    import jax
    import jax.numpy as jnp
    from folx import forward_laplacian

    jax.devices("cpu")
finally:
    os.sched_setaffinity(0, _allowed)

from benchmarks.problem import JET_OUTPUTS, TIME, Network, Prepared, Problem  # noqa: E402


def folx_jet(problem: Problem) -> Prepared:
    """One forward Laplacian in z, whose Jacobian is the gradient, and one tangent along t."""
    network, z, t = _arrays(problem)

    def each(network: Network, x: Any, t: Any) -> tuple[Any, ...]:
        result = forward_laplacian(lambda y: _value(network, y, t), disable_jit=True)(x)
        _, u_t = jax.jvp(lambda s: _value(network, x, s), (t,), (jnp.ones_like(t),))
        return result.x, result.jacobian.dense_array, result.laplacian, u_t

    mapped = jax.jit(jax.vmap(each, in_axes=(None, 0, 0)))
    call = _blocking(lambda: mapped(network, z, t))
    return Prepared(call, lambda out: dict(zip(JET_OUTPUTS, map(_tensor, out), strict=True)))


def folx_training(problem: Problem) -> Prepared:
    """The same with u_tt by a tangent of a tangent, under jax.value_and_grad."""
    network, z, t = _arrays(problem)

    def residual(network: Network, x: Any, t: Any) -> Any:
        def u_t(s: Any) -> Any:
            return jax.jvp(lambda r: _value(network, x, r), (s,), (jnp.ones_like(s),))[1]

        laplacian = forward_laplacian(lambda y: _value(network, y, t), disable_jit=True)(x).laplacian
        return jax.jvp(u_t, (t,), (jnp.ones_like(t),))[1] - laplacian

    mapped = jax.vmap(residual, in_axes=(None, 0, 0))
    step = jax.jit(jax.value_and_grad(lambda network, z, t: (mapped(network, z, t) ** 2).mean()))
    call = _blocking(lambda: step(network, z, t))

    def outputs(result: tuple[Any, Network]) -> dict[str, Tensor]:
        loss, gradient = result
        leaves = jax.tree.map(_tensor, gradient).leaves()
        return {"loss": _tensor(loss), **problem.gradients(leaves)}

    return Prepared(call, outputs)


def _value(network: Network, z: Any, t: Any) -> Any:
    """Value u () at z (D,) and t (). Rows, and each with its own time: several times as fast under vmap."""
    h = jnp.tanh(z @ network.weights[0].T + network.biases[0] + t * network.time_weight)
    for weight, bias in zip(network.weights[1:], network.biases[1:], strict=True):
        h = jnp.tanh(h @ weight.T + bias)
    return jnp.tanh(h @ network.out_weight + network.out_bias)


def _arrays(problem: Problem) -> tuple[Network, Any, Any]:
    network = jax.tree.map(lambda x: jnp.asarray(x.detach().numpy()), problem.network())
    return network, jnp.asarray(problem.z.numpy()), jnp.full(problem.case.batch, TIME, jnp.float32)


def _blocking(function: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(function())


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x))
