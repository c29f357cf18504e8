"""Purity and coverage of paths for which it is known what they change."""

import math

import pytest
import torch
from scipy import stats

from fastflow import generators
from fastflow.baselines.directions import Straight
from fastflow.core.errors import InputError
from fastflow.metrics.purity import _spearman, purity

NAMES = ("first", "second", "third")


class Given(Straight):
    def __init__(self, generator, directions, step_length=0.1):
        super().__init__(generator, len(directions), step_length)
        self.directions = torch.as_tensor(directions)


@pytest.fixture(scope="module")
def generator():
    """Images of three pixels, each a latent; attributes are the pixels."""
    return generators.from_callable(lambda z: z.view(-1, 1, 1, 3), latent_dim=3, value_range=(-40.0, 40.0))


def attributes(images):
    return images.flatten(1) * torch.tensor([1.0, 100.0, 0.01])  # scales don't matter


def measured(generator, directions, **options):
    source = Given(generator, directions, 5.0)
    return purity(source, attributes, NAMES, path_steps=4, **{"samples": 64, **options})


def test_a_path_that_changes_one_thing_is_pure(generator):
    found = measured(generator, [[1.0, 0, 0], [0, 0, -1.0]])
    assert found.purity == pytest.approx([1, 1], abs=1e-9)
    assert found.top == [0, 2]
    assert found.monotonicity == pytest.approx([1, 1])
    assert found.covered == ["first", "third"]
    assert found.coverage == 2
    assert found.score == pytest.approx(1)
    assert found.strength == pytest.approx(5 / 80 / 3, rel=0.05)  # one of three pixels, in 8 bits


def test_a_path_that_changes_all_alike_is_not(generator):
    even = 1 / math.sqrt(3)
    found = measured(generator, [[even, even, even]], samples=512)
    assert found.purity[0] == pytest.approx(1 / 3, abs=0.03)
    assert found.coverage == 0


def test_changes_are_in_the_attributes_spread(generator):
    found = measured(generator, [[0.6, 0.8, 0.0]], samples=512)
    expected = [4 * 5 * part for part in (0.6, 0.8)]  # standard normal latents
    assert found.change[0][:2] == pytest.approx(expected, rel=0.1)
    assert found.purity[0] == pytest.approx(0.8 / 1.4, abs=0.05)
    assert found.top == [1]


def test_a_path_that_stands_still_covers_nothing(generator):
    found = measured(generator, [[0.0, 0.0, 0.0]])
    assert found.purity == pytest.approx([1 / 3])
    assert found.coverage == 0


class Outwards(Straight):
    """Away from zero: rises from some starts and falls from others."""

    def path(self, z0, index, steps):
        step = torch.zeros_like(z0)
        step[:, 0] = 5 * z0[:, 0].sign()
        return z0[:, None] + step[:, None] * torch.arange(steps + 1)[:, None]


def test_a_path_without_a_sense_is_not_monotone(generator):
    found = purity(Outwards(generator, 1, 5.0), attributes, NAMES, path_steps=4, samples=256)
    assert found.purity[0] == pytest.approx(1)
    assert found.change[0][0] == pytest.approx(4 * 5, rel=0.15)  # to and fro don't cancel over the starts
    assert found.monotonicity[0] < 0.2
    assert found.coverage == 0


def test_one_start_has_no_spread(generator):
    with pytest.raises(InputError, match="samples must be at least 2, so that attributes have a spread, got 1"):
        measured(generator, [[1.0, 0.0, 0.0]], samples=1)


def test_refuses_an_attribute_without_spread(generator):
    source = Given(generator, [[1.0, 0, 0]])
    with pytest.raises(InputError, match="attribute 'second' is the same at all 8 starts"):
        purity(source, lambda x: x.flatten(1) * torch.tensor([1.0, 0, 1.0]), NAMES, samples=8)


def test_rank_correlation_is_scipys():
    values = torch.randint(4, (20, 9), generator=torch.Generator().manual_seed(0)).double()  # with ties
    expected = [stats.spearmanr(row, range(9)).statistic for row in values.numpy()]
    assert _spearman(values).tolist() == pytest.approx(expected)
    assert float(_spearman(torch.ones(5))) == 0
