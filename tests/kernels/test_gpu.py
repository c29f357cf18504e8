"""What only a GPU shows: precisions, the same bits, no waiting for the device, graphs, its own failures."""

import subprocess
import sys

import pytest
import torch
from support.kernel_cases import Case, check, make, twin_jet, twin_loss

import fastflow as ff

pytestmark = pytest.mark.gpu

CASES = [
    Case(3, 1000, 12, (64, 64), dtype=torch.float32),
    Case(2, 300, 128, (128, 128), "gelu", dtype=torch.float32),
    Case(2, 129, 65, (20, 33, 17), "silu", "identity", dtype=torch.float32),
    Case(2, 129, 17, (65,), "sin", dtype=torch.float32),
    Case(2, 70, 3, (300, 40), "softplus", dtype=torch.float32),
    Case(2, 70, 12, (64, 64), "tanh", laplacian="hutchinson", dtype=torch.float32),
]


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_precision(case, precision):
    from fastflow.engine.backends import triton

    problem = make(case)
    exact, exact_gradient = twin_jet(problem.to(torch.float64), case.laplacian)
    plain, plain_gradient = twin_jet(problem, case.laplacian)
    there = problem.to("cuda")
    samples = (there.mlp, there.z, there.index, there.slot)
    jet = triton.jet(*samples, case.laplacian, there.probes, with_u_tt=True, precision=precision)
    check(jet, plain, exact, precision)
    bars = (case.laplacian, there.probes, there.jet_bar)
    check(triton.jet_backward(*samples, *bars, True, precision=precision), plain_gradient, exact_gradient, precision)
    if case.laplacian == "exact":
        arguments = (*samples, there.coefficients, there.source, True)
        computed = triton.residual_loss_and_gradient(*arguments, precision=precision)
        check(computed, twin_loss(problem), twin_loss(problem.to(torch.float64)), precision)


def bank_and_samples(batch: int = 4096):
    torch.manual_seed(0)
    bank = ff.PotentialBank(8, 12, (64, 64)).cuda()
    grid = torch.linspace(0, 1, 5, device="cuda")
    z = torch.randn(batch, 12, device="cuda")
    index = torch.randint(8, (batch,), device="cuda")
    place = torch.randint(5, (batch,), device="cuda")
    return bank, z, (grid, place), index


def gradients(bank, z, t, index, pde):
    bank.zero_grad(set_to_none=False)
    loss = ff.pde_loss(bank, z, t, index, pde)
    loss.backward()
    return [loss.detach().clone(), *(p.grad.clone() for p in bank.parameters() if p.grad is not None)]


def test_cuda_tensors_go_to_the_kernels_by_themselves(monkeypatch):
    from fastflow.engine.backends import triton

    calls = []
    original = triton.residual_loss_and_gradient
    monkeypatch.setattr(
        triton, "residual_loss_and_gradient", lambda *a, **o: calls.append(o["precision"]) or original(*a, **o)
    )
    bank, z, t, index = bank_and_samples()
    with ff.precision("tf32"):
        ff.pde_loss(bank, z, t, index)
    assert calls == ["tf32"]


def test_the_same_bits_every_time():
    problem = bank_and_samples()
    pde = ff.pde.Wave().cuda()
    first, second = gradients(*problem, pde), gradients(*problem, pde)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_nothing_waits_for_the_device():
    problem = bank_and_samples()
    pde = ff.pde.Wave().cuda()
    expected = gradients(*problem, pde)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        computed = gradients(*problem, pde)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(x, y) for x, y in zip(computed, expected, strict=True))


def test_a_training_step_can_be_captured():
    bank, z, t, index = bank_and_samples()
    pde = ff.pde.Wave().cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            gradients(bank, z, t, index, pde)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(bank, z, t, index, pde)
    z.copy_(torch.randn_like(z))
    index.copy_(index.flip(0))
    graph.replay()
    expected = gradients(bank, z, t, index, pde)
    assert all(torch.equal(x, y) for x, y in zip(captured, expected, strict=True))


def test_two_calls_on_two_streams():
    bank, z, t, index = bank_and_samples()
    expected = bank.jet(z, t, index)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results = []
    for stream in streams:
        with torch.cuda.stream(stream):
            results.append(bank.jet(z, t, index))
    torch.cuda.synchronize()
    assert all(torch.equal(x, y) for result in results for x, y in zip(result, expected, strict=True))


def test_too_wide_a_network_says_why_it_is_slow():
    bank = ff.PotentialBank(1, 3, (513,)).cuda()
    with pytest.warns(UserWarning, match="plain PyTorch, which is slower: .* up to 512, got 513"):
        bank.jet(torch.zeros(2, 3, device="cuda"), 0.0, 0)


def test_an_index_out_of_range_stops_the_device():
    program = """
import torch, fastflow as ff
bank = ff.PotentialBank(2, 3, (8,)).cuda()
bank.jet(torch.zeros(4, 3, device="cuda"), 0.0, torch.tensor([0, 1, 2, 0], device="cuda"))
torch.cuda.synchronize()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "assert" in result.stderr
