"""dSprites: the grid, its drawn images, and the reader of the official file, on small files of its layout."""

import math

import numpy as np
import pytest
import torch
from support.memory import extra_memory
from support.sprites import SIZES, SMALL, arrays, written

from fastflow import InputError, datasets
from fastflow.datasets.dsprites import (
    FACTORS,
    OFFICIAL_FILE,
    ORIENTATIONS,
    SCALES,
    SHAPES,
    DrawnSprites,
    SpritesFile,
    draw_sprite,
)


@pytest.fixture(scope="module")
def sprites():
    return DrawnSprites()


def place(shape=0, scale=0, orientation=0, x=0, y=0):
    return int(np.ravel_multi_index((0, shape, scale, orientation, x, y), SIZES))


def image(sprites, **factors):
    return sprites.images(torch.tensor([place(**factors)]))[0, 0]


def centre(images):
    """Centres of mass (N, 2), x and y, of images (N, 64, 64)."""
    pixels = torch.arange(64.0)
    total = images.sum((1, 2))
    return torch.stack([(images.sum(1) * pixels).sum(1), (images.sum(2) * pixels).sum(1)], 1) / total[:, None]


@pytest.mark.slow
def test_grid_is_the_published_one(sprites):
    # The factors, their values and the number of images that the data set's page gives.
    assert SIZES == (1, 3, 6, 40, 32, 32)
    assert list(FACTORS) == ["color", "shape", "scale", "orientation", "position-x", "position-y"]
    assert math.prod(SIZES) == 737_280
    assert SHAPES == ("square", "ellipse", "heart")
    np.testing.assert_allclose(SCALES, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert (len(ORIENTATIONS), ORIENTATIONS[0], ORIENTATIONS[-1]) == (40, 0, 2 * math.pi)
    np.testing.assert_allclose(np.diff(ORIENTATIONS), 0.16110732, rtol=1e-6)
    assert sprites.image_shape == (1, 64, 64)


def test_images_are_black_and_white(sprites):
    images = sprites.images(torch.arange(0, 737_280, 997))
    assert images.shape == (740, 1, 64, 64)
    assert images.dtype == torch.float32
    assert images.unique().tolist() == [0, 1]


def test_every_sprite_is_inside_the_frame_at_every_corner(sprites):
    # Whole at the corners, a sprite is whole everywhere between them.
    every = torch.arange(720) * 1024
    areas = [sprites.images(every + 32 * x + y).sum((1, 2, 3)) for x in (0, 31) for y in (0, 31)]
    middle = sprites.images(every + 32 * 16 + 16)
    assert bool((middle[..., 0, :] + middle[..., -1, :] + middle[..., 0] + middle[..., -1] == 0).all())
    for area in areas:
        assert torch.equal(area, middle.sum((1, 2, 3)))


def test_positions_are_a_pixel_apart_to_the_right_and_down(sprites):
    start = image(sprites, shape=2, scale=5, orientation=7)
    for x, y in [(1, 0), (0, 1), (31, 0), (17, 31)]:
        assert torch.equal(image(sprites, shape=2, scale=5, orientation=7, x=x, y=y), start.roll((y, x), (0, 1)))


@pytest.mark.parametrize("shape", range(3))
def test_centre_of_mass_is_at_the_position_at_every_orientation(sprites, shape):
    rng = torch.Generator().manual_seed(0)
    factors = torch.stack([torch.randint(size, (300,), generator=rng) for size in SIZES[2:]])
    places = [place(shape, *map(int, column)) for column in factors.T]
    found = centre(sprites.images(torch.tensor(places))[:, 0])
    torch.testing.assert_close(found, 16.0 + factors[2:].T, rtol=0, atol=0.2)


@pytest.mark.parametrize("shape", range(3))
def test_area_goes_with_the_square_of_the_scale(sprites, shape):
    areas = [float(image(sprites, shape=shape, scale=scale, orientation=3).sum()) for scale in range(6)]
    assert areas == sorted(areas)
    np.testing.assert_allclose(areas, 475 * SCALES**2, rtol=0.06)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_circle_comes_back(shape):
    first, last = draw_sprite(shape, 1.0, torch.from_numpy(ORIENTATIONS[[0, -1]]))
    assert torch.equal(first, last)


@pytest.mark.parametrize(("shape", "turn"), [("square", 90), ("ellipse", 180), ("heart", 360)])
def test_symmetry_under_turns(shape, turn):
    angles = torch.deg2rad(torch.tensor([11.0, 11 + turn, 11 + turn / 2], dtype=torch.float64))
    start, turned, half = draw_sprite(shape, 1.0, angles)
    assert torch.equal(start, turned)
    assert int((start != half).sum()) > 40


@pytest.mark.parametrize("shape", SHAPES)
def test_turns_are_anticlockwise(shape):
    angles = torch.deg2rad(torch.tensor([20.0, 110.0], dtype=torch.float64))
    start, turned = draw_sprite(shape, 0.8, angles)
    assert torch.equal(turned, start.rot90(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_opposite_turns_are_mirror_images(shape):
    sprite = draw_sprite(shape, 0.9, torch.from_numpy(ORIENTATIONS))
    assert torch.equal(sprite.flip(0), sprite.flip(-1))


def test_shapes_are_told_apart():
    square, ellipse, heart = (draw_sprite(shape, 1.0, torch.zeros(1))[0] for shape in SHAPES)
    assert torch.equal(square, square.T)  # as wide as it is high
    wide, high = (ellipse.amax(axis).sum() for axis in (0, 1))
    assert (int(wide), int(high)) == (31, 19)
    assert int(heart[6, 16]) == 0  # the notch, above the middle
    assert int(heart[6, 10]) == int(heart[6, 22]) == 1  # between two lobes
    assert int(heart[30].sum()) < int(heart[20].sum())  # the point is below


def test_a_pixel_is_white_where_more_than_half_of_it_is_covered():
    # The upright square reaches 10.9 from the centre: 0.4 of the pixel at 11 is covered, and all of that at 10.
    sprite = draw_sprite("square", 1.0, torch.zeros(1))[0]
    assert int(sprite.sum()) == 21 * 21
    # At scale 0.9 it is 9.81, 0.31 of the pixel at 10; at 0.7 7.63, 0.13 + 0.5 of the pixel at 8.
    assert int(draw_sprite("square", 0.9, torch.zeros(1)).sum()) == 19 * 19
    assert int(draw_sprite("square", 0.7, torch.zeros(1)).sum()) == 15 * 15


@pytest.mark.slow
def test_nothing_is_held_but_the_sprites():
    data = datasets.load("dsprites")
    rows = torch.arange(200)
    call = lambda: data.frames(rows, rows % 4, torch.zeros(200, 1))  # noqa: E731
    call()
    assert extra_memory(call) < 20e6
    assert len(data) == 70_518


@pytest.mark.slow
@pytest.mark.parametrize("k", range(4))
def test_frames_walk_one_factor_from_first_to_last(sprites, k):
    data = datasets.load("dsprites")
    assert data.transformations == ("orientation", "scale", "position-x", "position-y")
    assert isinstance(data, datasets.FactorSequences)
    rows = torch.tensor([5, 40_123])
    walk = torch.tensor([[0.0, 0.49, 1.0], [1.0, 0.26, 0.51]])
    frames = data.frames(rows, torch.full((2,), k), walk)
    assert frames.shape == (2, 3, 1, 64, 64)
    column = list(FACTORS).index(data.transformations[k])
    for row in range(2):
        factors = data.factors_of(rows)[row].repeat(3, 1)
        factors[:, column] = (walk[row] * (SIZES[column] - 1)).round()
        expected = sprites.images(torch.tensor(np.ravel_multi_index(tuple(factors.T.numpy()), SIZES)))
        assert torch.equal(frames[row], expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_gives_its_images_bit_by_bit(tmp_path, save):
    reader = SpritesFile(written(tmp_path, save), SMALL)
    images = reader.images(torch.tensor([0, 359, 17, 17]))
    assert images.shape == (4, 1, 64, 64)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images[:, 0].numpy(), arrays()["imgs"][[0, 359, 17, 17]])


def test_file_is_walked_like_drawn_sprites(tmp_path):
    reader = SpritesFile(written(tmp_path), SMALL)
    data = datasets.FactorSequences(reader, "train", ("position-y", "shape"))
    frames = data.frames(torch.tensor([9]), torch.tensor([0]), torch.tensor([[0.0, 0.25, 1.0]]))
    factors = data.factors_of(torch.tensor([9]))[0].tolist()
    start = int(np.ravel_multi_index((*factors[:5], 0), tuple(SMALL.values())))
    np.testing.assert_array_equal(frames[0, :, 0].numpy(), arrays()["imgs"][[start, start + 1, start + 4]])


def test_metadata_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    file = written(tmp_path, metadata=np.array(Trap(), dtype=object))
    assert SpritesFile(file, SMALL).images(torch.tensor([3])).shape == (1, 1, 64, 64)


def test_small_file_is_not_the_official_one(tmp_path):
    written(tmp_path)
    with pytest.raises(InputError, match=r"latents_classes in .* is an array \(360, 6\).* expected \(737280, 6\)"):
        datasets.load("dsprites", tmp_path)


def test_folder_without_the_file_says_so(tmp_path):
    with pytest.raises(InputError, match=f"has no {OFFICIAL_FILE}: put it there, or name no folder to have"):
        datasets.load("dsprites", tmp_path)


GOOD = arrays()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": None}, "has no array imgs"),
        ({"latents_classes": None}, "has no array latents_classes"),
        ({"imgs": GOOD["imgs"][:359]}, r"imgs in .* is an array \(359, 64, 64\) of uint8, expected \(360, 64, 64\)"),
        ({"imgs": GOOD["imgs"].astype(np.float32)}, r"of float32, expected \(360, 64, 64\) of kind u or b"),
        ({"imgs": GOOD["imgs"].astype(object)}, "of object, expected"),
        ({"imgs": np.asfortranarray(GOOD["imgs"])}, "in Fortran order, expected"),
        ({"imgs": GOOD["imgs"] * 255}, "imgs in .* has values other than 0 and 1"),
        ({"latents_classes": GOOD["latents_classes"][::-1]}, "has latents_classes that aren't in the published order"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        SpritesFile(written(tmp_path, **changes), SMALL)
    assert "\n" not in str(error.value)
    assert OFFICIAL_FILE in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\x89PNG" + content[4:200],
        lambda content: content[:40_000] + bytes(200) + content[40_200:],
    ],
    ids=["empty", "cut off", "no archive", "overwritten"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_file_is_one_line(tmp_path, save, damage):
    file = written(tmp_path, save)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="isn't an npz archive, or is damaged") as error:
        SpritesFile(file, SMALL)
    assert "\n" not in str(error.value)


def test_half_the_side_is_the_majority_of_four_pixels():
    whole, half = datasets.load("dsprites"), datasets.load("dsprites", size=32)
    assert half.image_shape == (1, 32, 32)
    assert len(half) == len(whole)
    assert "with 32 x 32 pixels" in half.note
    rows, k, places = torch.tensor([0, 1000, 70_000]), torch.tensor([0, 1, 3]), torch.tensor([[0.0, 0.4, 1.0]])
    large, small = (data.frames(rows, k, places.expand(3, -1)) for data in (whole, half))
    fours = large.unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).sum((-1, -3))
    assert torch.equal(small, (fours >= 2).float())


@pytest.mark.parametrize("size", [16, 0, True])
def test_other_sides_are_refused(size):
    with pytest.raises(InputError, match=f"size must be 64 or 32 for dsprites, got {size}"):
        datasets.load("dsprites", size=size)
