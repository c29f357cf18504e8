"""Attributes of strokes: known shapes have the attributes that follow from them."""

import math

import pytest
import torch

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.latents.attributes.appearance import appearance
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, looks_drawn, stroke_attributes


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


@pytest.mark.parametrize("images", [2 * bar(4, 40) - 1, 255 * bar(4, 40), (255 * bar(4, 40)).byte()])
@pytest.mark.parametrize("measure", [stroke_attributes, appearance], ids=["strokes", "appearance"])
def test_images_of_another_range_are_refused(measure, images):
    with pytest.raises(InputError, match=r"images must (lie in|be floats in) \[0, 1\], got .*(scale|divide)"):
        measure(images)


def test_a_few_pixels_may_overshoot():
    image = bar(4, 40)
    image[0, 0, 0, 0] = -0.2
    assert stroke_attributes(image)[0, 0] == pytest.approx(159.8, rel=0.01)
    assert stroke_attributes(1.02 * image)[0, 0] > 160
    torch.func.vmap(lambda x: stroke_attributes(x[None])[0])(image)  # whose values can't be looked at


@pytest.mark.parametrize("measure", [stroke_attributes, appearance], ids=["strokes", "appearance"])
def test_the_gradient_is_right_and_finite_on_flat_pixels_too(measure):
    rng = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, 9, 8).double()
    image[:, :, 2:6, 3:6] = 0.2 + 0.6 * torch.rand(1, 3, 4, 3, generator=rng).double()
    values, inside = image.clone().requires_grad_(), torch.zeros_like(image)
    inside[:, :, 3:5, 4:5] = 1  # where no neighbour is as bright
    (gradient,) = torch.autograd.grad(measure(values).square().sum(), values)
    assert bool(gradient.isfinite().all())
    direction = inside * torch.randn(image.shape, generator=rng).double()
    ahead, behind = (measure(image + step * direction).square().sum() for step in (1e-6, -1e-6))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-6)
    for flat in (torch.zeros(1, 1, 6, 6), torch.ones(1, 3, 6, 6), torch.full((1, 1, 6, 6), 0.5)):
        (gradient,) = torch.autograd.grad(measure(flat.requires_grad_()).sum(), flat)
        assert bool(gradient.isfinite().all())


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
def test_bright_strokes_on_black_are_recognised(change, drawn):
    digits = generators.load("digits-vae").held_out_images[:32]
    assert looks_drawn(change(digits)) is drawn
