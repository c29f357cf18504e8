"""Random directions: straight, of equal steps, the same for the same seed."""

import pytest
import torch
from support.runs import sigmoid_generator

from fastflow.baselines import Random
from fastflow.core.errors import InputError


@pytest.fixture(scope="module")
def generator():
    return sigmoid_generator()


def test_paths_are_straight_with_steps_of_one_length(generator):
    z0 = generator.sample(5)
    index = torch.tensor([0, 1, 2, 1, 0])
    traversal = Random(generator, 3, step_length=0.3).traverse(z0, index, steps=4)
    steps = traversal.latents.diff(dim=1)
    assert torch.equal(traversal.latents[:, 0], z0)
    assert traversal.start == 0
    torch.testing.assert_close(steps.norm(dim=2), torch.full((5, 4), 0.3))
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-5)
    torch.testing.assert_close(steps[0], steps[4], rtol=0, atol=1e-5)
    back = Random(generator, 3, step_length=0.3).traverse(z0, index, 4, "descent").latents
    torch.testing.assert_close(back - z0[:, None], z0[:, None] - traversal.latents)
    assert (steps[0] - steps[1]).abs().max() > 0.01


def test_images_are_those_of_the_latents(generator):
    traversal = Random(generator, 3).traverse(generator.sample(2), 1, steps=3)
    assert traversal.images.shape == (2, 4, 1, 6, 6)
    for column in range(4):
        assert torch.equal(traversal.images[:, column], generator.decode(traversal.latents[:, column]))


def test_directions_repeat_by_seed(generator):
    first, same, other = (Random(generator, 3, seed=seed).directions for seed in (4, 4, 5))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


def test_refused_arguments_are_named(generator):
    for count in (0, 1.5):
        with pytest.raises(InputError, match=f"num_directions must be a whole number of at least 1, got {count}"):
            Random(generator, count)
    for seed in (-1, "0"):
        with pytest.raises(InputError, match="seed must be a whole number"):
            Random(generator, 3, seed=seed)
    with pytest.raises(InputError, match="generator must be a fastflow generator, got Linear: wrap it"):
        Random(torch.nn.Linear(4, 4), 3)
    directions, z0 = Random(generator, 3), generator.sample(2)
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
