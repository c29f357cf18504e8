"""Jets of an ordinary torch network: exact gradients, Laplacians and time derivatives without the rest of fastflow."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastflow.arguments import check_laplacian, check_latents, check_times, draw_probes, sample_times
from fastflow.errors import InputError
from fastflow.ops.jet import jet
from fastflow.ops.native import MAX_DEPTH
from fastflow.ops.types import MLP, Jet, Laplacian


class Sin(nn.Module):
    """sin(x), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return torch.sin(x)


def mlp_jet(
    net: nn.Sequential,
    x: Tensor,
    t: float | Tensor | None = None,
    *,
    laplacian: Laplacian = "exact",
    num_probes: int = 1,
    generator: torch.Generator | None = None,
    with_u_tt: bool = True,
    fallback: Literal["reference"] | None = None,
) -> Jet:
    """Value, gradient, Laplacian and time derivatives of a scalar MLP, exact and differentiable.

    Args:
        net: Linear layers with one activation between each two, the same everywhere: Tanh, GELU() (exact), SiLU,
            Softplus(), `ff.Sin` or a class called Sin or Sine that computes the sine. It ends in Linear(., 1), which a
            Tanh may follow. Parameters are read where they are, and gradients go back to them.
        x: inputs (B, D) of the parameters' dtype.
        t: if given, the net's last input, for x (B, D) and a first layer of D + 1 inputs; a number or (B,). The
            Laplacian is over x alone, and u_t and u_tt are the derivatives with respect to t. Without it they are zero.
        laplacian, num_probes, generator, with_u_tt: as for `PotentialBank.jet`.
        fallback: "reference" computes other elementwise activations, mixed ones and more than 8 hidden layers by nested
            automatic differentiation, at its price.

    Raises:
        InputError: a layer that can't be taken, by its place, or an argument that doesn't fit.

    >>> net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> mlp_jet(net, torch.zeros(5, 3)).laplacian.shape
    torch.Size([5])
    """
    if fallback not in (None, "reference"):
        raise InputError(f"fallback must be None or 'reference', got {fallback!r}")
    check_laplacian(laplacian)
    if laplacian == "row_sum":
        raise InputError("laplacian must be one of exact, hutchinson, none for mlp_jet, got 'row_sum'")
    first = next((module for module in net if isinstance(module, nn.Linear)), None)
    if first is None:
        raise InputError("net must have Linear layers, got none")
    dim = first.in_features - (t is not None)
    if dim < 1:
        raise InputError("net has one input, which t would take: give it one more for x")
    x = check_latents(x, dim, first.weight, "x")
    t = None if t is None else sample_times(check_times(t, x), x) if isinstance(t, Tensor) and t.ndim else t
    probes = draw_probes(x, num_probes, generator) if laplacian == "hutchinson" else None

    parsed = _parse(net)
    if isinstance(parsed, str):
        if fallback is None:
            raise InputError(f"{parsed}; fallback='reference' computes it by nested automatic differentiation")
        nested = _nested_jet(net, x, t, laplacian, probes)
        return nested if with_u_tt else nested._replace(u_tt=torch.zeros_like(nested.u_tt))
    with torch.autocast(x.device.type, enabled=False):
        mlp = _bind(parsed, t, x)
        index = torch.zeros(len(x), dtype=torch.long, device=x.device)
        slot = torch.arange(len(x), device=x.device) if isinstance(t, Tensor) and t.ndim else index
        return jet(mlp, x, index, slot, laplacian, probes, with_u_tt)


class _Layers(NamedTuple):
    linears: list[nn.Linear]
    activation: str
    out_activation: str


def _parse(net: nn.Sequential) -> _Layers | str:
    """The layers that the engine takes, or why it can't take them."""
    linears: list[nn.Linear] = []
    activation = None
    modules = list(net)
    out_activation = "tanh" if len(modules) > 1 and type(modules[-1]) is nn.Tanh else "identity"
    body = modules[:-1] if out_activation == "tanh" else modules
    for place, module in enumerate(body):
        if module._forward_hooks or module._forward_pre_hooks:
            return f"net has hooks on layer {place}, {module}, which the engine wouldn't call"
        if place % 2 == 0:
            if not isinstance(module, nn.Linear):
                return f"net must have a Linear layer at place {place}, got {module}"
            if linears and module.in_features != linears[-1].out_features:
                return (
                    f"layer {place} takes {module.in_features} inputs, the one before gives {linears[-1].out_features}"
                )
            linears.append(module)
        else:
            name = _activation_name(module)
            if name is None:
                return (
                    f"the engine can't take layer {place}, {module}: expected Tanh, GELU(), SiLU, Softplus() or a sine"
                )
            if activation not in (None, name):
                return f"the engine takes one activation for all layers: layer {place} is {module}, after {activation}"
            activation = name
    if len(body) % 2 == 0 or linears[-1].out_features != 1:
        return f"net must end in Linear(., 1), got {body[-1]}"
    if len(linears) < 2:
        return "net must have a hidden layer, got Linear(., 1) alone"
    if len(linears) > MAX_DEPTH + 1:
        return f"the engine takes up to {MAX_DEPTH} hidden layers, got {len(linears) - 1}"
    assert activation is not None
    return _Layers(linears, activation, out_activation)


def _activation_name(module: nn.Module) -> str | None:
    kind = type(module)
    if kind is nn.Tanh:
        return "tanh"
    if kind is nn.GELU and module.approximate == "none":
        return "gelu"
    if kind is nn.SiLU:
        return "silu"
    if kind is nn.Softplus and module.beta == 1:
        return "softplus"
    if kind.__name__ in ("Sin", "Sine") and (kind is Sin or torch.compiler.is_compiling() or _is_sine(module)):
        return "sin"
    return None


def _is_sine(module: nn.Module) -> bool:
    """Whether a module called Sine computes sin(x), and not sin(30 x) as some do."""
    x = torch.tensor([-1.3, 0.2, 0.9])
    with torch.no_grad():
        y = module(x)
    return isinstance(y, Tensor) and y.shape == x.shape and bool(torch.allclose(y, x.sin()))


def _bind(layers: _Layers, t: float | Tensor | None, x: Tensor) -> MLP:
    """One network whose parameters are the layers' own, with biases evaluated at the time or times t."""
    *hidden, last = layers.linears
    rows = len(x) if isinstance(t, Tensor) and t.ndim else 1
    weights, bias_jets = [], []
    for place, linear in enumerate(hidden):
        weight = linear.weight
        bias = weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        value, velocity = bias.expand(rows, -1), torch.zeros_like(bias).expand(rows, -1)
        if place == 0 and t is not None:
            weight, time_weight = weight[:, :-1], weight[:, -1]
            value = value + torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, 1) * time_weight
            velocity = time_weight.expand(rows, -1)
        weights.append(weight[None])
        bias_jets.append(torch.stack((value, velocity, torch.zeros_like(velocity)), 1))
    out_bias = last.weight.new_zeros(1) if last.bias is None else last.bias
    settings: tuple[Any, ...] = (layers.activation, layers.out_activation, t is not None)
    return MLP(tuple(weights), tuple(bias_jets), last.weight, out_bias, *settings)


def _nested_jet(
    net: nn.Sequential, x: Tensor, t: float | Tensor | None, laplacian: Laplacian, probes: Tensor | None
) -> Jet:
    """The jet of any network by nested automatic differentiation, sample by sample under vmap."""
    times = sample_times(0.0 if t is None else t, x)

    def u(point: Tensor, time: Tensor) -> Tensor:
        return net(point if t is None else torch.cat((point, time[None])))[0]

    gradient = torch.func.grad(u)

    def one(point: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        if laplacian == "exact":
            trace = torch.func.jacfwd(gradient)(point, time).trace()
        elif probes is not None:
            seconds = torch.vmap(lambda v: v @ torch.func.jvp(lambda p: gradient(p, time), (point,), (v,))[1])(probes)
            trace = seconds.mean()
        else:
            trace = torch.zeros_like(time)
        rate = torch.func.grad(u, argnums=1)
        return u(point, time), gradient(point, time), trace, rate(point, time), torch.func.grad(rate, 1)(point, time)

    result = Jet(*torch.vmap(one)(x, times))
    return result if t is not None else result._replace(u_t=torch.zeros_like(times), u_tt=torch.zeros_like(times))
