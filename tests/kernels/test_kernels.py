"""Every kernel, forward and backward, against the reference: on a CUDA device, or in Triton's interpreter."""

from itertools import cycle
from typing import Any

import pytest
import torch
from support.kernel_cases import Case, check, make, twin_jet, twin_loss
from support.networks import random_mlp

from fastflow.engine.activations import ACTIVATIONS, OUT_ACTIVATIONS
from fastflow.engine.backends import reference

pytestmark = pytest.mark.usefixtures("_fresh_memory_is_nan")

CASES = [
    # Every activation and every output map, which know nothing of each other: not all pairs.
    *(Case(2, 9, 3, (5, 4), a, o) for a, o in zip(ACTIVATIONS, cycle(OUT_ACTIVATIONS), strict=False)),
    # Every kind of Laplacian, with time and without.
    *(Case(2, 9, 3, (5, 4), "gelu", laplacian=k, has_time=t) for k in ("hutchinson", "none") for t in (True, False)),
    Case(2, 9, 3, (5, 4), has_time=False),
    Case(3, 63, 3, (20,), "sin", laplacian="hutchinson"),
    # Awkward sizes: one of everything; several tiles; widths beyond a block; more latents than units; many layers.
    Case(1, 1, 1, (1,), slots=1),
    Case(1, 1, 1, (1, 1, 1), "silu", slots=1, dtype=torch.float32),
    Case(3, 129, 3, (20, 20), "gelu", dtype=torch.float32),
    Case(2, 33, 17, (65,), "silu", "identity", dtype=torch.float32),
    Case(2, 5, 1, (20, 65), "softplus", dtype=torch.float32),
    Case(2, 5, 33, (17, 3), "tanh", "identity"),
    Case(2, 5, 18, (17, 9), "gelu", dtype=torch.float32),
    Case(2, 5, 3, (4,) * 8, "sin"),
    # Bias rows: one for all, one for each sample, and some between.
    Case(2, 70, 3, (5,), slots=1),
    Case(2, 70, 3, (5,), slots=1000),
    Case(3, 70, 3, (5,), slots=2),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def engine() -> Any:
    """The adapter, imported late: the interpreter must have been chosen by then."""
    from fastflow.engine.backends import triton

    return triton


@pytest.mark.slow
@every_case
def test_jet_and_its_backward(case, device):
    problem = make(case)
    exact, exact_gradient = twin_jet(problem.to(torch.float64), case.laplacian)
    plain, plain_gradient = twin_jet(problem, case.laplacian)
    there = problem.to(device)
    samples = (there.mlp, there.z, there.index, there.slot, case.laplacian, there.probes)
    check(engine().jet(*samples, with_u_tt=True, precision="ieee"), plain, exact)
    gradient = engine().jet_backward(*samples, there.jet_bar, with_z=True, precision="ieee")
    check(gradient, plain_gradient, exact_gradient)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.laplacian == "exact"], ids=str)
def test_residual_loss_and_its_gradient(case, device):
    problem = make(case)
    exact, plain = twin_loss(problem.to(torch.float64)), twin_loss(problem)
    there = problem.to(device)
    samples = (there.mlp, there.z, there.index, there.slot, there.coefficients)
    check([engine().residual_loss(*samples, there.source, precision="ieee")], plain[:1], exact[:1])
    computed = engine().residual_loss_and_gradient(*samples, there.source, with_z=True, precision="ieee")
    check(computed, plain, exact)


@pytest.mark.slow
def test_gradients_that_nobody_asks_for_are_left_out(device):
    there = make(Case(2, 9, 3, (5,))).to(device)
    samples = (there.mlp, there.z, there.index, there.slot)
    z_bar, *rest = engine().jet_backward(*samples, "exact", None, there.jet_bar, with_z=False, precision="ieee")
    assert z_bar.shape == (0,)
    assert all(x.isfinite().all() for x in rest)
    loss, z_bar, coefficients_bar, source_bar, *_ = engine().residual_loss_and_gradient(
        *samples, there.coefficients, None, with_z=False, precision="ieee"
    )
    assert z_bar.shape == source_bar.shape == (0,)
    assert loss.isfinite()
    assert coefficients_bar.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("given", range(5))
def test_one_cotangent_alone(given, device):
    problem = make(Case(2, 9, 3, (5, 4)))
    bars = [bar if i == given else None for i, bar in enumerate(problem.jet_bar)]
    zeros = [torch.zeros_like(x) if bar is None else bar for x, bar in zip(problem.jet_bar, bars, strict=True)]
    _, expected = twin_jet(problem._replace(jet_bar=zeros), "exact")
    there = problem.to(device)
    bars = [None if bar is None else bar.to(device) for bar in bars]
    samples = (there.mlp, there.z, there.index, there.slot, "exact", None)
    check(engine().jet_backward(*samples, bars, with_z=True, precision="ieee"), expected, expected)


def test_no_samples(device):
    there = make(Case(2, 0, 3, (5, 4))).to(device)
    samples = (there.mlp, there.z, there.index, there.slot, "exact", None)
    assert engine().jet(*samples, with_u_tt=True, precision="ieee").grad.shape == (0, 3)
    gradient = engine().jet_backward(*samples, there.jet_bar, with_z=True, precision="ieee")
    assert [x.shape for x in gradient] == [x.shape for x in (there.z, *there.mlp.tensors())]
    assert not any(x.any() for x in gradient)


def test_a_program_without_tiles_finds_no_loss(device, monkeypatch):
    """It has no barrier between its own zeros and their sum, so none of its warps may find anything else."""
    there = make(Case(3, 129, 3, (20, 20), dtype=torch.float32)).to(device)
    samples = (there.mlp, there.z, there.index, there.slot, there.coefficients, there.source)
    names, launches = engine().residual_kernel.arg_names, []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *given, **named: launches.append((grid[0], dict(zip(names, given, strict=False)), named["C"]))

    monkeypatch.setattr(engine(), "residual_kernel", Recorder())
    engine().residual_loss(*samples, precision="ieee")
    engine().residual_loss_and_gradient(*samples, with_z=True, precision="ieee")
    assert len(launches) == 2
    for programs, given, config in launches:
        scratch = given["scratch"].view(programs, given["scratch_size"])
        zero = scratch == 0
        assert zero.sum(1).tolist() == [config.samples.value] * programs
        assert scratch[~zero].isnan().all()


@pytest.mark.slow
def test_rows_of_the_first_weight_that_depend_on_each_other(device):
    """More latents than units: the directions come from a rotation, which must stand a weight without full rank."""
    case = Case(2, 9, 30, (5, 4))
    problem = make(case)
    problem.mlp.weights[0][:, 1] = 0
    problem.mlp.weights[0][:, 3] = 2 * problem.mlp.weights[0][:, 2]
    exact, exact_gradient = twin_jet(problem, "exact")
    there = problem.to(device)
    samples = (there.mlp, there.z, there.index, there.slot, "exact", None)
    check(engine().jet(*samples, with_u_tt=True, precision="ieee"), exact, exact)
    check(engine().jet_backward(*samples, there.jet_bar, True, precision="ieee"), exact_gradient, exact_gradient)


@pytest.mark.slow
def test_activations_are_accurate_near_zero_and_far_out(device):
    """Through one unit: u = sigma(a), to a few units in the last place of float32."""
    for activation in ACTIVATIONS:
        mlp = random_mlp(1, 1, (1,), 1, activation, "identity", dtype=torch.float32)
        tensors = [torch.ones_like(x) if i in (0, 2) else torch.zeros_like(x) for i, x in enumerate(mlp.tensors())]
        z = torch.cat([torch.linspace(-12, 12, 200), torch.logspace(-12, -1, 24), -torch.logspace(-6, 2, 30)])[:, None]
        zeros = torch.zeros(len(z), dtype=torch.long)
        mlp = mlp.with_tensors([x.to(device) for x in tensors])
        computed = engine().jet(
            mlp, *(x.to(device) for x in (z, zeros, zeros)), "exact", None, with_u_tt=True, precision="ieee"
        )
        a = z.double().requires_grad_()
        value = {
            "tanh": torch.tanh,
            "sin": torch.sin,
            "gelu": torch.nn.functional.gelu,
            "silu": torch.nn.functional.silu,
            "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        }[activation](a)
        (sigma1,) = torch.autograd.grad(value.sum(), a, create_graph=True)
        torch.testing.assert_close(computed.u.cpu().double(), value[:, 0].detach(), rtol=2e-6, atol=3e-7)
        torch.testing.assert_close(computed.grad.cpu().double(), sigma1.detach(), rtol=2e-6, atol=5e-7)
        if activation == "tanh":  # tanh and its derivative keep their relative error where plain formulas cancel
            torch.testing.assert_close(computed.u.cpu().double(), value[:, 0].detach(), rtol=1e-6, atol=0)
            large = sigma1 > 1e-12
            torch.testing.assert_close(computed.grad.cpu().double()[large], sigma1[large].detach(), rtol=2e-5, atol=0)


def test_the_left_tail_of_gelu_keeps_its_digits(device):
    """In float64, where 1 + erf would cancel: the jets of one unit, against the reference."""
    mlp = random_mlp(1, 1, (1,), slots=1, activation="gelu", out_activation="identity", dtype=torch.float64)
    one = {id(x) for x in (*mlp.weights, mlp.out_weight)}
    mlp = mlp.with_tensors([torch.full_like(x, float(id(x) in one)) for x in mlp.tensors()])
    z = torch.tensor([[-20.0], [-9.5], [-9.0], [-6.0], [-3.5]], dtype=torch.double)
    none = torch.zeros(5, dtype=torch.long)
    expected = reference.jet(mlp, z, none, none)
    there = mlp.with_tensors([x.to(device) for x in mlp.tensors()])
    samples = there, z.to(device), none.to(device), none.to(device)
    found = engine().jet(*samples, "exact", None, with_u_tt=True, precision="ieee")
    for name in ("u", "grad", "laplacian"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-13, atol=0)
