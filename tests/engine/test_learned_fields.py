"""Learned fields: no divergence where none may be, gradients to all that is learned, flows that follow them."""

import pytest
import torch

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.engine.learned_fields import DivergenceFreeField, NetworkField
from fastflow.latents.losses import initial_loss

K, D, B = 3, 5, 4


@pytest.fixture(params=[False, True], ids=["", "affine"])
def companion(request):
    torch.manual_seed(0)
    return DivergenceFreeField(K, D, (8, 8), rank=2, affine=request.param).double()


def latents():
    return torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


INDEX = torch.tensor([0, 2, 1, 2])


def test_velocity_has_no_divergence_but_a_jacobian(companion):
    z = latents()
    jacobian = torch.func.jacrev(lambda z: companion(z, 0.7, INDEX).sum(0))(z).permute(1, 0, 2)  # (B, D, D)
    assert jacobian.abs().amax((1, 2)).min() > 1e-3
    torch.testing.assert_close(jacobian.diagonal(dim1=1, dim2=2).sum(1), torch.zeros(B, dtype=torch.float64))


def test_affine_part_is_added_without_its_trace():
    torch.manual_seed(0)
    field = DivergenceFreeField(K, D, (8, 8), rank=2, affine=True).double()
    z = latents()
    with torch.no_grad():
        joined = field(z, 0.7, INDEX)
        matrix = field.matrix[INDEX]
        added = [m @ point - m.trace() / D * point for m, point in zip(matrix, z, strict=True)]
        field.matrix.zero_()
        alone = field(z, 0.7, INDEX) - field.displacement[INDEX]
        torch.testing.assert_close(joined - alone, torch.stack(added) + field.displacement[INDEX])


def test_velocity_is_no_gradient(companion):
    """A gradient's Jacobian is symmetric; this one turns."""
    jacobian = torch.func.jacrev(lambda z: companion(z, 0.7, INDEX).sum(0))(latents()).permute(1, 0, 2)
    assert (jacobian - jacobian.mT).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("index", [INDEX, 1], ids=["each", "one"])
def test_flow_goes_along_both(companion, method, index):
    bank = ff.PotentialBank(K, D, (8, 8)).double()
    z, dt = latents(), 0.3

    def velocity(z, t):
        return bank.jet(z, t, index).grad + companion(z, t, index)

    path = ff.flow(bank, z, index, 2, 0.5, dt, method, companion=companion)
    for step in range(2):
        t = 0.5 + step * dt
        k1 = velocity(z, t)
        if method == "euler":
            z = z + dt * k1
        elif method == "heun":
            z = z + dt / 2 * (k1 + velocity(z + dt * k1, t + dt))
        else:
            k2 = velocity(z + dt / 2 * k1, t + dt / 2)
            k3 = velocity(z + dt / 2 * k2, t + dt / 2)
            z = z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(z + dt * k3, t + dt))
        torch.testing.assert_close(path[:, step + 1], z)


def test_flow_along_both_can_be_undone(companion):
    bank = ff.PotentialBank(K, D, (8, 8)).double()
    path = ff.flow(bank, latents(), INDEX, 3, dt=0.2, companion=companion)
    back = ff.flow(bank, path[:, -1], INDEX, 3, dt=0.2, direction="reverse", companion=companion)
    torch.testing.assert_close(back.flip(1), path)


def test_gradients_reach_the_companion(companion):
    bank = ff.PotentialBank(K, D, (8, 8)).double()
    ff.flow(bank, latents(), INDEX, 3, companion=companion)[:, -1].square().sum().backward()
    for name in ("left", "right"):
        assert (getattr(companion, name).grad.abs().amax((1, 2)) > 0).all()
    assert (companion.bank.out_weight.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DivergenceFreeField(2, 1), "2 dimensions or more, got 1"),
        (lambda: DivergenceFreeField(2, 3, rank=0), "rank must be a whole number of at least 1, got 0"),
        (lambda: DivergenceFreeField(2, 3, rank=True), "rank must be a whole number of at least 1, got True"),
        (lambda: NetworkField(2, 3)(torch.zeros(1, 3), None, None), "pass z, t and index"),
    ],
    ids=["line", "rank", "yes", "no times"],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("companion", "message"),
    [
        (ff.PotentialBank(K, D, (8,)), "companion must be a DivergenceFreeField, got PotentialBank"),
        (DivergenceFreeField(K, D + 1), "companion has 3 fields on latents of width 6, the bank 3 potentials"),
        (
            DivergenceFreeField(1, D),
            "companion has 1 fields on latents of width 5, the bank 3 potentials on latents of",
        ),
    ],
    ids=["bank", "wider", "fewer"],
)
def test_companion_of_another_bank_is_refused(companion, message):
    bank, z = ff.PotentialBank(K, D, (8,)), latents().float()
    with pytest.raises(InputError, match=message):
        ff.flow(bank, z, INDEX, 2, companion=companion)
    with pytest.raises(InputError, match=message):
        initial_loss(bank, z, INDEX, companion=companion)


def test_learned_force_is_part_of_the_residual_and_learns():
    torch.manual_seed(0)
    bank, force = ff.PotentialBank(K, D, (8,)).double(), NetworkField(K, D, (8,)).double()
    pde, z, t = ff.pde.HamiltonJacobi(force), latents(), torch.rand(B, dtype=torch.float64)
    jet = bank.jet(z, t, INDEX)
    f = force.bank.jet(z, t, INDEX).u
    torch.testing.assert_close(pde(jet, z, t, INDEX), jet.u_t + jet.grad.square().sum(1) / 2 + f**2)
    ff.pde_loss(bank, z, t, INDEX, pde=pde).backward()
    assert (force.bank.out_weight.grad.abs().amax(1) > 0).all()
    assert pde.constants() == {}


def test_constant_fields_are_among_the_constants():
    assert ff.pde.HamiltonJacobi(0.3, num_potentials=2).constants()["f"].tolist() == pytest.approx([0.3, 0.3])
    assert ff.pde.Poisson(0.2).constants()["f"].shape == ()
    assert set(ff.pde.Wave().constants()) == {"c"}
