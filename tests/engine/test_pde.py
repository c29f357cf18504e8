"""Equations: residuals as written in the docstrings, constants per potential, exact solutions, one's own."""

import math

import pytest
import torch
from torch import Tensor, nn

import fastflow as ff
from fastflow.engine.pde import EQUATIONS, PDE, normalized, residual, residual_sums
from fastflow.engine.types import Jet

B, D = 6, 3


def random_jet(seed: int = 0) -> Jet:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    return Jet(normal(B).abs() + 0.5, normal(B, D), normal(B), normal(B), normal(B))


FORMULAS = {
    "wave": (ff.pde.Wave(0.7), lambda j: j.u_tt - 0.49 * j.laplacian),
    "damped wave": (ff.pde.DampedWave(0.7, 0.3), lambda j: j.u_tt + 0.3 * j.u_t - 0.49 * j.laplacian),
    "klein-gordon": (ff.pde.KleinGordon(0.7, 2.0), lambda j: j.u_tt - 0.49 * j.laplacian + 4 * j.u),
    "heat": (ff.pde.Heat(0.3), lambda j: j.u_t - 0.3 * j.laplacian),
    "hamilton-jacobi": (ff.pde.HamiltonJacobi(), lambda j: j.u_t + 0.5 * (j.grad**2).sum(1)),
    "hamilton-jacobi with force": (ff.pde.HamiltonJacobi(0.3), lambda j: j.u_t + 0.5 * (j.grad**2).sum(1) + 0.09),
    "viscous hamilton-jacobi": (
        ff.pde.ViscousHamiltonJacobi(0.2),
        lambda j: j.u_t + 0.5 * (j.grad**2).sum(1) - 0.2 * j.laplacian,
    ),
    "helmholtz": (ff.pde.Helmholtz(1.5), lambda j: j.laplacian + 2.25 * j.u),
    "poisson": (ff.pde.Poisson(0.4), lambda j: j.laplacian - 0.4),
    "porous medium": (
        ff.pde.PorousMedium(3.0),
        lambda j: j.u_t - 3 * j.u**2 * j.laplacian - 6 * j.u * (j.grad**2).sum(1),
    ),
    "porous medium, m = 1": (ff.pde.PorousMedium(1.0), lambda j: j.u_t - j.laplacian),
}


@pytest.mark.parametrize(("pde", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_residual_is_the_formula(pde, formula):
    jet = random_jet()
    torch.testing.assert_close(pde(jet), formula(jet), rtol=1e-13, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(("pde", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_losses_keep_the_banks_precision(pde, formula, dtype, backend):
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, D, (5, 4)).to(dtype)
    z, index = torch.randn(B, D).to(dtype), torch.arange(B) % 2
    with ff.use_backend(backend):
        loss = ff.pde_loss(bank, z, 0.3, index, pde)
        expected = formula(bank.jet(z, 0.3, index)).square().mean()
        rollout, path = ff.rollout_loss(bank, z, index, 2, pde, t0=0.3, dt=0.1)
        parts = [formula(bank.jet(path[:, n], 0.3 + 0.1 * n, index)).square().mean() for n in range(2)]
    assert loss.dtype == rollout.dtype == dtype
    tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-7}
    torch.testing.assert_close(loss, expected, **tolerance)
    torch.testing.assert_close(rollout, torch.stack(parts).mean(), **tolerance)


def test_some_constants_may_differ_between_potentials_and_others_not():
    index, jet = torch.tensor([0, 2, 2, 0, 1, 2]), random_jet()
    c = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for pde in (ff.pde.DampedWave(c, 0.3), ff.pde.DampedWave(c, torch.full((3,), 0.3))):
        expected = jet.u_tt + pde.gamma.mean() * jet.u_t - c[index] ** 2 * jet.laplacian
        torch.testing.assert_close(pde(jet, index=index), expected)
    expected = jet.u_tt + 0.3 * jet.u_t - 0.25 * jet.laplacian
    torch.testing.assert_close(
        ff.pde.DampedWave(0.5, torch.full((3,), 0.3, dtype=torch.float64))(jet, index=index), expected
    )


def test_every_equation_has_a_name():
    assert {type(pde) for pde, _ in FORMULAS.values()} == set(EQUATIONS.values())
    assert all(pde.equation for pde in EQUATIONS.values())


def test_constants_per_potential_are_learned_each_by_itself():
    pde = ff.pde.Wave(1.0, num_potentials=3, learnable=True).double()
    index = torch.tensor([0, 2, 2, 0, 0, 2])
    jet = random_jet()
    r = pde(jet, index=index)
    torch.testing.assert_close(r, jet.u_tt - jet.laplacian)
    r.square().mean().backward()
    assert pde.c.grad[1] == 0
    assert (pde.c.grad[[0, 2]] != 0).all()


def test_constants_that_differ_need_the_index():
    pde = ff.pde.Wave(torch.tensor([1.0, 2.0]))
    with pytest.raises(ff.InputError, match="pass index="):
        pde(random_jet())


def test_a_learned_field_may_be_force_or_density():
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(D, 1).double()

        def forward(self, z: Tensor, t: Tensor, index: Tensor) -> Tensor:
            return self.linear(z)[:, 0] * t + index

    z, t, index = torch.ones(B, D, dtype=torch.float64), torch.full((B,), 2.0, dtype=torch.float64), torch.arange(B)
    force = Force()
    jet = random_jet()
    f = force(z, t, index)
    pde = ff.pde.HamiltonJacobi(force)
    torch.testing.assert_close(pde(jet, z, t, index), jet.u_t + 0.5 * (jet.grad**2).sum(1) + f**2)
    assert len(list(pde.parameters())) == 2
    torch.testing.assert_close(ff.pde.Poisson(force)(jet, z, t, index), jet.laplacian - f)


def test_fields_reach_the_losses():
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, D, (5, 4)).double()
    z, index = torch.randn(B, D, dtype=torch.float64), torch.arange(B) % 2
    density = ff.pde.Poisson(lambda z, t, index: z[:, 0] + t + index)
    jet = bank.jet(z, 0.5, index)
    expected = (jet.laplacian - (z[:, 0] + 0.5 + index)).square().mean()
    torch.testing.assert_close(ff.pde_loss(bank, z, 0.5, index, density), expected)
    loss, path = ff.rollout_loss(bank, z, index, 2, density)
    parts = [ff.pde_loss(bank, path[:, n], float(n), index, density) for n in range(2)]
    torch.testing.assert_close(loss, torch.stack(parts).mean())


@pytest.mark.parametrize(
    ("field", "got"),
    [
        (lambda z, t, index: 3.0, "float"),
        (lambda z, t, index: torch.zeros(7), r"shape \(7,\)"),
        (lambda z, t, index: z, r"shape \(\d, 3\)"),
    ],
    ids=["float", "count", "matrix"],
)
@pytest.mark.parametrize("equation", [ff.pde.Poisson, ff.pde.HamiltonJacobi])
def test_a_field_must_give_a_value_for_each_sample(equation, field, got):
    bank, z, pde = ff.PotentialBank(2, D), torch.zeros(4, D), equation(field)
    message = f"the field of {equation.__name__} must give a tensor with one value per sample, .* got {got}"
    with pytest.raises(ff.InputError, match=message):
        ff.pde_loss(bank, z, 0.0, 1, pde)
    with pytest.raises(ff.InputError, match=message):
        ff.rollout_loss(bank, z, 1, 2, pde)
    with pytest.raises(ff.InputError, match=message):
        pde(bank.jet(z, 0.0, 1), z, torch.zeros(4), torch.ones(4, dtype=torch.long))


def test_one_may_write_an_equation():
    class Telegraph(PDE):
        equation = "u_tt + u_t - lap + u"

        def terms(self, jet, z=None, t=None, index=None):
            return jet.u_tt, jet.u_t, -jet.laplacian, jet.u

    jet = random_jet()
    torch.testing.assert_close(Telegraph()(jet), jet.u_tt + jet.u_t - jet.laplacian + jet.u)


def test_any_callable_of_the_jet_is_an_equation():
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, D, (5, 4)).double()
    z = torch.randn(B, D, dtype=torch.float64)
    own = ff.pde_loss(bank, z, 0.5, 1, lambda jet: jet.u_tt - 0.25 * jet.laplacian)
    torch.testing.assert_close(own, ff.pde_loss(bank, z, 0.5, 1, ff.pde.Wave(0.5)))
    with pytest.raises(ff.InputError, match=r"one residual per sample, shape \(6,\)"):
        ff.pde_loss(bank, z, 0.5, 1, lambda jet: jet.u_tt.sum())


def test_a_travelling_wave_solves_the_wave_equation():
    """U = sin(k.z + b t), as a bank of one sine unit: u_tt = -b^2 u, lap = -|k|^2 u, so c = b / |k|."""
    bank = ff.PotentialBank(1, D, (1,), activation="sin", out_activation="identity", time="linear").double()
    k = bank.weights[0].detach()[0, 0]
    c = float(bank.time_weight.detach().abs() / k.norm())
    z, t = torch.randn(9, D, dtype=torch.float64), torch.linspace(0, 3, 9, dtype=torch.float64)
    c = torch.tensor(c, dtype=torch.float64)
    assert ff.pde_loss(bank, z, t, 0, lambda jet: jet.u_tt - c**2 * jet.laplacian) < 1e-28
    assert ff.pde_loss(bank, z, t, 0, ff.pde.Wave(2 * float(c))) > 1e-6


def test_the_loss_is_a_mean_over_samples_whatever_the_batch():
    """The first public code summed u_tt over the batch, so its residual grew with the batch size."""
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, D, (5, 4)).double()
    z = torch.randn(B, D, dtype=torch.float64)
    once = ff.pde_loss(bank, z, 0.5, 1)
    twice = ff.pde_loss(bank, z.repeat(2, 1), 0.5, 1)
    torch.testing.assert_close(twice, once)


def test_row_sums_give_a_residual_per_coordinate():
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, D, (5, 4)).double()
    z = torch.randn(B, D, dtype=torch.float64)
    jet = bank.jet(z, 0.5, 1, laplacian="row_sum")
    expected = (jet.u_tt[:, None] - 0.25 * jet.laplacian).square().mean()
    torch.testing.assert_close(ff.pde_loss(bank, z, 0.5, 1, ff.pde.Wave(0.5), laplacian="row_sum"), expected)


def test_normalized_residuals_are_each_potentials_own():
    pde, jet, index = ff.pde.Wave(0.7).double(), random_jet(), torch.tensor([0, 2, 2, 0, 0, 2])
    sums = residual_sums(pde, jet, None, None, index, 3)
    each, together = normalized(sums), normalized(sums.sum(1))
    terms = torch.stack((jet.u_tt, -0.49 * jet.laplacian))
    for k in (0, 2):
        mine = terms[:, index == k]
        torch.testing.assert_close(each[k], mine.sum(0).square().sum() / mine.square().sum())
    assert each[1] == 0
    torch.testing.assert_close(together, terms.sum(0).square().sum() / terms.square().sum())


def test_normalized_residual_does_not_depend_on_scale():
    pde, jet, index = ff.pde.Wave(0.7).double(), random_jet(), torch.zeros(B, dtype=torch.long)
    small = Jet(*(1e-3 * x for x in jet))
    expected, scaled = (normalized(residual_sums(pde, each, None, None, index, 1)) for each in (jet, small))
    torch.testing.assert_close(scaled, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ff.pde.Wave(math.nan), "c must be a finite number"),
        (lambda: ff.pde.Wave(torch.ones(2, 2)), "c must be a finite number or one per potential"),
        (lambda: ff.pde.Wave(torch.ones(2), num_potentials=3), "c has 2 values for 3 potentials"),
        (lambda: ff.pde.Wave("fast"), "c must be a finite number"),
        (lambda: ff.pde.Wave(num_potentials=0), "num_potentials must be"),
        (lambda: ff.pde.PorousMedium(0.5), "m must be at least 1"),
        (lambda: ff.pde_loss(ff.PotentialBank(2, 1), torch.ones(3, 1), 0.0, 0, "wave"), "pde must be an equation"),
        (lambda: ff.pde_loss(ff.PotentialBank(2, 1), torch.ones(3, 1), 0.0, 0, ff.pde.PDE), "pde must be an equation"),
        (
            lambda: ff.pde_loss(ff.PotentialBank(2, 1), torch.ones(3, 1), 0.0, 0, ff.pde.Wave(num_potentials=5)),
            "constants for 5 potentials, the bank has 2",
        ),
        (lambda: ff.pde_loss(ff.PotentialBank(2, 1), torch.ones(0, 1), 0.0, 0), "at least one sample"),
        (lambda: ff.pde_loss(nn.Linear(3, 1), torch.ones(3, 1), 0.0, 0), "bank must be a PotentialBank, got Linear"),
        (lambda: ff.pde.HamiltonJacobi("a"), "f must be a number, one per potential, or a function"),
    ],
    ids=[
        "nan",
        "matrix",
        "wrong count",
        "text",
        "none",
        "porous medium",
        "name",
        "class",
        "too many",
        "empty",
        "bank",
        "field",
    ],
)
def test_bad_constants_are_refused(make, message):
    with pytest.raises(ff.InputError, match=message):
        make()


def test_residual_passes_equations_and_callables_alike():
    jet = random_jet()
    nothing = torch.zeros(0)
    pde = ff.pde.Heat(1.0).double()
    torch.testing.assert_close(
        residual(pde, jet, nothing, nothing, nothing), residual(lambda j: j.u_t - j.laplacian, jet, *3 * (nothing,))
    )
