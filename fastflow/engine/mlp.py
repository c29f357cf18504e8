"""Jets of an ordinary torch network: exact gradients, Laplacians and time derivatives without the rest of fastflow."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import _has_any_global_hook

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.engine.backends.native import MAX_DEPTH
from fastflow.engine.elementary import Elementary
from fastflow.engine.inputs import (
    Time,
    check_laplacian,
    check_latents,
    check_parameters,
    check_time,
    check_with_u_tt,
    draw_probes,
)
from fastflow.engine.operators.jet import jet
from fastflow.engine.tracing import any_requires_grad, func_transforms, values_of
from fastflow.engine.types import MLP, Jet, Laplacian

_Kind = TypeVar("_Kind", bound=nn.Module)


class Sin(nn.Module):
    """sin(x), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Return sin(x); x may have any shape."""
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
            Tanh may follow. Parameters are read where they are, parametrised ones too, and gradients go back to them.
            Only parameters are read: a layer with hooks or a forward of its own is refused.
        x: inputs (B, D) of the parameters' dtype.
        t: if given, the net's last input, for x (B, D) and a first layer of D + 1 inputs; a number or (B,). The
            Laplacian is over x alone, and u_t and u_tt are the derivatives with respect to t. Without it they are zero.
        laplacian, num_probes, generator, with_u_tt: as for `PotentialBank.jet`.
        fallback: "reference" computes other networks that give one value for each sample by nested automatic
            differentiation, at its price: other activations, mixed ones, normalisations, more than 8 hidden layers.
            Batch normalisation and dropout have to be in eval mode.

    Raises:
        InputError: a layer that can't be taken, by its place, or an argument that doesn't fit.

    >>> net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> mlp_jet(net, torch.zeros(5, 3)).laplacian.shape
    torch.Size([5])
    """
    if fallback not in (None, "reference"):
        raise InputError(f"fallback must be None or 'reference', got {fallback!r}")
    check_laplacian(laplacian)
    check_with_u_tt(with_u_tt)
    if laplacian == "row_sum":
        raise InputError("laplacian must be one of exact, hutchinson, none for mlp_jet, got 'row_sum'")
    if not isinstance(net, nn.Sequential):
        raise InputError(f"net must be an nn.Sequential, got {type(net).__name__}")
    first = next((module for module in net.modules() if isinstance(module, nn.Linear)), None)
    if first is None:
        raise InputError("net must have Linear layers, got none")
    like = check_parameters(net.named_parameters())
    layers = _parse(net)
    dim = first.in_features - (t is not None)
    if isinstance(layers, str) and fallback is None:
        raise InputError(f"{layers}; {_advice(net, like, dim, t is not None)}")
    if dim < 1:
        raise InputError("net must have an input for x" + (", and one more for t" if t is not None else ""))
    x = check_latents(x, dim, like, "x")
    time = None if t is None else check_time(t, x)
    if isinstance(t, tuple):
        raise InputError("t must be a number or a tensor of shape (B,) for mlp_jet, got a grid")
    probes = draw_probes(x, num_probes, generator) if laplacian == "hutchinson" else None
    if isinstance(layers, str):
        result = _nested_jet(net, x, time, laplacian, probes)
        return result if with_u_tt else result._replace(u_tt=torch.zeros_like(result.u_tt))
    with torch.autocast(x.device.type, enabled=False):
        if time is not None and time.place is None:
            return _jet_at_times(layers, x, time.values, laplacian=laplacian, probes=probes, with_u_tt=with_u_tt)
        mlp = _bind(layers, x, None if time is None else time.values)
        return _jet(mlp, x, laplacian=laplacian, probes=probes, with_u_tt=with_u_tt)


class _Layers(NamedTuple):
    linears: list[nn.Linear]
    activation: str
    out_activation: str


def _parse(net: nn.Sequential) -> _Layers | str:
    """The layers that the engine takes, or why it can't take them."""
    if not _computes(net, nn.Sequential):
        return f"net must be a plain nn.Sequential, got {type(net).__name__} with a forward of its own"
    linears: list[nn.Linear] = []
    activation = None
    modules = list(net)
    if _has_any_global_hook():
        return "a hook is registered for all modules (register_module_forward_hook), which the engine wouldn't call"
    if _has_hooks(net):
        return "net has hooks, which the engine wouldn't call"
    for place, module in enumerate(modules):
        if _has_hooks(module):
            return f"net has hooks on layer {place}, {type(module).__name__}, which the engine wouldn't call"
    out_activation = "tanh" if len(modules) > 1 and _computes(modules[-1], nn.Tanh) else "identity"
    body = modules[:-1] if out_activation == "tanh" else modules
    for place, module in enumerate(body):
        shown = " ".join(str(module).split())  # one line, of a nested Sequential too
        if place % 2 == 0:
            if not _computes(module, nn.Linear):
                return f"net must have a Linear layer at place {place}, got {shown}"
            if linears and module.in_features != linears[-1].out_features:
                return (
                    f"layer {place} takes {module.in_features} inputs, the one before gives {linears[-1].out_features}"
                )
            if module.out_features < 1:
                return f"layer {place} must have at least one output, got {shown}"
            linears.append(module)
        else:
            name = _activation_name(module)
            if name is None:
                return (
                    f"the engine can't take layer {place}, {shown}: expected Tanh, GELU(), SiLU, Softplus() or a sine"
                )
            if activation not in (None, name):
                return f"the engine takes one activation for all layers: layer {place} is {shown}, after {activation}"
            activation = name
    if len(body) % 2 == 0:
        return f"net must end in Linear(., 1), got {type(body[-1]).__name__}"
    if linears[-1].out_features != 1:
        last = linears[-1]
        return f"net must end in Linear(., 1), got Linear({last.in_features}, {last.out_features})"
    if len(linears) < 2:
        return "net must have a hidden layer, got Linear(., 1) alone"
    if len(linears) > MAX_DEPTH + 1:
        return f"the engine takes up to {MAX_DEPTH} hidden layers, got {len(linears) - 1}"
    assert activation is not None
    return _Layers(linears, activation, out_activation)


def _computes(module: nn.Module, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Whether a module's forward is `kind`'s: that of a subclass may be another, a parametrised layer's is the same."""
    return type(module).forward is kind.forward and "forward" not in vars(module)


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(len(kind) > 0 for kind in hooks)


def _activation_name(module: nn.Module) -> str | None:
    if _computes(module, nn.Tanh):
        return "tanh"
    if _computes(module, nn.GELU):
        return "gelu" if module.approximate == "none" else None
    if _computes(module, nn.SiLU):
        return "silu"
    if _computes(module, nn.Softplus):
        # Beyond its threshold torch's is the identity, from 20 on to within 2e-9.
        return "softplus" if module.beta == 1 and module.threshold >= 20 else None
    if _computes(module, Sin) or (type(module).__name__ in ("Sin", "Sine") and _is_sine(module)):
        return "sin"
    return None


def _is_sine(module: nn.Module) -> bool:
    """Whether a module called Sine computes sin(x), and not sin(30 x) as some do, or something that learns."""
    if next(module.parameters(), None) is not None:
        return False
    x = torch.tensor([-1.3, 0.2, 0.9], device="cpu")
    with torch.no_grad():
        y = module(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return False
    close = (y - x.sin()).abs().amax() < 1e-5
    values = values_of(close)
    if values is None:  # in a graph, which then asks whenever it runs
        torch.ops.aten._assert_async.msg(close, "a module called Sine must compute sin(x), net's computes another")
        return True
    return bool(values)


def _jet(mlp: MLP, x: Tensor, *, laplacian: Laplacian, probes: Tensor | None, with_u_tt: bool) -> Jet:
    """The jets of a bank's only network with its only row of biases."""
    index, slot = torch.zeros(2, x.shape[0], dtype=torch.long, device=x.device)
    return jet(mlp, x, index, slot, laplacian=laplacian, probes=probes, with_u_tt=with_u_tt)


def _jet_at_times(
    layers: _Layers, x: Tensor, t: Tensor, *, laplacian: Laplacian, probes: Tensor | None, with_u_tt: bool
) -> Jet:
    """The jets at times t (B,): time is a coordinate like those of x, along which nothing bends the Laplacian.

    So all samples share one row of biases, whose derivative with respect to time is the first layer's last column.
    """
    if laplacian == "exact":
        # The mean over D probes of length sqrt(D) along the axes of x is the sum over these axes.
        laplacian, probes = "hutchinson", x.shape[1] ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    probes = None if probes is None else nn.functional.pad(probes, (0, 1))  # and none along t
    mlp = _bind(layers, x, None)
    time_weight = mlp.weights[0][0, :, -1]
    zeros = torch.zeros_like(time_weight)
    bias = mlp.bias_jets[0] + torch.stack((zeros, time_weight, zeros))
    mlp = mlp._replace(bias_jets=(bias, *mlp.bias_jets[1:]), has_time=True)
    x = torch.cat((x, t[:, None]), 1)
    result = _jet(mlp, x, laplacian=laplacian, probes=probes, with_u_tt=with_u_tt)
    return result._replace(grad=result.grad[:, :-1])


def _bind(layers: _Layers, x: Tensor, t: Tensor | None) -> MLP:
    """One network whose parameters are the layers' own, with one row of biases, evaluated at the time t (1,)."""
    *hidden, last = layers.linears
    weights, bias_jets = [], []
    for place, linear in enumerate(hidden):
        weight = linear.weight
        bias = x.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        velocity = torch.zeros_like(bias)
        if place == 0 and t is not None:
            weight, velocity = weight[:, :-1], weight[:, -1]
            bias = bias + t * velocity
        weights.append(weight[None])
        bias_jets.append(torch.stack((bias, velocity, torch.zeros_like(bias)))[None])
    out_bias = x.new_zeros(1) if last.bias is None else last.bias
    settings = (layers.activation, layers.out_activation, t is not None)
    return MLP(tuple(weights), tuple(bias_jets), last.weight, out_bias, *settings)


def _nested_jet(net: nn.Sequential, x: Tensor, time: Time | None, laplacian: Laplacian, probes: Tensor | None) -> Jet:
    """The jet of any network by nested automatic differentiation, sample by sample under vmap."""
    for place, module in enumerate(net):
        if problem := _depends_on_more(module):
            shown = " ".join(str(module).split())
            raise InputError(f"net must compute each sample by itself: layer {place}, {shown}, {problem}")
    if torch.compiler.is_compiling():
        for place, module in enumerate(net):
            if any(isinstance(part, nn.LayerNorm | nn.GroupNorm | _InstanceNorm | nn.GLU) for part in module.modules()):
                raise InputError(
                    f"net's layer {place}, {type(module).__name__}, can't be taken inside torch.compile, where "
                    "torch's third derivatives of it are wrong or missing: call mlp_jet outside of it"
                )
        return _nested(net, x, time, laplacian, probes)
    with explaining("nested automatic differentiation of net"):
        if not _is_ordinary(net) and any_requires_grad(x, *net.parameters()) and not func_transforms():
            with torch.enable_grad():  # operations that lack a third derivative show it here, and not in a backward
                part = None if time is None else Time(time.of_each()[:1].detach(), None)
                trial = _nested(net, x[:1].detach(), part, laplacian, probes)
                summed = torch.stack([value.sum() for value in trial]).sum()
                if summed.requires_grad:
                    torch.autograd.grad(summed, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        return _nested(net, x, time, laplacian, probes)


def _nested(net: nn.Sequential, x: Tensor, time: Time | None, laplacian: Laplacian, probes: Tensor | None) -> Jet:
    times = torch.zeros_like(x[:, 0]) if time is None else time.of_each()
    batched = any(map(_needs_a_batch, net.modules()))

    def u(point: Tensor, t: Tensor) -> Tensor:
        point = point if time is None else torch.cat((point, t[None]))
        value = net(point[None])[0] if batched else net(point)
        if value.shape != (1,):
            raise InputError(
                f"net must give one value for each sample, got shape {tuple(value.shape)}: make an nn.Sequential for "
                "each output, which may share the layers before it"
            )
        return value[0]

    gradient = torch.func.grad(u)

    def one(point: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        if laplacian == "exact":
            trace = torch.func.jacfwd(gradient)(point, t).trace()
        elif probes is not None:
            seconds = torch.vmap(lambda v: v @ torch.func.jvp(lambda p: gradient(p, t), (point,), (v,))[1])(probes)
            trace = seconds.mean()
        else:
            trace = torch.zeros_like(t)
        rate = torch.func.grad(u, argnums=1)
        return u(point, t), gradient(point, t), trace, rate(point, t), torch.func.grad(rate, 1)(point, t)

    if torch.compiler.is_compiling() or _is_ordinary(net):
        result = Jet(*torch.vmap(one)(x, times))
    else:
        with sdpa_kernel(SDPBackend.MATH), Elementary():  # fused attention has no second derivatives
            result = Jet(*torch.vmap(one)(x, times))
    return result if time is not None else result._replace(u_t=torch.zeros_like(times), u_tt=torch.zeros_like(times))


def _advice(net: nn.Sequential, like: Tensor, dim: int, timed: bool) -> str:
    """Whether the fallback computes what the engine can't take, as a trial with one sample tells."""
    if dim < 1:
        return "net must have an input for x" + (", and one more for t" if timed else "")
    x = torch.zeros(1, dim, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad():
            _nested_jet(net, x, Time(x[:, 0], None) if timed else None, "exact", None)
    except InputError as error:
        return f"fallback='reference' can't compute it either: {error}"
    return "fallback='reference' computes it by nested automatic differentiation"


def _depends_on_more(module: nn.Module) -> str:
    """Why a layer's output for a sample depends on more than the sample and the parameters; empty if it doesn't."""
    for part in module.modules():
        random = isinstance(part, _DropoutNd) and part.p > 0
        if part.training and (random or isinstance(part, nn.RReLU)):
            return "draws random numbers in training mode: call net.eval()"
        if isinstance(part, _NormBase) and not isinstance(part, _InstanceNorm):
            if part.running_mean is None:
                return "normalises by the statistics of the batch: set track_running_stats=True"
            if part.training:
                return "normalises by the statistics of the batch in training mode: call net.eval()"
    return ""


def _needs_a_batch(module: nn.Module) -> bool:
    """Whether a layer takes batches alone; all others get a sample as a vector."""
    if isinstance(module, nn.Flatten | nn.Unflatten):
        return 1 in (getattr(module, "start_dim", None), getattr(module, "dim", None))
    return isinstance(module, _NormBase | nn.GroupNorm)


def _is_ordinary(net: nn.Sequential) -> bool:
    """Whether all derivatives of torch's own layers of these kinds are right and there."""
    return all(type(module) in _ORDINARY for module in net.modules())


_ORDINARY = {
    nn.Sequential, nn.Linear, nn.Identity, nn.Dropout, Sin, nn.CELU, nn.ELU, nn.GELU,
    nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU,
    nn.Sigmoid, nn.Softmax, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink,
}  # fmt: skip
