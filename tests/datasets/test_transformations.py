"""Transformations of images against what they must do to known pixels, and their derivatives."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from fastflow import InputError, datasets
from fastflow.datasets.transformations import COMPONENTS


def pictures(count=2, channels=1, height=6, width=6, dtype=torch.float64):
    return torch.rand(count, channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


def at(place, count=2):
    return torch.full((count, 1), place, dtype=torch.float64)


def moved(images, name, place=1.0):
    """The images moved along one transformation, (B, C, H, W)."""
    which = torch.zeros(len(images), dtype=torch.long)
    return datasets.transform(images, (name,), which, at(place, len(images)))[:, 0]


@pytest.mark.parametrize("quarter", [-1, 1, 2, 3])
@pytest.mark.parametrize("side", [6, 7])
def test_rotation_by_right_angles_is_exact(quarter, side):
    images = pictures(height=side, width=side)
    torch.testing.assert_close(datasets.rotate(images, 90.0 * quarter), images.rot90(quarter, (-2, -1)))


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 2), (-2, 1), (3, -3)])
def test_translation_by_whole_pixels_moves_them_and_leaves_black(x, y):
    images = pictures(height=7, width=9)
    expected = images.roll((y, x), (-2, -1))
    rows, columns = torch.arange(7), torch.arange(9)
    inside = ((rows - y >= 0) & (rows - y < 7))[:, None] & (columns - x >= 0) & (columns - x < 9)
    torch.testing.assert_close(datasets.translate(images, x, y), expected * inside)


def test_translation_by_half_a_pixel_is_the_mean_of_two():
    images = pictures()
    half = datasets.translate(images, x=0.5)
    torch.testing.assert_close(half[..., 1:], (images[..., 1:] + images[..., :-1]) / 2)
    torch.testing.assert_close(half[..., 0], images[..., 0] / 2)


def test_scale_by_two_samples_at_half_the_distance_from_the_centre():
    # On a ramp, which bilinear sampling gives without error.
    ramp = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8)
    expected = 3.5 + (torch.arange(8.0, dtype=torch.float64) - 3.5) / 2
    torch.testing.assert_close(datasets.scale(ramp, 2.0)[0, 0], expected.expand(8, 8))


def test_each_image_has_its_own_amount():
    images = pictures(3)
    degrees = torch.tensor([0.0, 90.0, 17.0], dtype=torch.float64)
    together = datasets.rotate(images, degrees)
    for image, angle, result in zip(images, degrees, together, strict=True):
        torch.testing.assert_close(datasets.rotate(image[None], float(angle))[0], result)


def test_rotation_turns_an_oblong_image_without_shearing_it():
    images = torch.zeros(1, 1, 9, 15, dtype=torch.float64)
    images[..., 4, 4:11] = 1  # a bar through the centre
    turned = datasets.rotate(images, 90.0)
    expected = torch.zeros_like(images)
    expected[..., 1:8, 7] = 1
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize(
    "name", ["rotation", "scale", "translation-x", "translation-y", "rotation+scale+translation-x"]
)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (65, 7)])
def test_place_zero_is_the_image_to_the_bit(name, height, width):
    images = pictures(height=height, width=width, dtype=torch.float32)
    assert torch.equal(moved(images, name, 0.0), images)


def test_hue_by_nothing_is_the_image():
    images = pictures(channels=3)
    torch.testing.assert_close(datasets.rotate_hue(images, 0.0), images)
    torch.testing.assert_close(moved(images, "hue", 0.0), images)


def test_place_one_is_the_whole_range():
    images = pictures(height=14, width=14)
    torch.testing.assert_close(moved(images, "rotation"), datasets.rotate(images, 80.0))
    torch.testing.assert_close(moved(images, "scale"), datasets.scale(images, 1.8))
    torch.testing.assert_close(moved(images, "scale", 0.5), datasets.scale(images, 1.4))
    torch.testing.assert_close(moved(images, "translation-x"), datasets.translate(images, x=2))
    torch.testing.assert_close(moved(images, "translation-y"), datasets.translate(images, y=2))
    torch.testing.assert_close(moved(images, "hue"), datasets.color(images, 340.0))
    torch.testing.assert_close(moved(images, "hue", 0.0), datasets.color(images, 180.0))


def test_parts_of_a_composition_work_in_their_order():
    images = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    images[..., 10, 10] = 1
    # The centre moves 3 pixels to the right, and then further out; or stays, and then moves 3 pixels.
    first = moved(images, "translation-x+scale")[0, 0].sum(0)
    second = moved(images, "scale+translation-x")[0, 0].sum(0)
    columns = torch.arange(21.0, dtype=torch.float64)
    assert math.isclose(float((first * columns).sum() / first.sum()), 10 + 3 * 1.8, abs_tol=0.05)
    assert math.isclose(float((second * columns).sum() / second.sum()), 10 + 3, abs_tol=1e-6)


def test_composition_of_whole_pixels_is_one_after_the_other():
    images = pictures(height=14, width=14)
    one_by_one = datasets.translate(datasets.translate(images, x=2), y=2)
    torch.testing.assert_close(moved(images, "translation-x+translation-y"), one_by_one)


def test_composition_samples_once():
    # A scale and a turn by right angles: sampled twice, the result would still be this; sampled once, to rounding.
    images = pictures(height=14, width=14)
    together = datasets.transform(images, ("rotation+scale",), torch.zeros(2, dtype=torch.long), at(90 / 80))[:, 0]
    torch.testing.assert_close(together, datasets.scale(images, 1 + 0.8 * 90 / 80).rot90(1, (-2, -1)))


def test_a_batch_of_several_transformations_is_each_by_itself():
    names = ("rotation", "scale+translation-x", "hue", "translation-y+rotation+hue")
    images = pictures(4, height=9, width=8)
    place = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = datasets.transform(images, names, torch.tensor([3, 1, 0, 2]), place)
    assert together.shape == (4, 3, 3, 9, 8)
    for row, k in enumerate([3, 1, 0, 2]):
        image, here = images[row : row + 1], place[row : row + 1]
        alone = datasets.transform(image, (names[k],), torch.zeros(1, dtype=torch.long), here)
        if "hue" not in names[k]:
            alone = torch.stack([datasets.color(frame, 180.0) for frame in alone[0][:, None]], 1)
        torch.testing.assert_close(together[row : row + 1], alone)


def test_hues_of_pure_colors_turn_to_each_other():
    red, green, blue = torch.eye(3, dtype=torch.float64)[:, None, :, None, None]
    torch.testing.assert_close(datasets.rotate_hue(red, 120.0), green)
    torch.testing.assert_close(datasets.rotate_hue(red, 240.0), blue)
    torch.testing.assert_close(datasets.rotate_hue(red, 60.0), red + green)
    torch.testing.assert_close(datasets.rotate_hue(green, -180.0), red + blue)


def test_hue_keeps_value_and_saturation_and_comes_round():
    images = pictures(channels=3)
    turned = datasets.rotate_hue(images, 77.0)
    torch.testing.assert_close(turned.amax(1), images.amax(1))
    torch.testing.assert_close(turned.amin(1), images.amin(1))
    torch.testing.assert_close(datasets.rotate_hue(turned, 283.0), images)
    grey = pictures().expand(-1, 3, -1, -1)
    torch.testing.assert_close(datasets.rotate_hue(grey, 77.0), grey)


def test_coloured_images_turn_as_images_coloured_later():
    images = pictures()
    torch.testing.assert_close(moved(datasets.color(images, 180.0), "hue", 0.3), moved(images, "hue", 0.3))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMPONENTS, "scale+translation-y+rotation+hue"])
@pytest.mark.parametrize("channels", [1, 3])
def test_derivatives_in_image_and_place(name, channels):
    images = pictures(channels=channels, height=4, width=5).requires_grad_()
    place = torch.tensor([[0.13, 0.52], [0.31, 0.77]], dtype=torch.float64, requires_grad=True)
    which = torch.tensor([0, 1])
    assert gradcheck(lambda x, t: datasets.transform(x, (name, "rotation"), which, t), (images, place))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "channels", "amount"),
    [
        (datasets.rotate, 1, 33.0),
        (datasets.scale, 2, 1.3),
        (datasets.translate, 1, 0.6),
        (datasets.rotate_hue, 3, 17.0),
        (datasets.color, 1, 200.0),
    ],
)
def test_derivatives_in_image_and_amount(function, channels, amount):
    images = pictures(channels=channels, height=4, width=5).requires_grad_()
    amounts = torch.tensor([amount, amount + 0.1], dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, (images, amounts))


def test_derivatives_are_finite_where_there_is_no_colour():
    grey = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    datasets.rotate_hue(grey, 40.0).square().sum().backward()
    assert grey.grad is not None
    assert bool(grey.grad.isfinite().all())


@pytest.mark.parametrize("steps", [1, 7])
def test_sequences_begin_at_the_image_and_go_the_whole_way(steps):
    images = pictures(5, height=8, width=8)
    frames, transformation = datasets.sequences(images, ("rotation", "scale"), steps)
    assert frames.shape == (5, steps + 1, 1, 8, 8)
    torch.testing.assert_close(frames[:, 0], images)
    for image, k, last in zip(images, transformation, frames[:, -1], strict=True):
        expected = datasets.scale(image[None], 1.8) if k else datasets.rotate(image[None], 80.0)
        torch.testing.assert_close(last, expected[0])


def test_sequences_are_drawn_with_the_seed():
    images = pictures(40)
    first, second = (datasets.sequences(images, ("rotation", "scale"), 2, seed=3) for _ in range(2))
    assert torch.equal(first.frames, second.frames)
    assert first.transformation.unique().tolist() == [0, 1]
    assert not torch.equal(first.transformation, datasets.sequences(images, ("rotation", "scale"), 2).transformation)


def test_one_name_is_enough_for_a_sequence():
    assert datasets.sequences(pictures(), "hue", 3).frames.shape == (2, 4, 3, 6, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: datasets.rotate(x[0], 1.0), r"images must be a float tensor of shape \(B, C, H, W\), got .*6, 6"),
        (lambda x: datasets.rotate((x * 255).byte(), 1.0), r"images must be a float tensor .* got torch.uint8"),
        (lambda x: datasets.rotate(x, torch.zeros(3)), r"degrees must be a number or have shape \(2,\), got \(3,\)"),
        (lambda x: datasets.scale(x, 0.0), "factor must be positive"),
        (lambda x: datasets.rotate_hue(x, 1.0), "images must have 3 channels for a hue, got 1"),
        (lambda x: datasets.color(x.expand(-1, 3, -1, -1), 1.0), "images must be grey, of 1 channel, got 3"),
        (lambda x: moved(x.expand(-1, 2, -1, -1), "hue"), "images must have 1 or 3 channels for a hue, got 2"),
        (lambda x: moved(x, "rotation+twist"), r"'rotation\+twist' has a part 'twist': it must be one of rotation, "),
        (lambda x: moved(x, "scale+scale"), "has a part twice"),
        (lambda x: datasets.sequences(x, (), 2), "names must hold at least one transformation"),
        (lambda x: datasets.sequences(x, "scale", 0), "steps must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_transformed_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(pictures())


def test_one_transformation_after_another_is_their_composition():
    images = pictures()
    names, which = ("scale", "rotation"), torch.tensor([[1, 0], [1, 0]])
    place = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]]], dtype=torch.float64).expand(2, -1, -1)
    found = datasets.transform(images, names, which, place)
    one = torch.ones(2, dtype=torch.long)
    torch.testing.assert_close(found[:, :2], datasets.transform(images, names, one, at(0.5) * torch.tensor([0.0, 1.0])))
    both = datasets.transform(images, ("rotation+scale",), torch.zeros(2, dtype=torch.long), at(0.5))
    torch.testing.assert_close(found[:, 2:], both)
    data = datasets.ImageSequences(images, names)
    torch.testing.assert_close(data.frames(torch.arange(2), which, place), found.float().clamp(0, 1))
    with pytest.raises(InputError, match=r"place must be a float tensor of shape \(2, P, 2\)"):
        data.frames(torch.arange(2), which, place[..., 0])
