"""The native operators against their twins: values, gradients of both orders, opcheck, threads, networks under vmap."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from support import tolerances
from support.networks import random_mlp, random_samples
from torch import Tensor

import fastflow as ff
from fastflow.engine.backends import reference
from fastflow.engine.integration import Integration
from fastflow.engine.operators.flow import flow
from fastflow.engine.operators.jet import jet
from fastflow.engine.operators.residual_loss import residual_loss
from fastflow.engine.operators.rollout_loss import rollout_loss
from fastflow.engine.operators.settings import Settings
from fastflow.engine.types import MLP

Function = Callable[..., Sequence[Tensor]]


class Operator(NamedTuple):
    """An operator and its twin as functions of the tensors that they are differentiated by."""

    function: Function
    twin: Function
    inputs: list[Tensor]


def network(dtype: torch.dtype, hidden: tuple[int, ...] = (6, 5)) -> MLP:
    mlp = random_mlp(3, 4, hidden, slots=15, activation="gelu", dtype=dtype)
    return mlp._replace(out_weight=0.3 * mlp.out_weight)  # gentle enough for the reverse flow


def jet_operator(
    dtype: torch.dtype, batch: int, laplacian: str = "exact", probes: Tensor | None = None, with_u_tt: bool = True
) -> Operator:
    mlp = network(dtype)
    z, index, slot = random_samples(mlp, batch)
    return Operator(
        lambda z, *t: jet(mlp.with_tensors(t), z, index, slot, laplacian, probes=probes, with_u_tt=with_u_tt),
        lambda z, *t: reference.jet(mlp.with_tensors(t), z, index, slot, laplacian, probes=probes, with_u_tt=with_u_tt),
        [z, *mlp.tensors()],
    )


def probed_operator(dtype: torch.dtype, batch: int) -> Operator:
    signs = torch.tensor([[1, -1, 1, 1], [-1, -1, 1, -1]], dtype=dtype)
    return jet_operator(dtype, batch, "hutchinson", signs)


def once_timed_operator(dtype: torch.dtype, batch: int) -> Operator:
    return jet_operator(dtype, batch, with_u_tt=False)


def residual_operator(dtype: torch.dtype, batch: int, with_source: bool = True) -> Operator:
    mlp = network(dtype)
    z, index, slot = random_samples(mlp, batch)
    rng = torch.Generator().manual_seed(2)
    coefficients = torch.randn(3, 5, generator=rng, dtype=torch.float64).to(dtype)
    source = [torch.randn(batch, generator=rng, dtype=torch.float64).to(dtype)] if with_source else []

    def bind(loss: Callable[..., Tensor]) -> Function:
        def function(z: Tensor, coefficients: Tensor, *rest: Tensor) -> Sequence[Tensor]:
            given, tensors = (rest[0], rest[1:]) if with_source else (None, rest)
            return (loss(mlp.with_tensors(tensors), z, index, slot, coefficients, given),)

        return function

    inputs = [z, coefficients, *source, *mlp.tensors()]
    return Operator(bind(residual_loss), bind(reference.residual_loss), inputs)


def sourceless_operator(dtype: torch.dtype, batch: int) -> Operator:
    return residual_operator(dtype, batch, with_source=False)


def path_slots(method: str) -> Tensor:
    times = {"euler": 3, "heun": 4, "rk4": 5}[method]
    return 5 * torch.arange(3) + torch.arange(times)[:, None]


def flow_operator(dtype: torch.dtype, batch: int, method: str = "rk4", step_length: float | None = None) -> Operator:
    mlp, slots, path = network(dtype), path_slots(method), Integration(0.5, method, "forward", step_length)
    z0, index, _ = random_samples(mlp, batch)
    return Operator(
        lambda z0, *t: (flow(mlp.with_tensors(t), z0, index, slots, path),),
        lambda z0, *t: reference.flow(mlp.with_tensors(t), z0, index, slots, *path)[:1],
        [z0, *mlp.tensors()],
    )


def rollout_operator(
    dtype: torch.dtype, batch: int, method: str = "heun", step_length: float | None = None
) -> Operator:
    mlp, slots, path = network(dtype), path_slots(method), Integration(0.5, method, "forward", step_length)
    z0, index, _ = random_samples(mlp, batch)
    coefficients = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    return Operator(
        lambda z0, c, *t: rollout_loss(mlp.with_tensors(t), z0, index, slots, c, path),
        lambda z0, c, *t: reference.rollout_loss(mlp.with_tensors(t), z0, index, slots, c, 0.5, method, step_length),
        [z0, coefficients, *mlp.tensors()],
    )


OPERATORS = {
    "jet": jet_operator,
    "jet by probes": probed_operator,
    "jet without u_tt": once_timed_operator,
    "residual loss": residual_operator,
    "residual loss without source": sourceless_operator,
    "flow": flow_operator,
    "rollout loss": rollout_operator,
}
every_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())


def weighed(outputs: Sequence[Tensor]) -> Tensor:
    """A scalar that weighs every entry of every output differently."""
    rng = torch.Generator().manual_seed(7)
    weights = (torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x.dtype) for x in outputs)
    return sum((w * x).sum() for w, x in zip(weights, outputs, strict=True))


@pytest.mark.slow
@every_operator
@pytest.mark.parametrize("dtype", tolerances.OPERATOR, ids=str)
@pytest.mark.parametrize("batch", [1, 63, 129])
def test_operator_equals_its_twin(make, dtype, batch):
    operator = make(dtype, batch)
    inputs = [x.requires_grad_() for x in operator.inputs]
    computed, expected = operator.function(*inputs), operator.twin(*inputs)
    torch.testing.assert_close(tuple(computed), tuple(expected), **tolerances.OPERATOR[dtype])
    gradients = (torch.autograd.grad(weighed(outputs), inputs) for outputs in (computed, expected))
    torch.testing.assert_close(*gradients, **tolerances.OPERATOR[dtype])


@every_operator
def test_without_gradients_the_values_are_the_same(make):
    operator = make(torch.float64, 5)
    with torch.no_grad():
        quiet = operator.function(*operator.inputs)
    loud = operator.function(*(x.requires_grad_() for x in operator.inputs))
    torch.testing.assert_close(tuple(quiet), tuple(x.detach() for x in loud), rtol=0, atol=1e-14)


@pytest.mark.slow
@every_operator
def test_gradcheck_and_gradgradcheck(make):
    operator = make(torch.float64, 2)
    inputs = [x.requires_grad_() for x in operator.inputs]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(operator.function(*tensors))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)  # a random projection, for time


def test_a_cotangent_of_the_path_alone_and_of_the_loss_alone():
    operator = rollout_operator(torch.float64, 4)
    inputs = [x.requires_grad_() for x in operator.inputs]
    for part in (0, 1):
        gradients = [
            torch.autograd.grad(
                function(*inputs)[part].square().sum(), inputs, allow_unused=True, materialize_grads=True
            )
            for function in (operator.function, operator.twin)
        ]
        torch.testing.assert_close(*gradients, **tolerances.OPERATOR[torch.float64])


@pytest.mark.slow
@pytest.mark.parametrize("step_length", [None, 0.05])
@pytest.mark.parametrize("direction", ["forward", "descent", "reverse"])
@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_every_kind_of_flow_equals_its_twin(method, direction, step_length):
    mlp, slots, path = network(torch.float64), path_slots(method), Integration(0.5, method, direction, step_length)
    z0, index, _ = random_samples(mlp, 6, seed=4)
    inputs = [x.requires_grad_() for x in (z0, *mlp.tensors())]
    computed = flow(mlp, z0, index, slots, path)
    expected, _ = reference.flow(mlp, z0, index, slots, *path)
    torch.testing.assert_close(computed, expected, **tolerances.OPERATOR[torch.float64])
    gradients = (torch.autograd.grad(weighed((points,)), inputs) for points in (computed, expected))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_the_reverse_flow_refuses_a_second_derivative():
    mlp, slots = network(torch.float64), path_slots("euler")
    z0, index, _ = random_samples(mlp, 3)
    z0.requires_grad_()
    points = flow(mlp, z0, index, slots, Integration(0.5, "euler", "reverse"))
    (gradient,) = torch.autograd.grad(points.square().sum(), z0, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["jet", "jet_backward", "residual_loss", "residual_loss_and_gradient", "flow",
                                      "flow_backward", "rollout_loss", "rollout_loss_backward"])  # fmt: skip
def test_opcheck(operator):
    mlp = network(torch.float64)
    z, index, slot = random_samples(mlp, 4)
    tensors, settings = mlp.tensors(), Settings.of(mlp, "native")
    coefficients, slots = z.new_ones(3, 5), path_slots("euler")
    path, bar = (0.5, "euler", "forward", None), z.new_ones(4, 4, 4)
    points = torch.ops.fastflow.flow(z, index, slots, tensors, *settings, *path)
    rollout = (0.5, "euler", None)
    arguments = {
        "jet": (z, index, slot, tensors, None, *settings, "exact", False),
        "jet_backward": (z, index, slot, tensors, None, z[:, 0], z, None, z[:, 1], None, *settings, "exact", True),
        "residual_loss": (z, index, slot, coefficients, None, tensors, *settings),
        "residual_loss_and_gradient": (z, index, slot, coefficients, z[:, 0], tensors, *settings, False),
        "flow": (z, index, slots, tensors, *settings, *path),
        "flow_backward": (points, index, slots, bar, tensors, *settings, *path),
        "rollout_loss": (z, index, slots, coefficients, tensors, *settings, *rollout, True),
        "rollout_loss_backward": (points, index, slots, coefficients, bar[0, 0, 0], bar, tensors, *settings, *rollout),
    }[operator]
    torch.library.opcheck(getattr(torch.ops.fastflow, operator).default, arguments)


@every_operator
def test_threads_do_not_change_a_bit(make):
    operator = make(torch.float32, 3000)  # many tiles of samples, which threads share
    inputs = [x.requires_grad_() for x in operator.inputs]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs = operator.function(*inputs)
        gradients = torch.autograd.grad(outputs, inputs, [torch.full_like(x, 0.7) for x in outputs])
        results.append([*outputs, *gradients])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_vmap_over_networks_equals_a_loop():
    """An ensemble: every parameter has a first axis of its own."""
    mlp = network(torch.float64)
    z, index, slot = random_samples(mlp, 5)
    ensemble = [torch.stack((x, 1.5 * x)) for x in mlp.tensors()]

    def laplacian(*tensors: Tensor) -> Tensor:
        return jet(mlp.with_tensors(tensors), z, index, slot).laplacian

    looped = [laplacian(*(x[v] for x in ensemble)) for v in range(2)]
    torch.testing.assert_close(torch.vmap(laplacian)(*ensemble), torch.stack(looped))
    mapped = torch.vmap(torch.func.grad(lambda *tensors: laplacian(*tensors).sum()))(*ensemble)
    alone = [torch.func.grad(lambda *tensors: laplacian(*tensors).sum())(*(x[v] for x in ensemble)) for v in range(2)]
    torch.testing.assert_close(mapped, torch.stack(alone))


def test_more_than_eight_layers_say_what_to_do():
    bank = ff.PotentialBank(1, 2, (3,) * 9)
    with pytest.raises(ff.InputError, match=r"up to 8 hidden layers, got 9.*use_backend\('reference'\)"):
        bank.jet(torch.zeros(1, 2), 0.0, 0)
    with ff.use_backend("reference"):
        assert bank.jet(torch.zeros(1, 2), 0.0, 0).u.shape == (1,)


def direct_calls() -> dict[str, tuple]:
    """Each operator's arguments as torch.ops.fastflow takes them."""
    mlp = network(torch.float64)
    z, index, slot = random_samples(mlp, 7)
    tensors, slots, settings = list(mlp.tensors()), path_slots("heun"), Settings.of(mlp, "native")
    coefficients, loss_bar, points = torch.ones(3, 5).double(), torch.ones(()).double(), z[:, None].repeat(1, 4, 1)
    path = (0.1, "heun", "forward", None)
    return {
        "jet": (z, index, slot, tensors, torch.ones(1, 4).double(), *settings, "hutchinson", True),
        "jet_backward": (z, index, slot, tensors, None, z[:, 0], z, None, None, None, *settings, "exact", True),
        "residual_loss": (z, index, slot, coefficients, z[:, 0], tensors, *settings),
        "residual_loss_and_gradient": (z, index, slot, coefficients, z[:, 0], tensors, *settings, True),
        "flow": (z, index, slots, tensors, *settings, *path),
        "flow_backward": (points, index, slots, points, tensors, *settings, *path),
        "rollout_loss": (z, index, slots, coefficients, tensors, *settings, 0.1, "heun", None, True),
        "rollout_loss_backward": (points, index, slots, coefficients, loss_bar, points, tensors, *settings, 0.1, "heun",
                                  None),
    }  # fmt: skip


@pytest.mark.parametrize("name", direct_calls())
def test_tensors_on_several_devices_are_refused(name):
    """One on the meta device would leave the results of the others uninitialised."""
    operator, arguments = getattr(torch.ops.fastflow, name), direct_calls()[name]
    operator(*arguments)
    for place, argument in enumerate(arguments):
        for moved in (
            [argument.to("meta")] if isinstance(argument, Tensor) else
            [[x.to("meta") if i == k else x for k, x in enumerate(argument)] for i in range(len(argument))]
            if isinstance(argument, list) else []
        ):  # fmt: skip
            with pytest.raises(ff.InputError, match=rf"fastflow::{name} must be on one device, got cpu and meta: move"):
                operator(*arguments[:place], moved, *arguments[place + 1 :])
    everything = [x.to("meta") if isinstance(x, Tensor) else x for x in arguments]
    everything = [[y.to("meta") for y in x] if isinstance(x, list) else x for x in everything]
    found = operator(*everything)
    assert all(x.is_meta for x in (found if isinstance(found, list | tuple) else [found]))
