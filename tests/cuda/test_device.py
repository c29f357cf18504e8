"""The CUDA flow integrator on a real device."""

import pytest
import torch
from support.cuda_cases import case, check, cotangent, options, run

from fastflow.engine.backends import cuda, reference
from fastflow.engine.backends import selection as backends
from fastflow.engine.integration import Integration
from fastflow.engine.operators.flow import flow
from fastflow.engine.operators.rollout_loss import rollout_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(backends.cuda_module is None, reason=str(backends.cuda_missing())),
]


def on_device(*arguments, **kwargs):
    mlp, *tensors = case(*arguments, **kwargs)
    return mlp.with_tensors([x.cuda() for x in mlp.tensors()]), *(x.cuda() for x in tensors)


@pytest.mark.parametrize("step_length", [None, 0.05])
@pytest.mark.parametrize("direction", ["forward", "descent", "reverse"])
@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_every_flow(method, direction, step_length):
    arguments, path = on_device(method), options(method, direction, step_length)
    check(run(*arguments, path), *arguments, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "sin", "gelu", "silu", "softplus"])
def test_activations(activation, dtype):
    arguments = on_device("heun", activation=activation, dtype=dtype)
    check(run(*arguments, options("heun")), *arguments, options("heun"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("dim", "hidden", "batch"),
    [(1, (1,), 1), (128, (64, 64), 128), (17, (33, 129, 65), 1000), (512, (512, 512), 70), (64, (512,) * 4, 40)],
    ids=str,
)
def test_sizes(dim, hidden, batch, dtype):
    arguments = on_device("euler", dim, hidden, batch, dtype=dtype)
    check(run(*arguments, options()), *arguments, options())


def test_the_same_bits_every_time():
    arguments = on_device("rk4", 20, (64, 64), 3000, dtype=torch.float32)
    first = run(*arguments, options("rk4"))
    for _ in range(5):
        assert all(map(torch.equal, run(*arguments, options("rk4")), first))


def test_runs_on_the_current_stream():
    mlp, z0, index, slots = on_device("euler", 20, (64, 64), 256, steps=20)
    expected = run(mlp, z0, index, slots, options())
    start = torch.zeros_like(z0)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # a flow on another stream would start from the zeros
        start += z0
        result = run(mlp, start, index, slots, options())
    stream.synchronize()
    assert all(map(torch.equal, result, expected))


def test_capture_in_a_graph():
    mlp, z0, index, slots = on_device("heun", 20, (64, 64), 256)
    bar = cotangent(run(mlp, z0, index, slots, options("heun"))[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        points, _ = cuda.flow(mlp, z0, index, slots, **options("heun"))
        gradients = cuda.flow_backward(mlp, points, index, slots, bar, **options("heun"))
    z0.copy_(torch.randn_like(z0))
    index.copy_(index.flip(0))
    graph.replay()
    path, _, *expected = run(mlp, z0, index, slots, options("heun"))
    assert all(map(torch.equal, [points, *gradients], [path, *expected]))


def test_operators_use_it(monkeypatch):
    """The flow and the rollout loss of CUDA tensors, and their gradients."""
    calls = []
    original = cuda.flow
    monkeypatch.setattr(cuda, "flow", lambda *a, **k: calls.append(1) or original(*a, **k))
    mlp, z0, index, slots = on_device("rk4")
    coefficients = torch.randn(3, 5, dtype=torch.float64, device="cuda")
    inputs = [z0.requires_grad_(), *(x.requires_grad_() for x in mlp.tensors())]
    points = flow(mlp, z0, index, slots, Integration(0.1, "rk4"))
    exact, _ = reference.flow(mlp, z0, index, slots, 0.1, "rk4")
    torch.testing.assert_close(points, exact)
    actual, expected = (torch.autograd.grad(p.square().sum(), inputs) for p in (points, exact))
    torch.testing.assert_close(actual, expected)
    loss, _ = rollout_loss(mlp, z0, index, slots, coefficients, Integration(0.1, "rk4"))
    exact_loss, _ = reference.rollout_loss(mlp, z0, index, slots, coefficients, 0.1, "rk4")
    torch.testing.assert_close(loss, exact_loss)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(exact_loss, inputs))
    assert len(calls) == 2
