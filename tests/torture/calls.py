"""Calls of the engine: valid ones give what the reference gives in float64, hostile ones that or a clear error."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from support.networks import random_mlp
from support.tolerances import OPERATOR, REVERSE_FLOW
from torch import Tensor, nn

import fastflow as ff
from fastflow.core.errors import BackendError, ConvergenceError, InputError
from fastflow.engine.activations import ACTIVATIONS, OUT_ACTIVATIONS
from fastflow.engine.backends import reference
from fastflow.engine.backends.reference import num_times
from fastflow.engine.integration import Integration
from fastflow.engine.mlp import mlp_jet
from fastflow.engine.operators.flow import flow as flow_operator
from fastflow.engine.operators.jet import jet as jet_operator
from fastflow.engine.operators.residual_loss import residual_loss as residual_loss_operator
from fastflow.engine.operators.rollout_loss import rollout_loss as rollout_loss_operator
from fastflow.engine.pde import EQUATIONS
from fastflow.engine.types import MLP
from torture.parts import REFUSED, RIGHT, Fault, Part

_CLEAR = (InputError, BackendError, ConvergenceError)
"""What public functions raise for arguments that don't fit."""
_DIRECT = (*_CLEAR, ValueError, TypeError, RuntimeError, LookupError, AttributeError)
"""What operators raise when they are called directly: the module's own errors, and those of torch and of Python."""
_ROUNDINGS = 32  # of the inputs: a result may err as much as these change it
_ROUNDED = 4  # so many times, with other signs
_LOOSE = 5e-3  # of such paths in float32; in float64 it is the table's REVERSE_FLOW


class Call(NamedTuple):
    """A call of the engine, which can be made in another precision too.

    Attributes:
        function: what is called.
        arguments: what it is called with, by name; tensors, modules, and other things.
        differentiated: the names of the arguments whose gradients are compared; modules' parameters always are.
        direct: whether it is an operator, below the checks of public functions.
        seed: of the random numbers that a backward's cotangents are drawn with.
        loose: the tolerance beside that of the table, such as that of a reverse flow.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    differentiated: tuple[str, ...]
    direct: bool
    seed: int
    loose: float = 0.0


class Calls(Part):
    """A case is a call: a valid one, or in two of three cases one that was made hostile.

    Args:
        folder, seed: as for every part.
        backend: what computes; the device's own backend if None.
    """

    def __init__(self, folder: Path, seed: int, backend: str | None = None) -> None:
        super().__init__(folder, seed)
        self._backend = backend

    def try_case(self, number: int) -> str:
        rng = self.rng(number)
        torch.manual_seed(rng.getrandbits(40))
        call = rng.choice(_VALID)(rng)
        if number % 3:
            return self._try_hostile(_spoilt(call, rng))
        try:
            found = _outcome(call, self._context())
        except ConvergenceError:  # a path that can't be undone is refused
            if (
                call.arguments.get("direction", getattr(call.arguments.get("integration"), "direction", ""))
                != "reverse"
            ):
                raise
            return REFUSED
        self._compare(call, found)
        return RIGHT

    def _try_hostile(self, spoilt: _Spoilt) -> str:
        allowed = _DIRECT if spoilt.call.direct else _CLEAR
        try:
            found = _outcome(spoilt.call, self._context())
        except allowed as error:
            if not str(error).strip() or ("\n" in str(error).strip() and isinstance(error, _CLEAR)):
                raise Fault(f"{spoilt.what}: the message has {len(str(error).splitlines())} lines: {error}") from error
            return REFUSED
        except Exception as error:
            raise Fault(f"{spoilt.what}: {type(error).__name__}: {error}") from error
        try:
            if spoilt.comparable:
                self._compare(spoilt.call, found)
        except Fault as fault:
            raise Fault(f"{spoilt.what}: {fault}") from fault
        return RIGHT

    def _context(self) -> Any:
        return nullcontext() if self._backend is None else ff.use_backend(self._backend)

    def _compare(self, call: Call, found: list[Tensor | None]) -> None:
        """Raise Fault unless a call gave what the reference gives in float64."""
        try:
            expected = _outcome(_in(torch.float64, call), ff.use_backend("reference"))
        except ConvergenceError:  # which depends on the last digits of what isn't far from it
            return
        except Exception as error:
            raise Fault(f"it gave a value where the reference raises {type(error).__name__}: {error}") from error
        dtype = next((x.dtype for x in found if x is not None and x.is_floating_point()), torch.float64)
        limits = OPERATOR.get(dtype)
        if limits is None or len(found) != len(expected):
            raise Fault(f"it gave {len(found)} results of {dtype}, expected {len(expected)}")
        others: list[tuple[int, list[Tensor | None]]] | None = None
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            if (one is None) != (other is None) or (one is not None and one.shape != other.shape):
                raise Fault(f"result {place} has shape {_shape(one)}, expected {_shape(other)}")
            if one is None or other is None:
                continue
            error = _distance(one, other)
            allowed = max(limits["rtol"], limits["atol"], call.loose)
            if error <= allowed:
                continue
            if others is None:  # low precision may err as plain PyTorch does in it, and as much as roundings weigh
                others = [(2, _outcome(call, ff.use_backend("reference")))]
                for seed in range(_ROUNDED):  # in one of them, a product's roundings may cancel each other
                    for together in (False, True):
                        rounded = _rounded(call, dtype, call.seed + seed, together=together)
                        others.append((_ROUNDINGS, _outcome(rounded, ff.use_backend("reference"))))
                        if call.loose:
                            with _rounded_slopes(call, dtype, call.seed + seed):
                                others.append((_ROUNDINGS, _outcome(rounded, ff.use_backend("reference"))))
            if math.isnan(error) and _has_overflown(others[0][1]):
                continue  # in plain PyTorch too, perhaps in other results: what meets infinity depends on the order
            if not any(_is_within(error, times * _distance(result[place], other)) for times, result in others):
                where = f"{error:.2e} off, allowed are {allowed:.0e}"
                raise Fault(f"result {place} of {len(found)} is {where}: {_words(call)}")


def _has_overflown(found: list[Tensor | None]) -> bool:
    """Whether a result isn't finite."""
    return any(x is not None and x.is_floating_point() and not bool(x.isfinite().all()) for x in found)


def _is_within(error: float, allowed: float) -> bool:
    """Whether an error is small enough; where the other result isn't finite either, it is."""
    return math.isnan(allowed) or error <= allowed


def _distance(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference, relative to the largest value, or to 1 where that is smaller; NaN if NaNs differ."""
    if one is None or other is None:
        return math.nan
    one, other = one.detach().double(), other.detach().double()
    if not one.numel():
        return 0.0
    finite = other.isfinite() & one.isfinite()
    same = finite | (one == other) | (one.isnan() & other.isnan()) | ~other.isfinite()
    if one.is_meta or not bool(same.all()):
        return math.nan
    if not bool(finite.any()):
        return 0.0
    scale = max(1.0, float(other[finite].abs().max()))
    return float((one - other)[finite].abs().max()) / scale


def _outcome(call: Call, where: Any) -> list[Tensor | None]:
    """What a call gives: its values, then the gradients of a random sum of them."""
    with where:
        leaves = _leaves(call)
        generator = torch.Generator().manual_seed(call.seed)
        result = call.function(**call.arguments)
        values = [result] if isinstance(result, Tensor) else list(result)
        active = [value for value in values if value.requires_grad]
        gradients: list[Tensor | None] = [torch.zeros_like(x) for x in leaves]
        if active and leaves:
            bars = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in values if x.requires_grad]
            loss = sum(((x * bar.to(x)).sum() for x, bar in zip(active, bars, strict=True)), torch.zeros(()))
            gradients = list(torch.autograd.grad(loss, leaves, allow_unused=True))
            # No gradient means the same as zero.
            gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
        return [*values, *gradients]


def _leaves(call: Call) -> list[Tensor]:
    found: list[Tensor] = []
    for name, value in call.arguments.items():
        if isinstance(value, nn.Module):
            found += [parameter for parameter in value.parameters() if parameter.requires_grad]
        elif isinstance(value, MLP):
            found += [x for x in value.tensors() if isinstance(x, Tensor) and x.requires_grad]
        elif name in call.differentiated and isinstance(value, Tensor) and value.requires_grad:
            found.append(value)
    return found


def _in(dtype: torch.dtype, call: Call) -> Call:
    """The same call with all its numbers in another precision."""
    return call._replace(arguments={name: _as(dtype, value) for name, value in call.arguments.items()})


def _rounded(call: Call, dtype: torch.dtype, seed: int, *, together: bool) -> Call:
    """The same call in float64, its numbers off by a rounding in `dtype`, up or down.

    Args:
        together: whether all numbers of a tensor are off by a rounding of the largest, as they are where rotations mix
            them, in place of each by its own. Numbers above 2^41 count as that: beside these nothing would be left.
    """
    signs, eps = torch.Generator().manual_seed(seed), torch.finfo(dtype).eps
    changed = _in(torch.float64, call)
    with torch.no_grad():
        for value in changed.arguments.values():
            tensors = value.parameters() if isinstance(value, nn.Module) else (value,)
            for x in value.tensors() if isinstance(value, MLP) else tensors:
                if isinstance(x, Tensor) and x.is_floating_point() and not x.is_sparse and x.numel():
                    size = x.nan_to_num(0, 0, 0).abs().max().clamp_max(2.0**41) if together else x
                    x.add_(eps * size * (2 * torch.randint(0, 2, x.shape, generator=signs).to(x) - 1))
    return changed


@contextmanager
def _rounded_slopes(call: Call, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Paths whose slopes are off by roundings of the products that they are sums of.

    A slope of all but nothing, which saturated units leave, has no direction beside these. A step of fixed length goes
    along it all the same.
    """
    networks = [value for value in call.arguments.values() if isinstance(value, (MLP, ff.PotentialBank))]
    layers = [(*net.weights, net.out_weight[:, None]) for net in networks]
    size = max(math.prod(float(x.abs().sum(-1).max()) for x in weights) for weights in layers) if layers else 0.0
    signs, whole = torch.Generator().manual_seed(seed), reference._slope

    def slope(field: Any, z: Tensor, *rest: Any) -> Tensor:
        signs.manual_seed(seed)
        off = 2 * torch.randint(0, 2, z.shape, generator=signs).to(z) - 1
        return whole(field, z, *rest) + torch.finfo(dtype).eps * size * off

    reference._slope = slope
    try:
        yield
    finally:
        reference._slope = whole


def _as(dtype: torch.dtype, value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return value.detach().to(dtype, copy=True).as_subclass(Tensor).requires_grad_(value.requires_grad)
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(dtype)
    if isinstance(value, MLP):
        return value.with_tensors([_as(dtype, x) for x in value.tensors()])
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_as(dtype, x) for x in value)
    return value


# Valid calls


def _bank(rng: random.Random) -> ff.PotentialBank:
    hidden = tuple(rng.choice((1, 2, 3, 5, 8, 16, 17, 33)) for _ in range(rng.choice((1, 1, 2, 2, 3, 4))))
    bank = ff.PotentialBank(
        rng.choice((1, 2, 3, 5)),
        rng.choice((1, 2, 3, 4, 7, 8, 15, 32)),
        hidden,
        rng.choice(ACTIVATIONS),
        rng.choice(OUT_ACTIVATIONS),
        rng.choice(("sinusoidal", "linear", "none")),
    ).to(rng.choice((torch.float32, torch.float64)))
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.mul_(rng.choice((0.5, 1, 2)))
    if rng.random() < 0.3:
        bank.requires_grad_(False)
    return bank


def _batch(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 3, 5, 7, 17))


def _latents(rng: random.Random, batch: int, dim: int, like: Tensor) -> Tensor:
    """Latents (B, D), now and then laid out in another way, or in need of gradients."""
    z = torch.randn(batch, dim, dtype=like.dtype)
    way = rng.randrange(8)
    if way == 0:
        z = torch.randn(dim, batch, dtype=like.dtype).T
    elif way == 1:
        z = torch.randn(batch, 2 * dim + 1, dtype=like.dtype)[:, 1::2][:, :dim]
    elif way == 2 and batch:
        z = torch.randn(1, dim, dtype=like.dtype).expand(batch, dim)
    elif way == 3:
        z = torch.randn(2 * batch + 1, dim, dtype=like.dtype)[1::2][:batch]
    return z.detach().requires_grad_(rng.random() < 0.5)


def _index(rng: random.Random, batch: int, count: int) -> int | Tensor:
    if rng.random() < 0.4:
        return rng.randrange(count)
    index = torch.randint(count, (batch,))
    return torch.stack((index, index), 1)[:, 0] if rng.random() < 0.2 else index


def _time(rng: random.Random, batch: int, like: Tensor) -> Any:
    way = rng.randrange(5)
    if way == 0:
        return rng.choice((0, 1, 3, 0.5, -2.0, 7.25))
    if way == 1:
        return torch.tensor(rng.uniform(0, 9), dtype=rng.choice((torch.float32, like.dtype)))
    if way == 2:
        grid = torch.rand(rng.choice((1, 2, 4)), dtype=like.dtype) * 8
        return grid, torch.randint(len(grid), (batch,))
    return (9 * torch.rand(batch, dtype=like.dtype)).requires_grad_(rng.random() < 0.2)


def _equation(rng: random.Random, count: int) -> nn.Module:
    name = rng.choice(sorted(set(EQUATIONS) - {"hamilton-jacobi"}))
    try:
        return EQUATIONS[name](num_potentials=rng.choice((None, count)), learnable=rng.random() < 0.5)
    except TypeError:
        return EQUATIONS[name]()


def _jet_call(rng: random.Random) -> Call:
    bank, batch = _bank(rng), _batch(rng)
    z = _latents(rng, batch, bank.dim, bank.out_bias)
    laplacian = rng.choice(("exact", "exact", "none", "hutchinson", "row_sum"))
    probes = rng.choice((1, 2, 5))
    seed = rng.getrandbits(30)

    def jet(bank: Any, z: Any, t: Any, index: Any, laplacian: Any, num_probes: Any, with_u_tt: Any) -> Any:
        generator = torch.Generator().manual_seed(seed)
        options = {"laplacian": laplacian, "num_probes": num_probes, "generator": generator, "with_u_tt": with_u_tt}
        return bank.jet(z, t, index, **options)

    arguments = {
        "bank": bank,
        "z": z,
        "t": _time(rng, batch, bank.out_bias),
        "index": _index(rng, batch, bank.num_potentials),
        "laplacian": laplacian,
        "num_probes": probes,
        "with_u_tt": rng.random() < 0.7,
    }
    return Call(jet, arguments, ("z", "t"), False, seed)


def _pde_call(rng: random.Random) -> Call:
    bank, batch = _bank(rng), max(1, _batch(rng))
    arguments = {
        "bank": bank,
        "z": _latents(rng, batch, bank.dim, bank.out_bias),
        "t": _time(rng, batch, bank.out_bias),
        "index": _index(rng, batch, bank.num_potentials),
        "pde": _equation(rng, bank.num_potentials).to(bank.out_bias.dtype),
    }
    return Call(ff.pde_loss, arguments, ("z", "t"), False, rng.getrandbits(30))


def _path(rng: random.Random) -> dict[str, Any]:
    return {
        "steps": rng.choice((1, 2, 2, 5)),
        "t0": rng.choice((0.0, 1, -0.5)),
        "dt": rng.choice((1.0, 0.5, 0.1, -0.25)),
        "method": rng.choice(("euler", "heun", "rk4")),
        "step_length": rng.choice((None, None, 0.3)),
    }


def _quiet_path(rng: random.Random, bank: ff.PotentialBank) -> dict[str, Any]:
    """A path's settings; the bank gets small gradients where its steps follow them, so that roundings stay small."""
    path = _path(rng)
    if path["step_length"] is None:
        with torch.no_grad():
            bank.out_weight.mul_(0.1)
    return path


def _flow_call(rng: random.Random) -> Call:
    bank, batch = _bank(rng), _batch(rng)
    path = _quiet_path(rng, bank)
    direction = rng.choice(("forward", "forward", "forward", "descent", "reverse"))
    arguments = {
        "bank": bank,
        "z0": _latents(rng, batch, bank.dim, bank.out_bias),
        "index": _index(rng, batch, bank.num_potentials),
        **path,
        "direction": direction,
    }
    loose = _looseness(bank.out_bias, direction, path["step_length"])
    return Call(ff.flow, arguments, ("z0",), False, rng.getrandbits(30), loose)


def _looseness(like: Tensor, direction: str, step_length: float | None) -> float:
    """How much more than roundings of its inputs a path may err, for its gradients too.

    The iterations of a reverse flow stop at roundings, and steps of a set length divide by the gradient's.
    """
    if direction != "reverse" and step_length is None:
        return 0.0
    return REVERSE_FLOW if like.dtype == torch.float64 else _LOOSE


def _mixed_call(rng: random.Random) -> Call:
    bank, batch = _bank(rng), _batch(rng)
    path = _quiet_path(rng, bank)
    chosen = rng.sample(range(bank.num_potentials), rng.randint(1, bank.num_potentials))
    arguments = {
        "bank": bank,
        "z0": _latents(rng, batch, bank.dim, bank.out_bias),
        "mix": {k: rng.choice((1.0, -0.5, 2)) for k in chosen},
        **path,
    }
    loose = _looseness(bank.out_bias, "forward", path["step_length"])
    return Call(ff.mixed_flow, arguments, ("z0",), False, rng.getrandbits(30), loose)


def _rollout_call(rng: random.Random) -> Call:
    bank, batch = _bank(rng), max(1, _batch(rng))
    path = _quiet_path(rng, bank)
    arguments = {
        "bank": bank,
        "z0": _latents(rng, batch, bank.dim, bank.out_bias),
        "index": _index(rng, batch, bank.num_potentials),
        "pde": _equation(rng, bank.num_potentials).to(bank.out_bias.dtype),
        **path,
    }
    loose = _looseness(bank.out_bias, "forward", path["step_length"])
    return Call(ff.rollout_loss, arguments, ("z0",), False, rng.getrandbits(30), loose)


_LAYERS = {"tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "softplus": nn.Softplus, "sin": ff.Sin}


def _mlp_call(rng: random.Random) -> Call:
    dim, batch, dtype = rng.choice((1, 2, 3, 8)), _batch(rng), rng.choice((torch.float32, torch.float64))
    timed = rng.random() < 0.5
    widths = [dim + timed, *(rng.choice((1, 2, 7, 16)) for _ in range(rng.choice((1, 2, 3))))]
    kind = rng.choice(tuple(_LAYERS.values()))
    layers: list[nn.Module] = []
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width, bias=rng.random() < 0.8), kind()]
    layers += [nn.Linear(widths[-1], 1), *([nn.Tanh()] if rng.random() < 0.4 else [])]
    net = nn.Sequential(*layers).to(dtype)
    x = _latents(rng, batch, dim, net[0].weight)
    t = None
    if timed:
        t = rng.choice((0.5, 2, torch.tensor(1.5, dtype=dtype), torch.rand(batch, dtype=dtype)))
    fallback = rng.choice((None, None, None, "reference"))
    arguments = {"net": net, "x": x, "t": t, "laplacian": rng.choice(("exact", "none")), "fallback": fallback}
    return Call(mlp_jet, arguments, ("x", "t"), False, rng.getrandbits(30))


def _direct(rng: random.Random) -> tuple[MLP, int, int, torch.dtype]:
    dtype = rng.choice((torch.float32, torch.float64))
    networks, dim, slots = rng.choice((1, 2, 4)), rng.choice((1, 2, 5, 8)), rng.choice((1, 2, 6))
    hidden = tuple(rng.choice((1, 2, 7, 16, 17)) for _ in range(rng.choice((1, 2, 3))))
    activation, out = rng.choice(ACTIVATIONS), rng.choice(OUT_ACTIVATIONS)
    mlp = random_mlp(networks, dim, hidden, slots, activation, out, rng.getrandbits(30), dtype)
    if rng.random() < 0.6:
        mlp = mlp.with_tensors([x.requires_grad_() for x in mlp.tensors()])
    return mlp, dim, slots, dtype


def _direct_jet_call(rng: random.Random) -> Call:
    mlp, dim, slots, dtype = _direct(rng)
    batch = _batch(rng)
    laplacian = rng.choice(("exact", "none", "hutchinson"))
    arguments = {
        "mlp": mlp,
        "z": _latents(rng, batch, dim, mlp.out_bias),
        "index": torch.randint(mlp.out_bias.shape[0], (batch,)),
        "slot": torch.randint(slots, (batch,)),
        "laplacian": laplacian,
        "probes": torch.randn(3, dim, dtype=dtype) if laplacian == "hutchinson" else None,
        "with_u_tt": rng.random() < 0.7,
    }
    return Call(jet_operator, arguments, ("z",), True, rng.getrandbits(30))


def _direct_loss_call(rng: random.Random) -> Call:
    mlp, dim, slots, dtype = _direct(rng)
    batch, networks = max(1, _batch(rng)), mlp.out_bias.shape[0]
    arguments = {
        "mlp": mlp,
        "z": _latents(rng, batch, dim, mlp.out_bias),
        "index": torch.randint(networks, (batch,)),
        "slot": torch.randint(slots, (batch,)),
        "coefficients": torch.randn(networks, 5, dtype=dtype).requires_grad_(rng.random() < 0.5),
        "source": torch.randn(batch, dtype=dtype).requires_grad_(rng.random() < 0.5) if rng.random() < 0.4 else None,
    }
    return Call(residual_loss_operator, arguments, ("z", "coefficients", "source"), True, rng.getrandbits(30))


def _direct_path(rng: random.Random, direction: str) -> tuple[dict[str, Any], torch.dtype, int]:
    mlp, dim, slots, dtype = _direct(rng)
    tensors = mlp.tensors()
    with torch.no_grad():
        tensors[-2] = (0.05 * tensors[-2]).detach().requires_grad_(tensors[-2].requires_grad)
    mlp = mlp.with_tensors(tensors)
    batch, networks = max(1, _batch(rng)), mlp.out_bias.shape[0]
    method = rng.choice(("euler", "heun", "rk4"))
    steps = rng.choice((1, 2, 4))
    length = rng.choice((None, None, 0.3)) if direction != "reverse" else None
    arguments = {
        "mlp": mlp,
        "z0": _latents(rng, batch, dim, mlp.out_bias),
        "index": torch.randint(networks, (batch,)),
        "slots": torch.randint(slots, (num_times(steps, method), networks)),
        "integration": Integration(rng.choice((1.0, 0.25, -0.5)), method, direction, length),
    }
    return arguments, dtype, networks


def _direct_flow_call(rng: random.Random) -> Call:
    direction = rng.choice(("forward", "forward", "forward", "descent", "reverse"))
    arguments, _, _ = _direct_path(rng, direction)
    loose = _looseness(arguments["mlp"].out_bias, direction, arguments["integration"].step_length)
    return Call(flow_operator, arguments, ("z0",), True, rng.getrandbits(30), loose)


def _direct_rollout_call(rng: random.Random) -> Call:
    arguments, dtype, networks = _direct_path(rng, "forward")
    arguments["coefficients"] = torch.randn(networks, 5, dtype=dtype).requires_grad_(rng.random() < 0.5)
    loose = _looseness(arguments["mlp"].out_bias, "forward", arguments["integration"].step_length)
    return Call(rollout_loss_operator, arguments, ("z0", "coefficients"), True, rng.getrandbits(30), loose)


_VALID = (
    _jet_call,
    _pde_call,
    _flow_call,
    _mixed_call,
    _rollout_call,
    _mlp_call,
    _direct_jet_call,
    _direct_loss_call,
    _direct_flow_call,
    _direct_rollout_call,
)


# Hostile calls


class _Spoilt(NamedTuple):
    """A hostile call, what is hostile about it, and whether the reference says what it should give."""

    call: Call
    what: str
    comparable: bool


class _Marked(Tensor):
    """A subclass of a tensor that adds nothing."""


def _spoilt(call: Call, rng: random.Random) -> _Spoilt:
    """The call with one argument replaced by a hostile one."""
    arguments, tensor = dict(call.arguments), False
    name = rng.choice([name for name, value in arguments.items() if not isinstance(value, nn.Module)])
    value = arguments[name]
    if isinstance(value, MLP):
        tensors = value.tensors()
        place = rng.randrange(len(tensors))
        tensors[place], how = _hostile_tensor(tensors[place], rng)
        arguments[name], tensor = value.with_tensors(tensors), True
        name = f"{name}.tensors()[{place}]"
    elif isinstance(value, Tensor) and rng.random() < 0.85:
        arguments[name], how = _hostile_tensor(value, rng)
        tensor = True
    elif isinstance(value, Integration) and rng.random() < 0.85:
        field = rng.choice(Integration._fields)
        hostile, how = _hostile_value(rng)
        arguments[name], name = value._replace(**{field: hostile}), f"{name}.{field}"
    else:
        arguments[name], how = _hostile_value(rng)
    what = f"{getattr(call.function, '__name__', call.function)} with {name} {how}"
    # What comes of numbers at the end of their range is nobody's promise, nor what operators that are called directly
    # make of other things than tensors.
    endless = any(word in how for word in ("NaN", "infinity", "huge"))
    comparable = "e+308" not in how and not (call.direct and (endless or not tensor))
    return _Spoilt(call._replace(arguments=arguments), what, comparable)


def _hostile_tensor(x: Tensor, rng: random.Random) -> tuple[Any, str]:
    """A tensor changed in one way, and what was done to it."""
    ways: dict[str, Callable[[], Any]] = {
        "in another dtype": lambda: x.detach().to(rng.choice(_DTYPES)),
        "on the meta device": lambda: x.detach().to("meta"),
        "with one more dimension": lambda: x.detach()[None],
        "flattened": lambda: x.detach().flatten(),
        "without a dimension": lambda: x.detach().sum(-1) if x.ndim else x.detach()[None],
        "longer": lambda: torch.cat((x, x)).detach() if x.ndim else x.detach().repeat(2),
        "shorter": lambda: x.detach()[: max(0, len(x) - 1)] if x.ndim else x.detach(),
        "narrower": lambda: x.detach()[..., :-1] if x.ndim else x.detach(),
        "empty": lambda: x.detach()[:0] if x.ndim else x.new_zeros(0),
        "with NaN": lambda: _with(x, float("nan"), rng),
        "with infinity": lambda: _with(x, float("inf"), rng),
        "with huge numbers": lambda: _with(x, rng.choice((1e30, -1e300, 2**62)), rng),
        "with negative numbers": lambda: _with(x, rng.choice((-1, -2, -(2**40))), rng),
        "sparse": lambda: x.detach().to_sparse(),
        "of a subclass": lambda: x.detach().clone().as_subclass(_Marked),
        "as a parameter": lambda: nn.Parameter(x.detach().clone(), requires_grad=x.is_floating_point()),
        "conjugated": lambda: torch.complex(x.detach().double(), x.detach().double()).conj(),
        "overlapping": lambda: _overlapping(x),
        "in need of a gradient": lambda: x.detach().clone().requires_grad_(x.is_floating_point()),
        "as an array": lambda: x.detach().numpy(),
        "as a list": lambda: x.detach().tolist(),
    }
    how = rng.choice(tuple(ways))
    return ways[how](), how


_DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool,
    torch.complex64,
)  # fmt: skip


def _with(x: Tensor, value: float, rng: random.Random) -> Tensor:
    """A copy with a hostile number in one place, as far as its dtype can hold it."""
    y = x.detach().clone().contiguous()
    if y.numel():
        limits = torch.finfo(y.dtype) if y.is_floating_point() else torch.iinfo(y.dtype)
        fits = math.isfinite(value) and limits.min <= value <= limits.max
        if y.is_floating_point() or fits:
            y.view(-1)[rng.randrange(y.numel())] = torch.tensor(value if y.is_floating_point() else int(value)).to(y)
    return y


def _overlapping(x: Tensor) -> Tensor:
    """A tensor of the same shape whose places share memory."""
    if not x.numel() or not x.ndim:
        return x.detach()
    return x.detach().clone().contiguous().as_strided(x.shape, (0,) * x.ndim)


def _hostile_value(rng: random.Random) -> tuple[Any, str]:
    value = rng.choice(_HOSTILE)
    return value, f"= {value!r}"


_HOSTILE: tuple[Any, ...] = (
    None, "", "exact ", "forward", b"euler", True, False, -1, 0, 2**70, -(2**70), float("nan"), float("inf"), 1e308,
    5e-324, 3 + 4j, [], {}, (), object, (1, 2), {0: float("nan")}, {9: 1.0}, {-1: 1.0}, {True: 1.0}, {0: 0.0},
    {"0": 1.0}, torch.tensor(1), torch.tensor([[1.0]]), torch.device("meta"), [0], range(3),
)  # fmt: skip


def _shape(x: Tensor | None) -> str:
    return "none" if x is None else str(tuple(x.shape))


def _words(call: Call) -> str:
    """A call's arguments in a line."""
    words = []
    for name, value in call.arguments.items():
        if isinstance(value, Tensor):
            value = f"{value.dtype} {tuple(value.shape)}"
        elif isinstance(value, MLP):
            value = f"{value.activation} {value.out_activation} {[tuple(x.shape) for x in value.tensors()]}"
        words.append(f"{name}={' '.join(str(value).split())}")
    return ", ".join(words)[:1500]
