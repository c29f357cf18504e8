"""Equivariance errors of paths whose errors are known, and of runs that learned the transformations or didn't."""

import math

import pytest
import torch
from support.moving import Bars, small_vae

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.engine.potentials import PotentialBank
from fastflow.metrics import equivariance
from fastflow.metrics.equivariance import _best_assignment


class Slide(Bars):
    """Images 1 x 1 x 3 whose latents are known: pixels 0 and 1 rise by 0.4 and 0.2, one under each transformation."""

    image_shape = (1, 1, 3)

    def frames(self, rows, transformation, place):
        start = 0.1 + 0.4 * torch.rand(24, 3, generator=torch.Generator().manual_seed(1))[rows]  # (B, 3)
        moves = torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.2, 0.0]])[transformation]
        return (start[:, None] + place[..., None] * moves[:, None])[:, :, None, None]


@pytest.fixture
def known(tmp_path):
    """A run whose latents are its pixels, and whose potentials push pixel 0 or pixel 1 evenly."""
    run = small_vae(tmp_path / "run", data=Slide(), time="none", pde="helmholtz", steps=1)
    run.vae.encode = lambda x: (x.flatten(1), torch.zeros(len(x), 3))
    run.vae.images = lambda z: z.view(-1, 1, 1, 3)
    run.generator.function = run.vae.images
    push(run.bank, (0.4 / 3, 0.2 / 3))
    return run


def push(bank: PotentialBank, sizes):
    """Make potential k linear in pixel k, with this gradient: tanh within its straight part."""
    small = 1e-2
    for parameter in bank.parameters():
        parameter.zero_()
    bank.out_activation = "identity"
    for k, size in enumerate(sizes):
        bank.weights[0][k, 0, k] = small
        bank.out_weight[k, 0] = size / small


@torch.no_grad()
def test_exact_flows_have_no_error(known):
    found = ff.metrics.equivariance_error(known, Slide())
    assert found.error < 1e-4
    assert found.floor == 0
    # A pixel of three rises by 0.4, or 0.2, times a third, two thirds, all of it.
    assert found.still == pytest.approx((0.4 + 0.2) / 2 * (2 / 3) / 3, rel=1e-4)
    assert found.accuracy == 1
    assert found.confusion == [[24, 0], [0, 24]]
    assert found.assignment == [0, 1]
    assert found.each.shape == (24, 2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["walk", "straight", "affine"])
def test_rivals_move_by_the_means_of_their_transitions(tmp_path, kind):
    run = small_vae(tmp_path / "run", data=Slide(), objective="sequence", transition=kind, steps=1)
    run.vae.encode = lambda x: (x.flatten(1), torch.zeros(len(x), 3))
    run.vae.images = lambda z: z.view(-1, 1, 1, 3)
    for parameter in run.transition.parameters():
        parameter.zero_()
    if kind != "walk":
        run.transition.displacement.copy_(torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.2, 0.0]]) / 3)
    found = ff.metrics.equivariance_error(run, Slide())
    assert found.error == pytest.approx(found.still if kind == "walk" else 0, abs=1e-5)


@torch.no_grad()
def test_error_is_the_mean_over_the_path(known):
    push(known.bank, (0.2 / 3, 0.2 / 3))
    found = ff.metrics.equivariance_error(known, Slide())
    expected = 0.2 * (2 / 3) / 3  # the first transformation's path is half as long as it should be
    assert found.per_transformation == pytest.approx({"slide": expected, "fade": 0.0}, abs=1e-4)
    assert found.error == pytest.approx(expected / 2, rel=1e-2)
    assert found.standard_error < 1e-5  # of all images the same


@torch.no_grad()
def test_exchanged_potentials_are_found_out(known):
    """Full supervision says which potential is which; weak supervision doesn't, and they are assigned."""
    for parameter in known.bank.parameters():
        parameter.copy_(parameter.flip(0))
    full = ff.metrics.equivariance_error(known, Slide())
    assert full.accuracy == 0
    assert full.error > full.still
    object.__setattr__(known.config, "supervision", "weak")
    weak = ff.metrics.equivariance_error(known, Slide())
    assert (weak.accuracy, weak.assignment) == (1, [1, 0])
    assert weak.error < 1e-4


@pytest.mark.slow
def test_straight_directions_are_the_displacements_where_those_are_straight(known):
    directions = ff.metrics.straight_directions(known, Slide())
    torch.testing.assert_close(directions, torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.2, 0.0]]), atol=1e-5, rtol=0)
    found = ff.metrics.equivariance_error(known, Slide(), directions=directions)
    assert found.error < 1e-5
    assert found.accuracy == 1


@pytest.mark.slow
def test_a_straight_direction_is_the_one_that_looks_best(known):
    known.vae.encode = lambda x: (2 * x.flatten(1), torch.zeros(len(x), 3))  # latents are twice what is decoded
    start = Slide().frames(torch.arange(24), torch.zeros(24).long(), torch.zeros(24, 1))[:, 0].flatten(1)
    known.vae.images = lambda z: (z - start.mean(0)).view(-1, 1, 1, 3)
    directions = ff.metrics.straight_directions(known, Slide())
    assert float(directions[0, 0]) < 0.7  # least squares alone would say 0.8
    known.vae.encode = lambda x: (x.flatten(1), torch.zeros(len(x), 3))
    known.vae.images = lambda z: (z + (z.flip(1) - 0.3) * torch.tensor([0.0, 0.0, 1.0])).view(-1, 1, 1, 3)
    directions = ff.metrics.straight_directions(known, Slide())
    # What pixel 0 does to pixel 2 has to be taken back, which no length of the least-squares direction does.
    torch.testing.assert_close(directions[0], torch.tensor([0.4, 0.0, -0.4]), atol=0.1, rtol=0)


@pytest.mark.slow
def test_straight_directions_have_converged(learned_bars, monkeypatch):
    error = {}
    for steps in (0, 300, 1200):
        monkeypatch.setattr(equivariance, "_FIT_STEPS", steps)
        directions = ff.metrics.straight_directions(learned_bars, Bars())
        error[steps] = ff.metrics.equivariance_error(learned_bars, Bars(), directions=directions).error
    assert error[300] < 0.98 * error[0]
    assert error[300] == pytest.approx(error[1200], rel=0.01)


class OwnStarts(Slide):
    """As on a grid of factors: the second transformation begins at another image than the first."""

    def frames(self, rows, transformation, place):
        offset = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]])[transformation]
        return super().frames(rows, transformation, place) + offset[:, None, None, None]


@pytest.mark.slow
@torch.no_grad()
def test_every_transformation_begins_at_its_own_start(known):
    found = ff.metrics.equivariance_error(known, OwnStarts())
    assert found.error < 1e-4
    assert found.still == pytest.approx((0.4 + 0.2) / 2 * (2 / 3) / 3, rel=1e-4)
    assert found.accuracy == 1
    directions = ff.metrics.straight_directions(known, OwnStarts())
    torch.testing.assert_close(directions, torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.2, 0.0]]), atol=1e-5, rtol=0)
    assert ff.metrics.equivariance_error(known, OwnStarts(), directions=directions).error < 1e-5


def test_fewer_samples_are_a_part_of_the_data(known):
    found = ff.metrics.equivariance_error(known, Slide(), samples=1)
    assert found.each.shape == (1, 2)
    assert math.isnan(found.standard_error)
    one, again, other = (ff.metrics.equivariance_error(known, Slide(), samples=5, seed=s).each for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_assignment_is_the_best_of_all():
    # Greedily, the first row would take column 0 and leave 1 for the second.
    assert _best_assignment([[10, 9, 0], [9, 1, 0]]) == [1, 0]
    assert _best_assignment([[1, 0, 7], [0, 2, 8]]) == [2, 1]
    assert _best_assignment([[0, 0], [0, 0]]) in ([0, 1], [1, 0])


@pytest.mark.slow
def test_trained_flows_beat_not_moving(learned_bars):
    found = ff.metrics.equivariance_error(learned_bars, Bars())
    assert found.floor < found.error < 0.5 * found.still
    assert found.accuracy > 0.9


def test_what_does_not_fit_is_refused(known, tmp_path):
    with pytest.raises(InputError, match=r"the data must have images \(1, 1, 3\) that move by slide, fade"):
        ff.metrics.equivariance_error(known, Bars())
    with pytest.raises(InputError, match=r"directions must have shape \(2, 3\), got \(1, 3\)"):
        ff.metrics.equivariance_error(known, Slide(), directions=torch.zeros(1, 3))
    with pytest.raises(InputError, match="samples must be a whole number of at least 1"):
        ff.metrics.equivariance_error(known, Slide(), samples=0)
    plain = small_vae(tmp_path / "plain", flow_weight=0.0, steps=1)
    with pytest.raises(
        InputError, match="has no paths, because its VAE was trained with flow_weight 0: pass directions"
    ):
        ff.metrics.equivariance_error(plain, Bars())
