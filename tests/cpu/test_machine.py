"""The native engine and the machine: every instruction set, forks, threads, memory."""

import contextlib
import os
import threading
from pathlib import Path

import pytest
import torch
from support.memory import extra_memory
from support.native_engine import Engine, check_all
from support.networks import random_mlp, random_samples
from support.processes import in_forks

from fastflow import _native
from fastflow.engine.activations import ACTIVATIONS

IMPORT = "from cpu import test_machine as t"
FLOW = {"dt": 0.2, "method": "heun", "direction": "forward", "step_length": None}


def results(dtype: torch.dtype, activation: str = "tanh", num_threads: int = 1) -> list[torch.Tensor]:
    """A residual loss and a flow, with their gradients."""
    mlp = random_mlp(2, 19, (21, 33, 18), slots=4, activation=activation, dtype=dtype)
    z, index, slot = random_samples(mlp, 150)
    coefficients, source = torch.ones(2, 5, dtype=dtype), torch.ones(150, dtype=dtype)
    engine = Engine(path=FLOW, num_threads=num_threads)
    loss, residual, gradients = engine.residual_backward(mlp, z, index, slot, coefficients, source)
    path, _ = engine.flow(mlp, z, index, torch.zeros(4, 2, dtype=torch.int64), 3)
    path_gradients = engine.flow_backward(mlp, path, index, torch.zeros(4, 2, dtype=torch.int64), path)
    return [torch.tensor(loss), residual, *gradients, path, *path_gradients]


def save_results(file: str) -> None:
    torch.save([[results(dtype, name) for name in ACTIVATIONS] for dtype in (torch.float64, torch.float32)], file)
    print(_native.instruction_set())


def in_fresh_processes(*programs: str) -> list[str]:
    """What each prints, with this module as `t`."""
    tests = Path(__file__).parents[1]
    find = f"import os, sys; sys.path.insert(0, {str(tests)!r})"
    return in_forks(*(f"{find}; {program}" for program in programs))


@pytest.mark.slow
def test_instruction_sets_agree(tmp_path):
    programs = {
        isa: f"os.environ['FASTFLOW_ISA'] = {isa!r}; {IMPORT}; t.save_results({str(tmp_path / isa)!r})"
        for isa in _native.supported_instruction_sets()
    }
    assert " ".join(in_fresh_processes(*programs.values())).split() == list(programs)
    for isa in programs:
        double, single = torch.load(tmp_path / isa)
        for activation, in_double, in_single in zip(ACTIVATIONS, double, single, strict=True):
            check_all(in_double, results(torch.float64, activation), 1e-12)
            check_all(in_single, results(torch.float32, activation), 2e-5)


def test_fork():
    """A child has none of its parent's threads, and makes its own."""
    expected = results(torch.float32, num_threads=2)
    child = os.fork()
    if child == 0:
        same = all(map(torch.equal, results(torch.float32, num_threads=2), expected))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def bank_in_a_forked_child() -> None:
    """A loss of many samples, each with its own time, so that torch's part takes several threads, before and after."""
    import signal

    import fastflow as ff

    torch.set_num_threads(2)
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, 8, (64, 64))
    z, t, index = torch.randn(20_000, 8), torch.rand(20_000), torch.arange(20_000) % 2

    def gradient() -> torch.Tensor:
        bank.zero_grad()
        ff.pde_loss(bank, z, t, index).backward()
        assert bank.time_weight_in.grad is not None
        return bank.time_weight_in.grad.clone()

    expected = gradient()
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # ends it if it waits for threads that it hasn't got
        close = torch.allclose(gradient(), expected, rtol=1e-3, atol=1e-6)
        os._exit(0 if close and torch.get_num_threads() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
def test_a_bank_in_a_forked_child():
    """Torch's own threads don't survive a fork either."""
    in_fresh_processes(f"{IMPORT}; t.bank_in_a_forked_child()")


def test_calls_from_several_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    expected = results(torch.float32)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: results(torch.float32, num_threads=2), range(12)):
            assert all(map(torch.equal, got, expected))


def peak_of(batch: int, backward: bool) -> int:
    """Bytes by which the peak of resident memory exceeds what inputs and outputs take."""
    mlp = random_mlp(1, 12, (64, 64), slots=1, dtype=torch.float32)
    z, index, slot = (
        torch.randn(batch, 12),
        torch.zeros(batch, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int64),
    )
    Engine().jet(mlp, z[:10].clone(), index[:10], slot[:10])  # loads what is loaded once
    coefficients, source = torch.ones(1, 5), torch.ones(batch)
    engine = Engine(num_threads=2)
    if backward:
        return extra_memory(lambda: engine.residual_backward(mlp, z, index, slot, coefficients, source))
    return extra_memory(lambda: engine.jet(mlp, z, index, slot))


def peak_of_a_flow_backward() -> int:
    """The same for many potentials, whose bias jets change at every step."""
    potentials, steps, width = 256, 100, 256
    mlp = random_mlp(potentials, 4, (width,), slots=1, dtype=torch.float32)
    z, index, _ = random_samples(mlp, potentials)
    slots = torch.zeros(steps, potentials, dtype=torch.int64)
    engine = Engine(path={**FLOW, "method": "euler"})
    path, _ = engine.flow(mlp, z, index, slots, steps)
    short = path[:, :2].contiguous()
    engine.flow_backward(mlp, short, index, slots[:1], short)  # loads what is loaded once
    return extra_memory(lambda: engine.flow_backward(mlp, path, index, slots, path))


@pytest.mark.slow
def test_memory():
    """However many samples there are, and however many potentials and steps.

    One row of a layer's units for each sample would take 32 MB, and one of bias gradients for each potential and step
    79 MB.
    """
    calls = ("t.peak_of(125_000, False)", "t.peak_of(125_000, True)", "t.peak_of_a_flow_backward()")
    peaks = in_fresh_processes(*(f"{IMPORT}; print({call})" for call in calls))
    assert [call for call, peak in zip(calls, peaks, strict=True) if int(peak) > 16 << 20] == []


def test_indices_that_another_thread_changes():
    """What was checked is what is read: a call with a bad index refuses it or never sees it."""
    mlp = random_mlp(1, 3, (16,), slots=2)
    z, index, slot = random_samples(mlp, 2000)
    stop = threading.Event()

    def spoil() -> None:
        while not stop.is_set():
            slot.fill_(1 << 40)
            slot.fill_(0)

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        for _ in range(100):
            with contextlib.suppress(IndexError):
                assert Engine().jet(mlp, z, index, slot).u.isfinite().all()
    finally:
        stop.set()
        spoiler.join()
