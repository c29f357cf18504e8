"""Purity and coverage, where it is known what a path changes; and strokes of known shape."""

import math

import pytest
import torch
from scipy import stats

from fastflow import generators
from fastflow.baselines.directions import Straight
from fastflow.core.errors import InputError
from fastflow.metrics.purity import _spearman, purity
from fastflow.metrics.strokes import STROKE_ATTRIBUTES, looks_drawn, stroke_attributes

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

    def walk(self, z0, index, steps):
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


def bar(width, height, slant=0.0, x=0.0, y=0.0, size=64):
    """A bright bar whose sides are softened by counting finer pixels."""
    fine = 8
    axis = (torch.arange(size * fine) + 0.5) / fine - size / 2
    inside = ((axis[:, None] - y).abs() <= height / 2) & (
        (axis[None] - x + math.tan(slant) * (axis[:, None] - y)).abs() <= width / 2
    )
    return torch.nn.functional.avg_pool2d(inside.double()[None, None], fine)


def test_strokes_of_known_shape():
    found = dict(zip(STROKE_ATTRIBUTES, stroke_attributes(bar(4, 40, x=3, y=-5))[0].tolist(), strict=True))
    assert found["area"] == pytest.approx(160, rel=0.01)
    assert found["height"] == pytest.approx(40, rel=0.01)
    assert found["width"] == pytest.approx(4, rel=0.03)
    assert found["thickness"] == pytest.approx(2 * 160 / 88, rel=0.05)
    assert found["slant"] == pytest.approx(0, abs=0.01)
    assert (found["x"], found["y"]) == pytest.approx((3, -5), abs=0.02)


def test_slant_is_a_shears_angle():
    found = stroke_attributes(torch.cat([bar(4, 40, slant) for slant in (-0.3, 0.2)]))
    assert found[:, 2].tolist() == pytest.approx([-0.3, 0.2], abs=0.01)
    assert found[:, 3].tolist() == pytest.approx([4, 4], rel=0.08)  # as if it were upright


def test_an_empty_image_has_no_attributes():
    assert stroke_attributes(torch.zeros(2, 3, 8, 8)).tolist() == [[0.0] * 7] * 2


LOOKS = {
    "strokes": (lambda images: images, True),
    "negative": (lambda images: 1 - images, False),
    "colour": (lambda images: images.expand(-1, 3, -1, -1), False),
    "grey": (lambda images: 0.4 + 0.2 * images, False),
    "empty": (lambda images: 0 * images, False),
}


@pytest.mark.parametrize(("change", "drawn"), LOOKS.values(), ids=LOOKS)
def test_bright_strokes_on_black_are_told_from_other_images(change, drawn):
    digits = generators.load("digits-vae").held_out_images[:32]
    assert looks_drawn(change(digits)) is drawn
