"""The shape of strokes in a frame of their own."""

import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample

from fastflow.core.errors import InputError
from fastflow.latents.attributes.shapes import shape


def drawn(corners, size=32):
    """A bright frame with one diagonal, moved by a linear map."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    inside = (x.abs() < 0.45) & (y.abs() < 0.45)
    lines = ((x.abs() - 0.4).abs() < 0.06) | ((y.abs() - 0.4).abs() < 0.06) | ((x - y).abs() < 0.08)
    image = (inside & lines).float()[None, None]
    points = affine_grid(torch.tensor([corners]), list(image.shape), align_corners=False)
    return grid_sample(image, points, align_corners=False)


PLAIN = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def difference(one, other):
    return float((one - other).square().mean() / one.var())


@pytest.mark.parametrize(
    "corners",
    [
        [[1.0, 0.0, 0.2], [0.0, 1.0, -0.1]],
        [[0.8, 0.0, 0.0], [0.0, 1.2, 0.0]],
        [[1.0, 0.3, 0.0], [0.0, 1.0, 0.0]],
        [[1.1, -0.2, 0.1], [0.0, 0.9, 0.1]],
    ],
    ids=["moved", "stretched", "slanted", "all"],
)
def test_shape_stays_while_strokes_move_stretch_and_slant(corners):
    plain, moved = drawn(PLAIN), drawn(corners)
    pixels = (plain - moved).square().mean() / plain.var()
    assert pixels > 0.3
    assert difference(shape(plain), shape(moved)) < 0.12


def test_shape_does_not_know_brightness_and_tells_mirrored_strokes():
    plain = drawn(PLAIN)
    torch.testing.assert_close(shape(0.5 * plain), shape(plain), rtol=1e-4, atol=1e-4)
    assert difference(shape(plain), shape(plain.flip(3))) > 0.3


def test_gradient_is_right_and_finite_on_black():
    images = drawn(PLAIN, 12).double()
    images = (0.1 + 0.8 * images).repeat(2, 1, 1, 1)
    torch.autograd.gradcheck(shape, images.requires_grad_(), atol=1e-4)
    black = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(shape(black).sum(), black)
    assert bool(gradient.isfinite().all())


def test_other_ranges_are_refused():
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        shape(torch.full((1, 1, 8, 8), -1.0))
