"""The public API on the Triton kernels: every call against the reference, as citizens of torch, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from support.kernel_cases import Case, make
from torch import Tensor

import fastflow as ff
from fastflow.engine.operators.jet import jet
from fastflow.engine.operators.settings import Settings


def bank_and_samples(
    device: str, dim: int = 3, hidden: tuple[int, ...] = (5, 4)
) -> tuple[ff.PotentialBank, Tensor, Tensor]:
    torch.manual_seed(0)
    bank = ff.PotentialBank(3, dim, hidden, "gelu").double()
    z, index = torch.randn(6, dim, dtype=torch.float64), torch.arange(6) % 2  # the third has no sample
    return bank.to(device), z.to(device), index.to(device)


def learnable(bank: ff.PotentialBank) -> ff.pde.HamiltonJacobi:
    return ff.pde.HamiltonJacobi(0.3, num_potentials=3, learnable=True).to(bank.out_bias.device)


LOSSES = {
    "jet": lambda bank, z, index: sum(x.square().mean() for x in bank.jet(z, 0.5, index)),
    "probes": lambda bank, z, index: (
        bank.jet(
            z, 0.5, index, laplacian="hutchinson", num_probes=2, generator=torch.Generator(z.device).manual_seed(0)
        )
        .laplacian.square()
        .mean()
    ),
    "one index": lambda bank, z, index: ff.pde_loss(bank, z, 0.5, 1),
    "times": lambda bank, z, index: ff.pde_loss(bank, z, torch.linspace(0, 1, 6).to(z), index),
    "source": lambda bank, z, index: ff.pde_loss(bank, z, 0.5, index, learnable(bank)),
    "flow": lambda bank, z, index: ff.flow(bank, z, index, 2, method="heun").square().mean(),
    "reverse flow": lambda bank, z, index: ff.flow(bank, z, index, 1, dt=0.01, direction="reverse").square().mean(),
    "rollout": lambda bank, z, index: sum(x.square().mean() for x in ff.rollout_loss(bank, z, index, 2, dt=0.5)),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def gradients(loss, device: str, **sizes) -> list[Tensor]:
    bank, z, index = bank_and_samples(device, **sizes)
    z.requires_grad_()
    value = loss(bank, z, index)
    value.backward()
    return [value.detach(), z.grad, *(p.grad for p in bank.parameters() if p.grad is not None)]


@pytest.mark.slow
@every_loss
def test_every_call_equals_the_reference(loss, device):
    with ff.use_backend("reference"):
        expected = gradients(loss, device)
    with ff.use_backend("triton"):
        computed = gradients(loss, device)
    torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_backward_keeps_the_backend_and_precision_of_its_forward(device, monkeypatch):
    from fastflow.engine.backends import triton

    precisions = []
    original = triton.jet_backward

    def recorded(*arguments, **options):
        precisions.append(options["precision"])
        return original(*arguments, **options)

    monkeypatch.setattr(triton, "jet_backward", recorded)
    bank, z, index = bank_and_samples(device)
    with ff.use_backend("triton"), ff.precision("tf32x3"):
        laplacian = bank.jet(z, 0.5, index).laplacian
    laplacian.sum().backward()
    assert precisions == ["tf32x3"]


@pytest.mark.slow
def test_second_derivatives_go_through_the_twin(device):
    def penalty(bank, z, index):
        (gradient,) = torch.autograd.grad(bank.jet(z, 0.5, index).laplacian.sum(), z, create_graph=True)
        return gradient.square().sum()

    with ff.use_backend("reference"):
        expected = gradients(penalty, device)
    with ff.use_backend("triton"):
        computed = gradients(penalty, device)
    torch.testing.assert_close(computed, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["jet", "jet_backward", "residual_loss", "residual_loss_and_gradient"])
def test_opcheck(operator, device):
    problem = make(Case(2, 4, 2, (3, 2))).to(device)
    z, index, slot, tensors = problem.z, problem.index, problem.slot, problem.mlp.tensors()
    settings = Settings.of(problem.mlp, "triton")
    coefficients = problem.coefficients
    arguments = {
        "jet": (z, index, slot, tensors, None, *settings, "exact", True),
        "jet_backward": (z, index, slot, tensors, None, z[:, 0], z, None, z[:, 1], None, *settings, "exact", True),
        "residual_loss": (z, index, slot, coefficients, None, tensors, *settings),
        "residual_loss_and_gradient": (z, index, slot, coefficients, z[:, 0], tensors, *settings, False),
    }[operator]
    torch.library.opcheck(getattr(torch.ops.fastflow, operator).default, arguments)


@pytest.mark.slow
def test_gradcheck(device):
    problem = make(Case(1, 1, 2, (2, 2), "gelu", slots=1)).to(device)
    inputs = [x.requires_grad_() for x in (problem.z, *problem.mlp.tensors())]

    def function(z: Tensor, *tensors: Tensor) -> Tensor:
        parts = jet(problem.mlp.with_tensors(tensors), z, problem.index, problem.slot)
        return torch.cat([part.flatten() for part in parts])

    with ff.use_backend("triton"):
        # Cotangents that nobody gives are another test's.
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_undefined_grad=False)


@pytest.mark.slow
def test_compiled_training_equals_eager_training(device):
    """One loss is enough: every backend traces the same, and tests/engine/operators traces all losses."""
    with ff.use_backend("triton"):
        expected = gradients(LOSSES["times"], device)
        compiled = torch.compile(LOSSES["times"], fullgraph=True, backend="aot_eager")
        computed = gradients(compiled, device)
    torch.testing.assert_close(computed, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_vmap_and_func_grad(device):
    bank, z, index = bank_and_samples(device)
    with ff.use_backend("triton"):
        batches = torch.stack((z, -z))
        mapped = torch.vmap(lambda z: bank.jet(z, 0.5, index).laplacian)(batches)
        torch.testing.assert_close(mapped, torch.stack([bank.jet(z, 0.5, index).laplacian for z in batches]))
        slope = torch.func.grad(lambda z: bank.jet(z, 0.5, index).u.sum())(z)
        torch.testing.assert_close(slope, bank.jet(z, 0.5, index).grad)


@pytest.mark.slow
def test_the_same_bits_every_time(device):
    with ff.use_backend("triton"):
        first, second = (gradients(LOSSES["times"], device) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("sizes", [{"dim": 513}, {"hidden": (513,)}, {"hidden": (2,) * 9}], ids=str)
def test_networks_too_large_are_refused_with_the_reason(sizes, device):
    bank, z, index = bank_and_samples(device, **sizes)
    with (
        ff.use_backend("triton"),
        pytest.raises(
            ff.BackendError, match=r"up to (512, got 513|8 hidden layers, got 9).*use_backend\('reference'\)"
        ),
    ):
        bank.jet(z, 0.0, index)


@pytest.mark.parametrize("argument", ["index", "slot"])
def test_an_index_out_of_range_is_no_silent_number(argument):
    problem = make(Case(2, 4, 2, (3,)))
    getattr(problem, argument)[1] = 9
    with ff.use_backend("triton"), pytest.raises(RuntimeError, match=f"{argument} must lie in 0.."):
        jet(problem.mlp, problem.z, problem.index, problem.slot)


def test_without_cuda_and_interpreter_the_reason_says_both(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in ff.backends()["triton"]
    assert "TRITON_INTERPRET=1" in ff.backends()["triton"]
    with pytest.raises(ff.BackendError, match="no CUDA device"), ff.use_backend("triton"):
        pass


def test_an_old_card_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=7, minor=5))
    assert ff.backends()["triton"] == "the Triton kernels need compute capability 8.0, cuda:0 has 7.5"
