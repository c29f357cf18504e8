"""Trained baselines: what they find on generators of known structure, the same bits when resumed."""

import math

import pytest
import torch
from support.runs import sigmoid_generator
from torch import nn

from fastflow import DiscoverConfig, generators
from fastflow.baselines import HessianPenalty, LatentCLR, LinearClassifier, WarpedRBF, path_modules
from fastflow.baselines.path_training import TEMPERATURE, PathTraining, contrastive_objective, hessian_objective
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng

METHODS = (LinearClassifier, WarpedRBF, HessianPenalty, LatentCLR)


def budget(**changes):
    return DiscoverConfig(**{"steps": 4, "batch_size": 12, "checkpoint_every": 2, "log_every": 2, **changes})


@pytest.fixture(scope="module")
def generator():
    return sigmoid_generator()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_paths_have_steps_of_one_length_and_repeat_by_seed(generator, method):
    z0, index = generator.sample(4), torch.tensor([0, 2, 1, 0])
    first, same, other = (method(generator, 3, 0.2, seed, config=budget()) for seed in (0, 0, 1))
    paths = [found.traverse(z0, index, steps=5, even=False).latents for found in (first, same, other)]
    torch.testing.assert_close(paths[0].diff(dim=1).norm(dim=2), torch.full((4, 5), 0.2))
    assert torch.equal(paths[0], paths[1])
    assert not torch.equal(paths[0], paths[2])
    assert torch.equal(paths[0][:, 0], z0)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_where_it_was_stopped(generator, method, tmp_path):
    z0 = generator.sample(4)
    whole = method(generator, 3, config=budget(), folder=tmp_path / "whole")
    method(generator, 3, config=budget(steps=2), folder=tmp_path / "half")
    resumed = method(generator, 3, config=budget(), folder=tmp_path / "half")
    again = method(generator, 3, config=budget(), folder=tmp_path / "half")  # nothing is left to do
    paths = [found.traverse(z0, 1, steps=3).latents for found in (whole, resumed, again)]
    assert torch.equal(paths[0], paths[1])
    assert torch.equal(paths[0], paths[2])


class Squares(nn.Module):
    """Images of 4 pixels, each the product of two of four rotated coordinates with one pair apart.

    Along the rotated axes only 0 and 1, and 2 and 3, interact.
    """

    def __init__(self):
        super().__init__()
        self.basis = nn.Parameter(torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3)))[0])

    def forward(self, z):
        y = z @ self.basis
        return 0.5 + 0.1 * torch.stack((y[:, 0] ** 2, y[:, 1] ** 2, y[:, 2] ** 2, y[:, 3] ** 2), 1).view(-1, 1, 2, 2)


@pytest.mark.slow
def test_hessian_penalty_finds_axes_that_do_not_interact():
    net = Squares()
    config = budget(steps=150, learning_rate=1e-1, batch_size=8, log_every=50, checkpoint_every=150)
    found = HessianPenalty(generators.from_callable(net, latent_dim=4), 4, config=config).directions
    torch.testing.assert_close(found @ found.T, torch.eye(4), atol=1e-5, rtol=0)
    cosines = (found @ net.basis.detach()).abs()
    assert cosines.max(1).values.min() > 0.99
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2, 3]


def test_penalty_is_the_variance_of_the_hessians_off_diagonal():
    """For G = z^T S z along the unit axes the second difference is 2 v^T S v: 4 S_01 times a random sign."""
    net = nn.Bilinear(2, 2, 4, bias=False)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[:, 0, 1] = 0.05
    generator = generators.from_callable(lambda z: net(z, z).view(-1, 1, 2, 2) + 0.5, latent_dim=2)
    rows = path_modules.OrthogonalRows(2, 2)
    rows.weight.data = torch.eye(2)
    task = PathTraining(generator, budget(num_potentials=2), {"paths": rows}, hessian_objective)
    batch = task.draw(1)
    penalty, _ = hessian_objective(task, batch)
    second = 2 * 0.05 * batch.signs.prod(2)  # (2, B)
    assert float(penalty.detach()) == pytest.approx(float(second.var(0).mean()), rel=2e-3)


@pytest.mark.slow
def test_linear_classifier_learns_to_tell_directions_apart(generator, tmp_path):
    config = budget(steps=100, batch_size=24, learning_rate=5e-3, log_every=25, checkpoint_every=100)
    LinearClassifier(generator, 3, config=config, folder=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    accuracy = [float(line.split('"accuracy": ')[1].split(",")[0]) for line in lines]
    assert accuracy[-1] > max(0.8, accuracy[0])


def test_warps_are_gradients_of_radial_sums():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        warps = path_modules.Warps(2, 3, 4).double()
    z = torch.randn(5, 3, generator=step_rng(0, 0), dtype=torch.float64).requires_grad_()
    index = torch.tensor([0, 1, 1, 0, 1])
    weight = warps.log_weight.exp()
    total = 0.0
    for pair in range(4):
        for place, sign in ((2 * pair, 1), (2 * pair + 1, -1)):
            away = (z - warps.support[index, place]).square().sum(1)
            total = total + sign * weight[index, pair] * torch.exp(-warps.log_rate.exp()[index, place] * away)
    (gradient,) = torch.autograd.grad(total.sum(), z)
    torch.testing.assert_close(warps(z, index), gradient / gradient.norm(dim=1, keepdim=True))


def test_contrast_is_low_where_a_path_changes_alike_from_everywhere():
    """By hand: with changes that are the same within a path and orthogonal between paths."""
    generator = generators.from_callable(lambda z: z.view(-1, 1, 2, 2), latent_dim=4, value_range=(-9, 9))
    columns = path_modules.Columns(2, 4)
    columns.weight.data = torch.eye(4)[:2]
    task = PathTraining(generator, budget(num_potentials=2, batch_size=4), {"paths": columns}, contrastive_objective)
    loss, _ = contrastive_objective(task, task.draw(1))
    expected = math.log(1 + 2 * math.exp(-1 / TEMPERATURE))  # one positive against two orthogonal ones
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)


def test_refuses(generator, tmp_path):
    with pytest.raises(InputError, match="num_directions must be at most 4"):
        HessianPenalty(generator, 5, config=budget())
    with pytest.raises(InputError, match="batch_size must be at least 16"):
        LatentCLR(generator, 8, config=budget())
    with pytest.raises(InputError, match="num_directions must be at least 2: a path is contrasted with others"):
        LatentCLR(generator, 1, config=budget())
    with pytest.raises(InputError, match="supports must be"):
        WarpedRBF(generator, 2, config=budget(), supports=0)
