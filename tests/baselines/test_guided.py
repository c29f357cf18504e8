"""Paths along attributes, on linear generators, where all of them are known."""

import pytest
import torch
from torch import nn

from fastflow import generators
from fastflow.baselines import Ascent, OrthogonalAscent, Regression
from fastflow.core.errors import InputError

D, PIXELS, COUNT = 6, 64, 5
RNG = torch.Generator().manual_seed(0)
MATRIX = 0.05 * torch.randn(PIXELS, D, generator=RNG)
WEIGHTS = torch.randn(3, PIXELS, generator=RNG) * torch.tensor([[1.0], [100.0], [0.01]])
"""Of three attributes in units of their own."""
SLOPES = WEIGHTS @ MATRIX
Z = torch.randn(COUNT, D, generator=RNG)
WHICH = torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def generator():
    layer = nn.Linear(D, PIXELS)
    with torch.no_grad():
        layer.weight.copy_(MATRIX)
        layer.bias.fill_(0.5)
    return generators.from_callable(nn.Sequential(layer, nn.Unflatten(1, (1, 8, 8))), latent_dim=D)


def attributes(images):
    return images.flatten(1) @ WEIGHTS.T


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_ascent_follows_the_gradient_in_equal_steps(generator):
    paths = Ascent(generator, attributes, 0.2)
    assert (paths.num_paths, paths.num_directions) == (3, 3)
    steps = paths.traverse(Z, WHICH, 4).latents.diff(dim=1)
    torch.testing.assert_close(steps, 0.2 * unit(SLOPES)[WHICH][:, None].expand(-1, 4, -1))
    torch.testing.assert_close(paths.traverse(Z, WHICH, 4, "descent").latents.diff(dim=1), -steps)
    assert torch.equal(
        paths.traverse(Z, 1, 2).latents[:, -1], paths.traverse(Z, torch.ones(5).long(), 2).latents[:, -1]
    )


def test_ascent_turns_with_the_gradient(generator):
    def bent(images):
        return (images.flatten(1) @ WEIGHTS[:2].T).sin()

    latents = Ascent(generator, bent, 0.01).traverse(Z, 0, 3).latents
    for z, step in zip(latents.unbind(1), latents.diff(dim=1).unbind(1), strict=False):
        value = (0.5 * WEIGHTS[0].sum() + z @ SLOPES[0]).cos()
        torch.testing.assert_close(
            step, 0.01 * value.sign()[:, None] * unit(SLOPES[0]).expand(5, -1), atol=1e-5, rtol=0
        )


def test_orthogonal_ascent_holds_the_others(generator):
    paths = OrthogonalAscent(generator, attributes, 0.2)
    latents = paths.traverse(Z, WHICH, 3).latents
    torch.testing.assert_close(latents.diff(dim=1).norm(dim=2), torch.full((COUNT, 3), 0.2))
    values = (latents @ SLOPES.T).double()
    changes = (values[:, -1] - values[:, 0]).abs() / SLOPES.norm(dim=1)
    own = changes.gather(1, WHICH[:, None])
    assert bool((own > 0.1).all())
    assert float((changes.sum(1, keepdim=True) - own).max()) < 1e-4


def test_where_attributes_are_one_nothing_can_be_held_apart(generator):
    twice = OrthogonalAscent(generator, lambda images: attributes(images)[:, [0, 0]], 0.2)
    latents = twice.traverse(Z, 0, 2).latents
    assert bool(latents.isfinite().all())


def test_where_there_is_no_slope_a_path_stays(generator):
    flat = Ascent(generator, lambda images: (images.flatten(1) * 0).sum(1), 0.2)
    assert torch.equal(flat.traverse(Z, 0, 2).latents, Z[:, None].expand(-1, 3, -1))


def test_regression_finds_the_slopes(generator):
    paths = Regression(generator, attributes, samples=100)
    torch.testing.assert_close(paths.directions, unit(SLOPES), atol=1e-4, rtol=0)
    assert not paths.directions.requires_grad
    with pytest.raises(InputError, match="must vary over the generator's samples"):
        Regression(generator, lambda images: torch.ones(len(images)), samples=10)


def test_a_predictor_without_gradient_is_refused(generator):
    with pytest.raises(InputError, match="carry no gradient"):
        Ascent(generator, lambda images: attributes(images).detach())


def test_paths_are_of_the_latents_classes():
    matrices = torch.stack([MATRIX, MATRIX.flip(1)])

    def decode(z, labels):
        return (torch.einsum("bpd,bd->bp", matrices[labels], z) + 0.5).view(-1, 1, 8, 8)

    generator = generators.from_callable(decode, latent_dim=D, classes=(0, 1))
    labels = torch.tensor([0, 1, 0, 1, 1])
    steps = Ascent(generator, attributes, 0.1).traverse(Z, 0, 1, labels=labels).latents.diff(dim=1)[:, 0]
    expected = torch.where(labels[:, None] == 0, unit(SLOPES[0]), unit(SLOPES[0].flip(0)))
    torch.testing.assert_close(steps, 0.1 * expected)
