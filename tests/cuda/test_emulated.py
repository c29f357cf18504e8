"""The CUDA kernels' own code, run on the host: against the reference, in every layout, in any order of threads."""

from math import inf

import pytest
import torch
from support.cuda_cases import A100, H100, SMALL, case, check, machine, options, run

from fastflow.core.errors import InputError
from fastflow.engine.backends import cuda

emulated = pytest.importorskip("fastflow._cuda_emulated", reason="built by `make build` alone")

METHODS = ("euler", "heun", "rk4")
DIRECTIONS = ("forward", "descent", "reverse")


@pytest.fixture(autouse=True)
def nan_filled(monkeypatch):
    """Outputs start as NaN; the emulator does the same with workspace and shared memory."""
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    assert torch.ones(2).new_empty(3, 2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def on(monkeypatch):
    """Call with the arguments of `cuda_cases.machine`: the device of all further calls."""

    def choose(**arguments):
        monkeypatch.setattr(cuda, "_machine", lambda tensor: machine(emulated, **arguments))

    choose()
    return choose


def plan(mlp, z0, slots, path, backward, **arguments):
    return cuda._plan(machine(emulated, **arguments), mlp, z0, slots, *path.values(), backward=backward)


@pytest.mark.slow
@pytest.mark.parametrize("step_length", [None, 0.05])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_flow_in_any_order_of_threads(on, method, direction, step_length):
    arguments, path = case(method), options(method, direction, step_length)
    first = run(*arguments, path)
    check(first, *arguments, path)
    for order in (1, 2):
        on(order=order)
        assert all(map(torch.equal, run(*arguments, path), first))


@pytest.mark.slow
@pytest.mark.parametrize("out_activation", ["identity", "tanh"])
@pytest.mark.parametrize("activation", ["tanh", "sin", "gelu", "silu", "softplus"])
def test_activations(on, activation, out_activation):
    arguments = case("heun", activation=activation, out_activation=out_activation)
    check(run(*arguments, options("heun")), *arguments, options("heun"))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(1,), (9,), (9, 8, 7), (3, 5, 4, 6, 5, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("out_activation", ["identity", "tanh"])
def test_depths(on, hidden, out_activation):
    arguments = case("heun", 3, hidden, 20, 2, out_activation=out_activation)
    check(run(*arguments, options("heun")), *arguments, options("heun"))


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("shared_bytes", "resident", "in_shared"),
    [(H100, True, True), (70 * 1024, False, True), (16 * 1024, False, False)],
    ids=["on chip", "streamed weights", "state in the workspace"],
)
def test_layouts(on, shared_bytes, resident, in_shared, direction):
    arguments, path = case("heun", 61, (70, 33), 20), options("heun", direction)
    for backward in (False, True):
        layout = plan(arguments[0], arguments[1], arguments[3], path, backward, shared_bytes=shared_bytes)
        assert layout.shared_bytes <= shared_bytes
        assert not backward or (layout.resident, layout.state_in_shared) == (resident, in_shared)
    results = []
    for order in (0, 1):
        on(shared_bytes=shared_bytes, order=order)
        results.append(run(*arguments, path))
        check(results[-1], *arguments, path)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(("batch", "tile"), [(1, 4), (31, 16), (63, 32), (64, 32), (129, 32)])
@pytest.mark.parametrize("networks", [1, 3])
def test_tiles(on, batch, tile, networks):
    on(multiprocessors=1)
    arguments = case("euler", batch=batch, networks=networks)
    assert plan(*arguments[:2], arguments[3], options(), False, multiprocessors=1).tile == tile
    check(run(*arguments, options()), *arguments, options())


def test_more_networks_than_samples(on):
    arguments = case("euler", batch=3, networks=40)
    check(run(*arguments, options()), *arguments, options())


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_one_block_for_many_networks(on, direction):
    """The blocks of a device with one multiprocessor walk over several potentials, each with its own gradients."""
    arguments, path = case("euler", 40, (30, 20), 40, 20, steps=2), options("euler", direction, 0.05)
    # Little shared memory puts state into the workspace, of which even a forward pass wants few blocks.
    machine = {"multiprocessors": 1, "shared_bytes": 12 * 1024}
    for backward in (False, True):
        layout = plan(*arguments[:2], arguments[3], path, backward, **machine)
        assert (layout.blocks, layout.state_in_shared) == (2, False)
    results = []
    for order in (0, 1):
        on(order=order, **machine)
        results.append(run(*arguments, path))
    check(results[0], *arguments, path)
    assert all(map(torch.equal, *results))


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_as_many_threads_as_on_a_device(on, direction):
    on(order=3, multiprocessors=1)
    arguments, path = case("heun", 20, (40, 30), 70), options("heun", direction, 0.05)
    check(run(*arguments, path), *arguments, path)


@pytest.mark.parametrize("method", METHODS)
def test_float32(on, method):
    arguments = case(method, 12, (40, 30), dtype=torch.float32)
    check(run(*arguments, options(method)), *arguments, options(method))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (3, 0), (0, 0)])
def test_no_steps_or_no_samples(on, direction, batch, steps):
    arguments = case("euler", batch=batch, steps=steps)
    points, error, z0_bar, *gradients = run(*arguments, options(direction=direction))
    assert points.shape == (batch, steps + 1, 5)
    assert torch.equal(points[:, 0], arguments[1])
    assert not error.any()
    assert z0_bar.isfinite().all()
    assert not any(g.any() for g in gradients)


@pytest.mark.slow
def test_reverse_reports_where_it_fails(on):
    arguments = case("euler")
    _, error = cuda.flow(*arguments, **options(direction="reverse", dt=50.0))
    assert (error > 1e-3).any()


def test_a_sample_that_is_not_finite_stays_alone(on):
    mlp, z0, index, slots = case("euler")
    exact, _ = cuda.flow(mlp, z0, index, slots, **options())
    z0[7, 2] = inf
    points, _ = cuda.flow(mlp, z0, index, slots, **options())
    others = torch.arange(len(z0)) != 7
    assert torch.equal(points[others], exact[others])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_sine_of_large_arguments(on, dtype):
    """Both ways to reduce an argument, and the long one, which only large arguments take."""
    mlp, z0, index, slots = case("euler", activation="sin", dtype=dtype, hidden=(5,))
    for size in (1e3, 1e5, 1e9, 1e30):
        mlp.bias_jets[0][:, 0] = size * torch.linspace(1, 2, 30).view(6, 5)
        # One step from the origin, where the arguments are the biases: a path would amplify rounding.
        points, _ = cuda.flow(mlp, z0 * 0, index, slots[:1], **options())
        at = mlp.bias_jets[0][slots[0][index], 0]
        first = mlp.out_weight[index] * at.double().cos()
        value = (mlp.out_weight[index] * at.double().sin()).sum(1) + mlp.out_bias[index]
        exact = (
            0.1 * (1 - value.tanh() ** 2)[:, None] * torch.einsum("bh,bhd->bd", first, mlp.weights[0][index].double())
        )
        assert (points[:, 1] - exact).abs().max() < (1e-13 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("shared_bytes", [H100, A100, SMALL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_size_fits(shared_bytes, dtype, method):
    for dim in (1, 128, 512, 1024):
        for hidden in ((1,), (64, 64), (512, 512), (512,) * 8, (1024, 1024)):
            mlp, z0, _, slots = case(method, 1, (1,) * len(hidden), 1, dtype=dtype)
            wide = mlp._replace(weights=tuple(torch.empty(3, h, 1, dtype=dtype) for h in hidden))
            for batch in (1, 128, 100_000):
                z = z0.expand(batch, 1)[:, :1].expand(batch, dim)
                for backward in (False, True):
                    layout = plan(
                        wide,
                        z,
                        slots,
                        options(method, "reverse"),
                        backward,
                        shared_bytes=shared_bytes,
                        multiprocessors=132,
                    )
                    assert 0 < layout.shared_bytes <= shared_bytes
                    assert layout.workspace_bytes < 2**31


def test_wide_networks(on):
    arguments = case("euler", 512, (512, 300), 5, 2, steps=1, dtype=torch.float32)
    check(run(*arguments, options()), *arguments, options())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, z, i, s: (m, z, i.int(), s), "index must be torch.long"),
        (lambda m, z, i, s: (m, z, i[1:], s), "index must have shape"),
        (lambda m, z, i, s: (m, z.float(), i, s), "one dtype"),
        (lambda m, z, i, s: (m, z.to("meta"), i, s), "one device"),
        (lambda m, z, i, s: (m._replace(activation="relu"), z, i, s), "activation must be one of 'tanh', 'sin'"),
    ],
    ids=["index dtype", "index shape", "dtype", "device", "activation"],
)
def test_bad_arguments_are_named(on, change, message):
    with pytest.raises(InputError, match=message):
        cuda.flow(*change(*case()), **options())


def test_too_many_layers_and_too_wide_a_row(on):
    with pytest.raises(InputError, match="1 to 8 hidden layers, got 9"):
        cuda.flow(*case(hidden=(2,) * 9), **options())
    on(shared_bytes=2**14)
    with pytest.raises(InputError, match="use a narrower network"):
        cuda.flow(*case(dim=5000, batch=1), **options())


def test_a_plan_is_for_one_direction(on):
    mlp, z0, _, slots = case()
    forward = plan(mlp, z0, slots, options(), False)
    layers = {"weights": [0, 0], "bias_jets": [0, 0], "weights_bar": [0, 0], "bias_jets_bar": [0, 0]}
    names = ("out_weight", "out_bias", "order", "offsets", "slot_of", "slot_order", "slot_offsets", "path", "path_bar")
    rest = dict.fromkeys((*names, "z0_bar", "out_weight_bar", "out_bias_bar", "workspace", "stream"), 0)
    with pytest.raises(ValueError, match="the other direction of differentiation"):
        emulated.flow_backward(plan=forward, **layers, **rest)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_index_or_slot_out_of_range_stops_the_kernel(on, wrong):
    mlp, z0, index, slots = case()
    index[4] = wrong
    with pytest.raises(RuntimeError, match="stopped"):
        cuda.flow(mlp, z0, index, slots, **options())
    index[4] = 0
    slots[1] = 2 * wrong
    with pytest.raises(RuntimeError, match="stopped"):
        cuda.flow(mlp, z0, index, slots, **options())
