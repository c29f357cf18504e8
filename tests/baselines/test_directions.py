"""Straight directions: random ones, and those that are computed without training, on generators of known structure."""

import pytest
import torch
from support.runs import sigmoid_generator
from torch import nn

from fastflow import generators
from fastflow.baselines import PCA, Random, SeFa
from fastflow.core.errors import InputError

D, PIXELS = 6, 64
RNG = torch.Generator().manual_seed(0)
LEFT = torch.linalg.qr(torch.randn(PIXELS, D, generator=RNG))[0]
RIGHT = torch.linalg.qr(torch.randn(D, D, generator=RNG))[0]
STRETCH = torch.tensor([3.0, 2.0, 1.2, 0.7, 0.3, 0.1])
MATRIX = LEFT * STRETCH @ RIGHT.T
"""Its right singular vectors are what both methods must find, in the order of the stretch."""


def linear(scale=0.01):
    layer = nn.Linear(D, PIXELS)
    with torch.no_grad():
        layer.weight.copy_(scale * MATRIX)
        layer.bias.fill_(0.5)
    net = nn.Sequential(layer, nn.Unflatten(1, (1, 8, 8)))
    return generators.from_callable(net, latent_dim=D), layer


def alike(found, expected):
    """Cosines of the angles between lines."""
    return (found @ expected).diagonal().abs()


def test_pca_finds_what_moves_the_images_most():
    generator, _ = linear()
    found = PCA(generator, 4, samples=8192).directions
    assert alike(found, RIGHT[:, :4]).min() > 0.99
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert torch.equal(found, PCA(generator, 4, samples=8192).directions)
    assert not torch.equal(found, PCA(generator, 4, samples=8192, seed=1).directions)


def test_pca_of_few_samples_or_many_features_is_the_same():
    """Either the features' covariance or the samples' is decomposed, whichever is smaller."""
    generator, _ = linear()
    few = PCA(generator, 2, samples=60).directions
    many = PCA(generator, 2, samples=60, features=lambda z: (z @ MATRIX.T)[:, :50]).directions
    assert alike(few, RIGHT[:, :2]).min() > 0.9
    assert alike(many, RIGHT[:, :2]).min() > 0.8


def test_sefa_is_the_first_layers_singular_vectors():
    generator, layer = linear()
    for found in (SeFa(generator, 5).directions, SeFa(generator, 5, layer=layer).directions):
        assert alike(found, RIGHT[:, :5]).min() > 1 - 1e-4


def test_sefa_reads_convolutions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ConvTranspose2d(D, 4, 4)
            with torch.no_grad():
                self.body.weight.copy_(0.01 * MATRIX.T.reshape(D, 4, 4, 4))

        def forward(self, z):
            return self.body(z[:, :, None, None])

    found = SeFa(generators.from_callable(Net(), latent_dim=D), 3).directions
    assert alike(found, RIGHT[:, :3]).min() > 1 - 1e-4


def test_paths_are_straight_with_steps_of_one_length():
    generator, _ = linear()
    z0, index = generator.sample(4), torch.tensor([0, 2, 1, 0])
    for method in (PCA(generator, 3, 0.2), SeFa(generator, 3, 0.2)):
        latents = method.traverse(z0, index, steps=5, even=False).latents
        expected = z0[:, None] + 0.2 * torch.arange(6)[:, None] * method.directions[index][:, None]
        torch.testing.assert_close(latents, expected)


def test_refuses():
    generator, _ = linear()
    for method in (PCA, SeFa):
        with pytest.raises(InputError, match="num_directions must be at most 6"):
            method(generator, 7)
        with pytest.raises(InputError, match="step_length must be a positive number"):
            method(generator, 2, 0.0)
    with pytest.raises(InputError, match="features must give finite values for each of 9 latents"):
        PCA(generator, 2, features=lambda z: z.mean(0, keepdim=True), samples=9)
    with pytest.raises(
        InputError, match="num_directions must be at most 3, the number of directions in which the features vary"
    ):
        PCA(generator, 4, features=lambda z: z[:, :3])
    with pytest.raises(InputError, match="num_directions must be at most 0"):
        PCA(generator, 1, features=torch.zeros_like)
    with pytest.raises(InputError, match="features failed: ValueError: no"):
        PCA(generator, 2, features=failing)
    with pytest.raises(InputError, match="SeFa needs a layer that takes latents of width 4"):
        SeFa(sigmoid_generator(), 2, layer=nn.Linear(3, 3))


def failing(z):
    raise ValueError("no")


# Random directions


@pytest.fixture(scope="module")
def sigmoid():
    return sigmoid_generator()


def test_random_paths_are_straight_with_steps_of_one_length(sigmoid):
    z0 = sigmoid.sample(5)
    index = torch.tensor([0, 1, 2, 1, 0])
    traversal = Random(sigmoid, 3, step_length=0.3).traverse(z0, index, steps=4, even=False)
    steps = traversal.latents.diff(dim=1)
    assert torch.equal(traversal.latents[:, 0], z0)
    assert traversal.start == 0
    torch.testing.assert_close(steps.norm(dim=2), torch.full((5, 4), 0.3))
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-5)
    torch.testing.assert_close(steps[0], steps[4], rtol=0, atol=1e-5)
    back = Random(sigmoid, 3, step_length=0.3).traverse(z0, index, 4, "descent", even=False).latents
    torch.testing.assert_close(back - z0[:, None], z0[:, None] - traversal.latents)
    assert (steps[0] - steps[1]).abs().max() > 0.01


def test_images_are_those_of_the_latents(sigmoid):
    traversal = Random(sigmoid, 3).traverse(sigmoid.sample(2), 1, steps=3)
    assert traversal.images.shape == (2, 4, 1, 6, 6)
    for column in range(4):
        assert torch.equal(traversal.images[:, column], sigmoid.decode(traversal.latents[:, column]))


def test_directions_repeat_by_seed(sigmoid):
    first, same, other = (Random(sigmoid, 3, seed=seed).directions for seed in (4, 4, 5))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


def test_refused_arguments_of_random_directions_are_named(sigmoid):
    for count in (0, 1.5):
        with pytest.raises(InputError, match=f"num_directions must be a whole number of at least 1, got {count}"):
            Random(sigmoid, count)
    for seed in (-1, "0"):
        with pytest.raises(InputError, match="seed must be a whole number"):
            Random(sigmoid, 3, seed=seed)
    with pytest.raises(InputError, match="generator must be a fastflow generator, got Linear: wrap it"):
        Random(torch.nn.Linear(4, 4), 3)
    directions, z0 = Random(sigmoid, 3), sigmoid.sample(2)
    for index in (3, -1, torch.tensor([0, 3])):
        with pytest.raises(InputError, match=r"index must lie in 0\.\.2"):
            directions.traverse(z0, index)
    for steps in (0, None, 2.0):
        with pytest.raises(InputError, match=f"steps must be a whole number of at least 1, got {steps}"):
            directions.traverse(z0, 0, steps)
    with pytest.raises(InputError, match="direction must be forward or descent, got 'reverse'"):
        directions.traverse(z0, 0, 3, "reverse")
    with pytest.raises(InputError, match=r"shape \(B, 4\), got \(2, 3\)"):
        directions.traverse(z0[:, :3], 0)
