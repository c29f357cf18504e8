"""Flows, their backward and rollout losses of the native engine against the reference in float64."""

import pytest
import torch
from support.native_engine import Engine, attach, check_all, network, parameters, rebuild
from support.networks import random_mlp
from support.tolerances import NATIVE, REVERSE_FLOW

from fastflow import _native
from fastflow.engine.backends import reference
from fastflow.engine.types import MLP

METHODS = ("euler", "heun", "rk4")
STEPS = 4


def case(method, dim=5, hidden=(7, 6), batch=30, networks=3, slots=6, dtype=torch.float64, **kwargs):
    """A network whose increments are contractions, and samples with bias rows for each potential and time."""
    mlp = random_mlp(networks, dim, hidden, slots, dtype=dtype, **kwargs)
    mlp = mlp._replace(out_weight=mlp.out_weight * 0.3)
    rng = torch.Generator().manual_seed(2)
    times = reference.num_times(STEPS, method)
    z0 = torch.randn(batch, dim, generator=rng, dtype=torch.float64).to(dtype)
    index = torch.randint(networks, (batch,), generator=rng)
    slots_of = torch.randint(slots, (times, networks), generator=rng)
    return mlp, z0, index, slots_of


def check_flow(mlp, z0, index, slots, limit=NATIVE, **options):
    inputs = attach([z0, *parameters(mlp)])
    exact, _ = reference.flow(rebuild(mlp, inputs[1:]), inputs[0], index, slots, **options)
    path_bar = torch.randn(exact.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact_gradients = torch.autograd.grad(exact, inputs, path_bar, materialize_grads=True)
    engine = Engine(path={"step_length": None, **options})
    path, error = engine.flow(mlp, z0, index, slots, STEPS)
    check_all([path], [exact], limit)
    check_all(engine.flow_backward(mlp, path, index, slots, path_bar), exact_gradients, limit)
    return path, error


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", ["forward", "descent"])
@pytest.mark.parametrize("step_length", [None, 0.3, 0.0])
def test_forward_flow(method, direction, step_length):
    check_flow(*case(method), dt=0.4, method=method, direction=direction, step_length=step_length)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hidden", [(3,), (9, 8, 7)], ids=str)
@pytest.mark.parametrize("out_activation", ["identity", "tanh"])
def test_shapes(method, hidden, out_activation):
    check_flow(
        *case(method, 17, hidden, 70, 2, out_activation=out_activation), dt=0.2, method=method, direction="forward"
    )


WIDER_THAN_ITS_FIRST_LAYER = (37, (9, 8))  # which a walk of many samples goes in the first layer's coordinates


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", ["forward", "descent"])
@pytest.mark.parametrize(("dt", "step_length"), [(0.4, None), (0.4, 0.3), (0.4, 0.0), (0.0, None)])
@pytest.mark.parametrize("hidden", [(9,), (9, 8), (21, 8, 30)], ids=str)
def test_flow_in_the_first_layers_coordinates(method, direction, dt, step_length, hidden):
    arguments = case(method, 37, hidden, 300)
    check_flow(*arguments, dt=dt, method=method, direction=direction, step_length=step_length)


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_goes_where_many_go(method):
    mlp, z0, index, slots = case(method, *WIDER_THAN_ITS_FIRST_LAYER, 300)
    engine = Engine(path={"dt": 0.4, "method": method, "direction": "forward", "step_length": None})
    many, _ = engine.flow(mlp, z0, index, slots, STEPS)
    one, _ = engine.flow(mlp, z0[:1].contiguous(), index[:1].contiguous(), slots, STEPS)
    check_all([one], [many[:1]], 1e-13)
    assert not torch.equal(one, many[:1])  # so they went different ways


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_float32_is_more_exact_than_the_plain_formula_on_wide_latents(method):
    """Where the first layer bends so much that a rounding of its coordinates, kept for the whole path, would show."""
    mlp, z0, index, slots = case(method, 512, (64, 64), 900, activation="sin")
    mlp = mlp._replace(weights=(3 * mlp.weights[0], mlp.weights[1]), out_weight=3 * mlp.out_weight)
    single = rebuild(mlp, [p.float() for p in parameters(mlp)])
    exact_of_single = rebuild(mlp, [p.float().double() for p in parameters(mlp)])
    z0, options = z0.float(), {"dt": 0.2, "method": method, "step_length": None, "direction": "forward"}
    exact, _ = reference.flow(exact_of_single, z0.double(), index, slots, **options)
    plain, _ = reference.flow(single, z0, index, slots, **options)
    path, _ = Engine(path=options).flow(single, z0, index, slots, STEPS)
    # Of the samples' errors the geometric mean: a few paths that part ways would make up any other.
    error, plain_error = ((p - exact)[:, -1].norm(dim=1).log().mean().exp() for p in (path, plain))
    assert error <= 0.9 * plain_error


def test_float32_where_the_first_layer_lacks_rank():
    """Rounding then leads its coordinates to where no latents are; a Gram matrix of long sums erred fifteen-fold."""
    mlp = random_mlp(1, 37, (9, 8), 1, out_activation="identity", dtype=torch.float32, seed=1)
    rng = torch.Generator().manual_seed(6)
    column, row = torch.randn(1, 9, 1, generator=rng), torch.randn(1, 1, 37, generator=rng)
    mlp = mlp._replace(weights=(1.3 * 37**-0.5 * column @ row, mlp.weights[1]))
    z0, zeros = torch.randn(40, 37, generator=rng), torch.zeros(100, 1, dtype=torch.int64)
    options = {"dt": 0.1, "method": "euler", "step_length": None, "direction": "forward"}
    exact_mlp = rebuild(mlp, [p.double() for p in parameters(mlp)])
    exact, _ = reference.flow(exact_mlp, z0.double(), zeros[:40, 0], zeros, **options)
    plain, _ = reference.flow(mlp, z0, zeros[:40, 0], zeros, **options)
    path, _ = Engine(path=options).flow(mlp, z0, zeros[:40, 0], zeros, 100)
    error, plain_error = ((p - exact)[:, -1].norm(dim=1).log().mean().exp() for p in (path, plain))
    assert error <= 6 * plain_error


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step_length", [None, 0.05])
def test_reverse_flow(method, step_length):
    arguments = case(method)
    _, error = check_flow(
        *arguments, limit=REVERSE_FLOW, dt=0.1, method=method, direction="reverse", step_length=step_length
    )
    assert (error <= 1e-14).all()


@pytest.mark.parametrize("method", METHODS)
def test_reverse_undoes_forward(method):
    mlp, z0, index, slots = case(method)
    options = {"dt": 0.1, "method": method, "step_length": None}
    there, _ = Engine(path={**options, "direction": "forward"}).flow(mlp, z0, index, slots, STEPS)
    back, _ = Engine(path={**options, "direction": "reverse"}).flow(mlp, there[:, -1].contiguous(), index, slots, STEPS)
    check_all([back.flip(1)], [there], REVERSE_FLOW)


def test_reverse_reports_where_it_fails():
    mlp, z0, index, slots = case("euler")
    _, error = Engine(path={"dt": 50.0, "method": "euler", "direction": "reverse", "step_length": None}).flow(
        mlp, z0, index, slots, STEPS
    )
    assert (error > 1e-3).any()


WIDE = (260, 250)  # whose gradients are too large to be gathered for each step on its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "step_length", "dim", "hidden", "batch"),
    [
        *((method, length, 5, (7, 9, 6), 30) for method in METHODS for length in (None, 0.2)),
        *((method, None, *WIDER_THAN_ITS_FIRST_LAYER, 300) for method in METHODS),
        ("euler", None, 5, WIDE, 30),
    ],
)
def test_rollout_loss(method, step_length, dim, hidden, batch):
    mlp, z0, index, slots = case(method, dim, hidden, batch)
    rng = torch.Generator().manual_seed(4)
    coefficients = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    source = torch.randn(len(z0), STEPS, generator=rng, dtype=torch.float64)
    options = {"dt": 0.3, "method": method, "step_length": step_length}

    inputs = attach([z0, *parameters(mlp), coefficients, source])
    exact_mlp = rebuild(mlp, inputs[1:-2])
    exact, _ = reference.flow(exact_mlp, inputs[0], index, slots, direction="forward", **options)
    visits = reference.visits(exact, index, slots, method)
    residual = reference.residual(reference.jet(exact_mlp, *visits), inputs[-2][visits[1]], inputs[-1].T.flatten())
    exact_loss = residual.square().mean()
    path_bar = torch.randn(exact.shape, generator=rng, dtype=torch.float64)
    exact_gradients = torch.autograd.grad(0.7 * exact_loss + (path_bar * exact).sum(), inputs)

    engine = Engine(path={"direction": "forward", **options})
    loss, path, residuals = engine.rollout(mlp, z0, index, slots, coefficients, source, STEPS)
    assert loss == pytest.approx(exact_loss.item(), rel=NATIVE)
    check_all([path, residuals], [exact, residual.unflatten(0, (STEPS, -1)).T])
    for start in (z0, None):  # in one pass with the path, and from the path
        both = engine.rollout_backward(mlp, start, index, slots, coefficients, source, path, 0.7, path_bar)
        assert both[0] == pytest.approx(exact_loss.item(), rel=NATIVE)
        check_all([both[1]], [exact])
        check_all(both[2], exact_gradients)


@pytest.mark.parametrize("method", METHODS)
def test_float32(method):
    mlp, z0, index, slots = case(method, 12, (40, 30), dtype=torch.float32)
    options = {"dt": 0.3, "method": method, "step_length": None, "direction": "forward"}
    path, _ = Engine(path=options).flow(mlp, z0, index, slots, STEPS)
    exact, _ = reference.flow(rebuild(mlp, [p.double() for p in parameters(mlp)]), z0.double(), index, slots, **options)
    check_all([path], [exact], 5e-6)


def test_same_bits_for_any_number_of_threads():
    mlp, z0, index, slots = case("rk4", 12, (20, 17), batch=500, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3):
        engine = Engine(
            path={"dt": 0.3, "method": "rk4", "step_length": None, "direction": "forward"}, num_threads=threads
        )
        path, _ = engine.flow(mlp, z0, index, slots, STEPS)
        results.append([path, *engine.flow_backward(mlp, path, index, slots, torch.ones_like(path))])
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("batch", [0, 3])
def test_no_steps_or_no_samples(direction, batch):
    mlp, z0, index, slots = case("euler", batch=batch)
    steps = 0 if batch else STEPS
    engine = Engine(path={"dt": 0.3, "method": "euler", "step_length": None, "direction": direction})
    path, _ = engine.flow(mlp, z0, index, slots[:steps], steps)
    assert torch.equal(path[:, 0], z0)
    z_bar, *gradients = engine.flow_backward(mlp, path, index, slots[:steps], torch.ones_like(path))
    assert (z_bar == 1).all()
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"slots": lambda s: s + 6}, IndexError, "slots must lie in"),
        ({"slots": lambda s: s[1:].contiguous()}, ValueError, "slots must have shape"),
        ({"index": lambda i: i - 1}, IndexError, "index must lie in"),
        ({"z0": lambda z: z[1:].contiguous()}, ValueError, "z0 must have shape"),
        ({"method": "midpoint"}, ValueError, "method must be one of"),
        ({"direction": "up"}, ValueError, "direction must be one of"),
        ({"step_length": -1.0}, ValueError, "step_length must not be negative"),
        ({"dt": None}, TypeError, "dt"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    mlp, z0, index, slots = case("euler")
    arguments = {"z0": z0, "index": index, "slots": slots}
    options = {"dt": 0.1, "method": "euler", "direction": "forward", "step_length": None}
    for name, new in change.items():
        if name in arguments:
            arguments[name] = new(arguments[name])
        else:
            options[name] = new
    path = z0.new_empty(len(z0), STEPS + 1, z0.shape[1])
    net = {"activation": "tanh", "out_activation": "tanh", "num_threads": 1}
    with pytest.raises(error, match=message):
        _native.flow(network(mlp), path=path, error=None, **arguments, **options, **net)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("contraction", [0.3, 0.9, 0.97, 0.995])
def test_reverse_knows_how_far_it_is_from_the_solution(contraction, dtype):
    """The step back of u = q sin z from pi / 2 contracts by q: too slowly, in the end, for the iterations allowed."""
    one = torch.ones(1, 1, 1, dtype=dtype)
    bias_jets, zeros = torch.zeros(1, 3, 1, dtype=dtype), torch.zeros(1, 1, dtype=torch.int64)
    mlp = MLP((one,), (bias_jets,), contraction * one[0], torch.zeros(1, dtype=dtype), "sin", "identity")
    start = torch.full((1, 1), torch.pi / 2, dtype=dtype)
    options = {"method": "euler", "dt": 1.0, "step_length": None}
    end = reference.flow(mlp, start, zeros[0], zeros, direction="forward", **options)[0][:, -1]
    native = Engine(path={**options, "direction": "reverse"}).flow(mlp, end, zeros[0], zeros, 1)
    for path, error in (native, reference.flow(mlp, end, zeros[0], zeros, direction="reverse", **options)):
        actual = float((path[0, -1] - start).abs())
        # Near its end an iteration moves by roundings, which the contraction blows up by 1 / (1 - q).
        roundings = 20 * torch.finfo(dtype).eps / (1 - contraction)
        assert actual <= 3 * float(error) * (1 + torch.pi / 2) + roundings
        assert (float(error) <= torch.finfo(dtype).eps ** 0.5) == (
            actual < 1e-3 if dtype == torch.float32 else actual < 1e-7
        )
