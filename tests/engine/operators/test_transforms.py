"""Banks under torch's transforms: torch.func in both modes, vmap, autocast, and backends chosen in several threads."""

import threading
from typing import Any

import pytest
import torch
from support.losses import bank_and_samples, every_loss, times_like
from torch import Tensor, nn
from torch.autograd import forward_ad

import fastflow as ff


@every_loss
def test_func_grad_equals_backward(loss):
    bank, z, index = bank_and_samples()
    (expected,) = torch.autograd.grad(loss(bank, z.requires_grad_(), index), z)
    computed = torch.func.grad(lambda z: loss(bank, z, index))(z.detach())
    torch.testing.assert_close(computed, expected)


@every_loss
def test_vmap_over_latents_equals_a_loop(loss):
    bank, z, index = bank_and_samples()
    batches = torch.stack((z, 2 * z, -z))
    mapped = torch.vmap(lambda z: loss(bank, z, index))(batches)
    torch.testing.assert_close(mapped, torch.stack([loss(bank, z, index) for z in batches]))


@every_loss
@pytest.mark.parametrize("trained", [False, True])
def test_backward_of_a_vmap_equals_a_loop(loss, trained):
    """Of torch.func and of autograd: inside the vmap, latents don't say that they require a gradient."""
    bank, z, index = bank_and_samples()
    bank.requires_grad_(trained)
    batches = torch.stack((z, 2 * z))
    expected = torch.stack([torch.func.grad(lambda z: loss(bank, z, index))(z) for z in batches])

    def total(batches: Tensor) -> Tensor:
        return torch.vmap(lambda z: loss(bank, z, index))(batches).sum()

    torch.testing.assert_close(torch.func.grad(total)(batches), expected)
    torch.testing.assert_close(torch.autograd.grad(total(batches.requires_grad_()), batches)[0], expected)


def test_jacrev_of_the_gradient_is_the_hessian():
    bank, z, index = bank_and_samples()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z, k: bank.jet(z[None], 0.5, k[None]).grad[0]))(z, index)
    torch.testing.assert_close(jacobian, jacobian.mT)
    laplacian = bank.jet(z, 0.5, index).laplacian
    torch.testing.assert_close(jacobian.diagonal(dim1=1, dim2=2).sum(1), laplacian)


def test_autocast_keeps_the_parameters_precision():
    torch.manual_seed(0)
    bank, index = ff.PotentialBank(3, 4, (6, 5)), torch.arange(8) % 3
    encoder = nn.Linear(4, 4)
    x = torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        z = encoder(x)
        loss = ff.pde_loss(bank, z, 0.5, index) + ff.rollout_loss(bank, z, index, 2)[0]
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    plain = ff.pde_loss(bank, z.detach().float(), 0.5, index) + ff.rollout_loss(bank, z.detach().float(), index, 2)[0]
    torch.testing.assert_close(loss, plain)
    loss.backward()
    assert encoder.weight.grad.isfinite().all()
    assert encoder.weight.grad.abs().max() > 0


def test_autocast_lowers_nothing():
    bank = ff.PotentialBank(1, 4, (6, 5))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ff.InputError, match=r"dtype torch.float32, got .*64"):
        bank.jet(torch.zeros(2, 4, dtype=torch.float64), 0.0, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert bank.double().jet(torch.zeros(2, 4), 0.0, 0).u.dtype == torch.float64


@pytest.mark.slow
@every_loss
@pytest.mark.parametrize("trained", [False, True])
def test_forward_mode_equals_reverse_mode(loss, trained):
    bank, z, index = bank_and_samples()
    bank.requires_grad_(trained)
    gradient = torch.func.grad(lambda z: loss(bank, z, index))(z)
    assert gradient.abs().max() > 1e-4
    tangent = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    expected = loss(bank, z, index), (gradient * tangent).sum()
    torch.testing.assert_close(torch.func.jvp(lambda z: loss(bank, z, index), (z,), (tangent,)), expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(loss(bank, forward_ad.make_dual(z, tangent), index))
    torch.testing.assert_close((dual.primal, dual.tangent), expected)


PATHS = {
    "jet": lambda bank, z, index: bank.jet(z, times_like(z), index).laplacian,
    "flow": lambda bank, z, index: ff.flow(bank, z, index, 2)[:, -1],
    "rollout": lambda bank, z, index: ff.rollout_loss(bank, z, index, 2)[1][:, -1],
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


@every_path
def test_jacfwd_equals_jacrev(path):
    bank, z, index = bank_and_samples(3)
    jacobians = (transform(lambda z: path(bank, z, index))(z) for transform in (torch.func.jacfwd, torch.func.jacrev))
    torch.testing.assert_close(*jacobians)


def test_forward_mode_with_respect_to_the_parameters():
    bank, z, index = bank_and_samples()
    parameters = {name: p.detach() for name, p in bank.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(bank, parameters, (z, 0.5, index)).laplacian.square().sum()

    gradients = torch.func.grad(loss)(parameters)
    _, tangent = torch.func.jvp(loss, (parameters,), ({name: torch.ones_like(p) for name, p in parameters.items()},))
    torch.testing.assert_close(tangent, sum(gradient.sum() for gradient in gradients.values()))


def test_forward_over_reverse_is_the_hessian():
    bank, z, index = bank_and_samples(3)
    hessian = torch.func.hessian(lambda z: bank.jet(z, 0.5, index).u.sum())(z)
    trace = torch.stack([hessian[b, :, b].trace() for b in range(3)])
    torch.testing.assert_close(trace, bank.jet(z, 0.5, index).laplacian)


def test_forward_mode_of_an_ordinary_network():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double(), torch.randn(5, 3).double()

    def u(x: Tensor) -> Tensor:
        return ff.mlp_jet(net, x, 0.3).u

    _, tangent = torch.func.jvp(u, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, ff.mlp_jet(net, x, 0.3).grad.sum(1))


@pytest.mark.slow
def test_forward_mode_of_a_compiled_function():
    bank, z, index = bank_and_samples()

    def tangent(z: Tensor) -> Any:
        return torch.func.jvp(lambda z: bank.jet(z, 0.5, index).u, (z,), (torch.ones_like(z),))[1]

    compiled = torch.compile(tangent, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), bank.jet(z, 0.5, index).grad.sum(1))


def test_what_has_no_forward_mode_says_so():
    bank, z, index = bank_and_samples()
    with pytest.raises(RuntimeError, match="the reverse flow has no forward-mode derivative"):
        torch.func.jvp(lambda z: ff.flow(bank, z, index, 2, direction="reverse"), (z,), (z,))
    u = bank.jet(z.requires_grad_(), 0.5, index).u
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp"):
        torch.autograd.grad(u, z, forward_ad.make_dual(torch.ones_like(u), torch.ones_like(u)))


@pytest.mark.parametrize("index_of", ["each its own", 1])
def test_gradients_for_each_sample(index_of):
    bank, z, each = bank_and_samples()
    t = times_like(z)
    parameters = {name: p.detach() for name, p in bank.named_parameters()}

    def loss(parameters: dict[str, Tensor], z: Tensor, t: Tensor, k: Tensor) -> Tensor:
        index = k[None] if index_of == "each its own" else index_of
        return torch.func.functional_call(bank, parameters, (z[None], t[None], index)).laplacian.square().sum()

    mapped = torch.vmap(torch.func.grad(loss), (None, 0, 0, 0))(parameters, z, t, each)
    for b in range(len(z)):
        alone = torch.func.grad(loss)(parameters, z[b], t[b], each[b])
        torch.testing.assert_close({name: gradient[b] for name, gradient in mapped.items()}, alone)


def test_vmap_over_everything_without_a_graph():
    bank, z, index = bank_and_samples()
    t, indices = times_like(z), torch.stack((index, index.flip(0)))
    with torch.no_grad():
        mapped = torch.vmap(lambda z, t, index: bank.jet(z, t, index).u)(
            torch.stack((z, -z)), torch.stack((t, t)), indices
        )
    expected = [bank.jet(z, t, index).u for z, index in zip((z, -z), indices, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(expected))


@every_path
def test_vmap_over_cotangents_equals_a_loop(path):
    bank, z, index = bank_and_samples(3)
    y = path(bank, z.requires_grad_(), index).flatten()

    def pull(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(y, z, cotangent, retain_graph=True)[0]

    cotangents = torch.eye(len(y), dtype=y.dtype)
    torch.testing.assert_close(torch.vmap(pull)(cotangents), torch.stack([pull(c) for c in cotangents]))


def test_vmap_over_reverse_flows():
    bank, z, index = bank_and_samples()

    def back(z: Tensor, dt: float = 0.1) -> Tensor:
        return ff.flow(bank, z, index, 2, dt=dt, direction="reverse")

    batches = torch.stack((z, 2 * z))
    torch.testing.assert_close(torch.vmap(back)(batches), torch.stack([back(z) for z in batches]))
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter *= 6
    with pytest.raises(ff.ConvergenceError):
        torch.vmap(lambda z: back(z, 50.0))(batches)


def test_arguments_are_checked_under_vmap():
    bank, z, index = bank_and_samples()
    with pytest.raises(ff.InputError, match="z must be finite"):
        torch.vmap(lambda z: bank.jet(z, 0.5, index).u)(torch.stack((z, z * torch.nan)))
    with pytest.raises(ff.InputError, match=r"index must lie in 0\.\.2, got values from 0 to 3"):
        torch.vmap(lambda index: bank.jet(z, 0.5, index).u)(torch.stack((index, index + 1)))


def test_backends_of_overlapping_threads():
    """Each thread enters before the other leaves, and the first to enter leaves first."""
    bank, z, index = bank_and_samples()
    steps = [threading.Event() for _ in range(3)]

    def chosen() -> bool:
        return bank.jet(z, 0.5, index).u.grad_fn.name() == "_JetBackward"

    native = []

    def second() -> None:
        steps[0].wait(10)
        with ff.use_backend("native"):
            native.append(chosen())
            steps[1].set()
            steps[2].wait(10)

    thread = threading.Thread(target=second)
    thread.start()
    with ff.use_backend("reference"):
        native.append(chosen())
        steps[0].set()
        steps[1].wait(10)
    steps[2].set()
    thread.join()
    native.append(chosen())
    assert native == [False, True, True]


def test_nested_choices_of_a_backend_end_where_they_began():
    bank, z, index = bank_and_samples()

    def native() -> bool:
        return bank.jet(z, 0.5, index).u.grad_fn.name() == "_JetBackward"

    with ff.use_backend("reference"):
        with ff.use_backend("native"):
            assert native()
        assert not native()
    assert native()
