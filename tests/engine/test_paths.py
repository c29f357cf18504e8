"""Flows: orders of accuracy, directions, the reverse flow and its gradient, step lengths, rollout losses."""

from itertools import pairwise

import pytest
import torch
from support.networks import random_mlp, random_samples
from torch import Tensor

import fastflow as ff
from fastflow.core.errors import ConvergenceError
from fastflow.engine.backends import reference
from fastflow.engine.integration import Integration
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.paths import integrate_from

METHODS = {"euler": 1, "heun": 2, "rk4": 4}


def bank_of(dim: int = 3, num_potentials: int = 3, seed: int = 0, scale: float = 1.0, **options) -> ff.PotentialBank:
    torch.manual_seed(seed)
    bank = ff.PotentialBank(num_potentials, dim, (8, 7), **options).double()
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter *= scale
    return bank


def starts(batch: int = 5, dim: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(batch, dim, generator=rng, dtype=torch.float64), torch.arange(batch) % 3


@pytest.mark.parametrize("companion", [False, True], ids=["gradient", "companion"])
@pytest.mark.parametrize("method", METHODS)
def test_paths_that_begin_later_are_parts_of_whole_paths(method, companion):
    bank, (z0, index) = bank_of(), starts()
    field = DivergenceFreeField(3, 3, (8, 7)).double() if companion else None
    path = ff.flow(bank, z0, index, 6, dt=0.3, method=method, companion=field)
    place, rows = torch.arange(5) % 4, torch.arange(5)
    begun = {"integration": Integration(0.3, method), "companion": field}
    later = integrate_from(bank, path[rows, place], index, place, 2, last=3, **begun)
    torch.testing.assert_close(later, torch.stack([path[rows, place + n] for n in range(3)], 1))


@pytest.mark.parametrize(("method", "order"), METHODS.items())
@pytest.mark.parametrize("time", ["sinusoidal", "linear", "none"])
def test_error_falls_with_the_methods_order(method, order, time):
    bank, (z0, index) = bank_of(time=time, activation="sin", scale=1.5), starts()
    fine = ff.flow(bank, z0, index, steps=512, dt=2 / 512, method="rk4")[:, -1]
    counts = (16, 32, 64) if order < 4 else (4, 8, 16)
    errors = [(ff.flow(bank, z0, index, n, dt=2 / n, method=method)[:, -1] - fine).norm() for n in counts]
    for coarse, finer in pairwise(errors):
        assert torch.log2(coarse / finer).item() == pytest.approx(order, abs=0.35)


def test_euler_adds_the_gradient_at_each_time():
    bank, (z0, index) = bank_of(), starts()
    path = ff.flow(bank, z0, index, steps=4, t0=2.0, dt=0.5)
    z = z0
    for n in range(4):
        torch.testing.assert_close(path[:, n], z)
        z = z + 0.5 * bank.jet(z, 2.0 + 0.5 * n, index).grad
    torch.testing.assert_close(path[:, 4], z)


def test_descent_follows_the_opposite_gradient():
    bank, (z0, index) = bank_of(), starts()
    path = ff.flow(bank, z0, index, steps=1, direction="descent")
    torch.testing.assert_close(path[:, 1], z0 - bank.jet(z0, 0.0, index).grad)


@pytest.mark.parametrize("step_length", [None, 0.05])
@pytest.mark.parametrize("method", METHODS)
def test_reverse_gives_the_forward_path_back(method, step_length):
    bank, (z0, index) = bank_of(), starts()
    options = {"steps": 6, "t0": 1.0, "dt": 0.7, "method": method, "step_length": step_length}
    path = ff.flow(bank, z0, index, **options)
    back = ff.flow(bank, path[:, -1], index, direction="reverse", **options)
    torch.testing.assert_close(back.flip(1), path, rtol=0, atol=1e-13)


def test_reverse_is_not_the_mirrored_path():
    """The first public code went back along minus the gradient."""
    bank, (z0, index) = bank_of(scale=1.5), starts()
    end = ff.flow(bank, z0, index, steps=8)[:, -1]
    reverse = ff.flow(bank, end, index, steps=8, direction="reverse")[:, -1]
    mirrored = ff.flow(bank, end, index, steps=8, direction="descent")[:, -1]
    assert (reverse - z0).abs().max() < 1e-12
    assert (mirrored - z0).abs().max() > 1e-2


def test_reverse_says_when_a_path_cannot_be_undone():
    bank, (z0, index) = bank_of(scale=6.0), starts()
    with pytest.raises(ConvergenceError, match="smaller dt"):
        ff.flow(bank, z0, index, steps=3, dt=50.0, direction="reverse")


@pytest.mark.slow
@pytest.mark.parametrize("step_length", [None, 0.05])
@pytest.mark.parametrize("direction", ["forward", "descent", "reverse"])
@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method, direction, step_length):
    mlp = random_mlp(2, 2, (3,), slots=14)
    # Small weights keep the reverse flow's fixed point a contraction under the checker's perturbations.
    mlp = mlp._replace(out_weight=0.2 * mlp.out_weight)
    z0, index, _ = random_samples(mlp, 2)
    times = {"euler": 2, "heun": 3, "rk4": 5}[method]
    slots = 7 * torch.arange(2) + torch.arange(times)[:, None]
    inputs = tuple(x.requires_grad_() for x in (z0, mlp.weights[0], mlp.bias_jets[0], mlp.out_weight))

    def path(z0: Tensor, weight: Tensor, bias_jet: Tensor, out_weight: Tensor) -> Tensor:
        moved = mlp._replace(weights=(weight,), bias_jets=(bias_jet,), out_weight=out_weight)
        return reference.flow(moved, z0, index, slots, 0.5, method, direction, step_length)[0]

    # Where a step is evaluated several times, a random projection of the Jacobian is enough.
    assert torch.autograd.gradcheck(path, inputs, fast_mode=method != "euler" or direction == "reverse")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", ["forward", "descent"])
def test_steps_have_the_given_length(method, direction):
    bank, (z0, index) = bank_of(), starts()
    path = ff.flow(bank, z0, index, steps=5, method=method, direction=direction, step_length=0.25)
    torch.testing.assert_close(path.diff(dim=1).norm(dim=2), torch.full((5, 5), 0.25, dtype=torch.float64))


def test_a_step_of_no_length_stays_where_it_is():
    bank, (z0, index) = bank_of(scale=0.0), starts()
    z0.requires_grad_()
    path = ff.flow(bank, z0, index, steps=3, step_length=0.25)
    torch.testing.assert_close(path, z0.detach()[:, None].expand_as(path))
    (gradient,) = torch.autograd.grad(path.sum(), z0)
    assert gradient.isfinite().all()


def test_one_index_equals_the_same_index_for_each():
    bank, (z0, _) = bank_of(), starts()
    torch.testing.assert_close(ff.flow(bank, z0, 2), ff.flow(bank, z0, torch.full((5,), 2)))


@pytest.mark.parametrize("pde", [ff.pde.Wave(), ff.pde.PorousMedium(2.0), lambda jet: jet.u_tt - jet.laplacian])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("index", ["each its own", 1])
def test_rollout_loss_averages_over_the_points_before_the_end(method, pde, index):
    bank, (z0, each) = bank_of(), starts()
    index = each if index == "each its own" else index
    loss, path = ff.rollout_loss(bank, z0, index, steps=4, pde=pde, t0=0.5, dt=0.7, method=method)
    torch.testing.assert_close(path, ff.flow(bank, z0, index, 4, 0.5, 0.7, method))
    visited = [ff.pde_loss(bank, path[:, n], 0.5 + 0.7 * n, index, pde) for n in range(4)]
    torch.testing.assert_close(loss, torch.stack(visited).mean())


def test_rollout_loss_uses_each_potentials_own_constants():
    bank, (z0, each) = bank_of(), starts()
    pde = ff.pde.Wave(torch.tensor([0.5, 1.0, 2.0]))
    loss, path = ff.rollout_loss(bank, z0, each, steps=2, pde=pde)
    visited = [ff.pde_loss(bank, path[:, n], float(n), each, pde) for n in range(2)]
    torch.testing.assert_close(loss, torch.stack(visited).mean())
    one, _ = ff.rollout_loss(bank, z0, 2, steps=1, pde=pde)
    torch.testing.assert_close(one, ff.pde_loss(bank, z0, 0.0, 2, ff.pde.Wave(2.0)))


@pytest.mark.slow
def test_long_rollouts_round_no_more_than_plain_torch():
    """Each sample's tangents add to the gradient of a hidden layer's weights at each of forty steps."""
    squares = torch.zeros(2, dtype=torch.float64)
    for seed in range(4):
        torch.manual_seed(seed)
        bank, z0 = ff.PotentialBank(1, 48, (64, 64), time="linear"), torch.randn(32, 48)

        def gradient(bank: ff.PotentialBank, z0: Tensor) -> Tensor:
            return torch.autograd.grad(ff.rollout_loss(bank, z0, 0, 40)[0], bank.weights[1])[0].double()

        got = gradient(bank, z0)
        with ff.use_backend("reference"):
            plain = gradient(bank, z0)
        exact = gradient(bank.double(), z0.double())
        errors = torch.stack([(x - exact).abs().max() for x in (got, plain)])
        squares += (errors / exact.abs().max()) ** 2
    assert squares[0] < squares[1]


def test_rollout_loss_is_differentiated_through_the_path():
    bank, (z0, index) = bank_of(), starts()
    z0.requires_grad_()
    loss, _ = ff.rollout_loss(bank, z0, index, steps=3)
    (through,) = torch.autograd.grad(loss, z0)
    h = 1e-6
    ahead, behind = z0.detach().clone(), z0.detach().clone()
    ahead[1, 0] += h
    behind[1, 0] -= h
    difference = ff.rollout_loss(bank, ahead, index, 3)[0] - ff.rollout_loss(bank, behind, index, 3)[0]
    assert through[1, 0].item() == pytest.approx(difference.item() / (2 * h), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"steps": 2.0}, "steps must be"),
        ({"method": "midpoint"}, "method must be one of euler, heun, rk4"),
        ({"direction": "backward"}, "direction must be one of forward, descent, reverse"),
        ({"dt": float("nan")}, "dt must be a finite number"),
        ({"dt": -(2**70)}, "dt must be a finite number"),
        ({"steps": 2**70}, "steps must be a whole number below 2"),
        ({"step_length": 5e-324}, "step_length must be at least"),
        ({"step_length": -1.0}, "step_length must be"),
        ({"step_length": "a"}, "step_length must be"),
        ({"step_length": True}, "step_length must be"),
        ({"step_length": torch.tensor(0.1)}, "step_length must be"),
        ({"steps": True}, "steps must be"),
        ({"t0": 10**400}, "t0 must be a finite number"),
        ({"bank": None}, "bank must be a PotentialBank, got NoneType"),
        ({"index": 3}, r"index must lie in 0\.\.2"),
        ({"index": torch.tensor([0, 1, 2, 3, 0])}, r"index must lie in 0\.\.2"),
        ({"index": torch.zeros(4, dtype=torch.long)}, "index must be"),
        ({"z0": torch.zeros(5, 4, dtype=torch.float64)}, r"z must be a tensor of shape \(B, 3\)"),
        ({"z0": torch.zeros(5, 3)}, "dtype"),
        ({"z0": torch.full((5, 3), torch.nan, dtype=torch.float64)}, "z must be finite"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_bad_arguments_are_named(arguments, message):
    z0, index = starts()
    with pytest.raises(ff.InputError, match=message):
        ff.flow(**{"bank": bank_of(), "z0": z0, "index": index, **arguments})
