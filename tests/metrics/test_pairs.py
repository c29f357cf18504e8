"""Pairs of consecutive images: where they lie on the paths, and how much they change."""

import torch

from fastflow.baselines import Random
from fastflow.generators import from_callable
from fastflow.metrics.pairs import Pairs, draw_places, path_pairs


def ramp(z):
    """Images whose brightness is the latents' mean, so that a step's pixel change is known."""
    return z.mean(1)[:, None, None, None].expand(-1, 1, 8, 8)


def test_pairs_are_consecutive_eight_bit_images_of_all_potentials_and_times():
    generator = from_callable(ramp, 4, value_range=(-8.0, 8.0))
    directions = Random(generator, 3, step_length=2.0)
    pairs = path_pairs(directions, 4, 300, seed=0)
    assert pairs.index.bincount().tolist() == [100, 100, 100]
    assert torch.equal(pairs.images * 255, (pairs.images * 255).round())
    change = (pairs.next_images - pairs.images)[:, 0, 0, 0]
    expected = (2.0 * directions.directions.mean(1) / 16)[pairs.index]
    torch.testing.assert_close(change, expected, rtol=0, atol=1 / 255)

    # Every place of a path occurs: the images are 0 .. 3 steps away from the starts.
    z0, _, _ = draw_places(generator, 3, 300, 4, 0)
    moved = (pairs.images - generator.eight_bit(ramp(z0)))[:, 0, 0, 0] / expected
    assert moved[expected.abs() > 0.02].round().unique().tolist() == [0, 1, 2, 3]


def test_strength_is_the_mean_absolute_change_of_each_pair():
    images = torch.zeros(2, 1, 2, 2)
    change = torch.tensor([[0.1, -0.1, 0.0, 0.2], [0.0, 0.0, 0.0, -1.0]]).reshape(2, 1, 2, 2)
    torch.testing.assert_close(Pairs(images, change, torch.arange(2)).strength(), torch.tensor([0.1, 0.25]))
