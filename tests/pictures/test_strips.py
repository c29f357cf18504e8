"""Strips and animations: one scale for all frames, a marked start, whole files or none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from support.pictures import constant_images

from fastflow.core.errors import InputError
from fastflow.pictures import strips

CELL, GUTTER = 64, 5
PITCH = CELL + GUTTER


def cell(picture, row, column):
    left, top = GUTTER + column * PITCH, GUTTER + row * PITCH
    return np.asarray(picture)[top : top + CELL, left : left + CELL]


def gif_frames(file, mode):
    with Image.open(file) as picture:
        return [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(picture)]


@pytest.mark.parametrize("channels", [1, 3])
def test_strip_has_one_brightness_scale(tmp_path, channels):
    # The second row spans a tenth of the range; a scale per frame or per row would stretch it.
    values = [[0.0, 0.5, 1.0], [0.2, 0.25, 0.3]]
    file = strips.save_strip(constant_images(values, channels), tmp_path / "strip.png")
    with Image.open(file) as picture:
        for row in range(2):
            for column in range(3):
                pixels = cell(picture, row, column)
                assert (pixels[..., :3] == round(values[row][column] * 255)).all()
                assert (pixels[..., 3] == 255).all()


def test_strip_default_scale_is_the_strip_range(tmp_path):
    file = strips.save_strip(constant_images([[-3.0, 1.0, 5.0]]), tmp_path / "strip.png")
    with Image.open(file) as picture:
        assert [int(cell(picture, 0, column)[0, 0, 0]) for column in range(3)] == [0, 128, 255]


def test_strip_value_range_is_kept_and_clips(tmp_path):
    file = strips.save_strip(constant_images([[-1.0, 0.4, 2.0]]), tmp_path / "strip.png", value_range=(0.0, 1.0))
    with Image.open(file) as picture:
        assert [int(cell(picture, 0, column)[0, 0, 0]) for column in range(3)] == [0, 102, 255]


def test_strip_of_one_value_is_black(tmp_path):
    file = strips.save_strip(constant_images([[0.7, 0.7]]), tmp_path / "strip.png")
    with Image.open(file) as picture:
        assert cell(picture, 0, 1)[..., :3].max() == 0


def test_frames_beyond_the_ends_are_dimmed_behind_a_line(tmp_path):
    images = constant_images([[0.2, 0.4, 0.6, 0.8], [0.2, 0.4, 0.6, 0.8]])
    options = {"start": 1, "value_range": (0.0, 1.0)}
    plain = strips.save_strip(images, tmp_path / "plain.png", **options)
    ends = torch.tensor([[1, 2], [0, 3]])
    file = strips.save_strip(images, tmp_path / "strip.png", ends=ends, **options)
    assert strips.save_strip(images, tmp_path / "list.png", ends=ends.tolist(), **options).read_bytes() == (
        file.read_bytes()
    )
    with Image.open(plain) as before, Image.open(file) as after:
        before, after = np.asarray(before), np.asarray(after)
    for row in range(2):
        for column in range(4):
            shown, kept = cell(after, row, column), cell(before, row, column)
            beyond = row == 0 and column in (0, 3)
            assert np.array_equal(shown[..., :3], kept[..., :3])
            assert (shown[..., 3] == (76 if beyond else 255)).all()
    # The line stands between the columns, in the row that ends there alone. The start's frame covers the other one.
    right = 3 * PITCH + GUTTER // 2
    assert after[GUTTER + 5, right].tolist() == [*strips.ACCENT, 255]
    assert after[GUTTER + PITCH + 5, right, 3] == 0
    changed = (before != after).any(2)
    assert not changed[GUTTER + CELL :].any()


@pytest.mark.parametrize(
    "ends",
    [[(0, 1)], [(0, 1), (2, 1)], [(0, 1), (0, 2)], [(-1, 1), (0, 1)], [(0, 1), (0, 1.0)], [(0, 1), (0,)], [0, 1]],
    ids=["rows", "order", "beyond", "negative", "float", "one", "flat"],
)
def test_ends_that_the_strip_does_not_have_are_refused(tmp_path, ends):
    with pytest.raises(InputError, match=r"ends must be a first and a last column in 0\.\.1 for each of 2 rows"):
        strips.save_strip(constant_images([[0.0, 1.0], [0.0, 1.0]]), tmp_path / "strip.png", ends=ends)
    assert not (tmp_path / "strip.png").exists()


@pytest.mark.parametrize("start", [0, 2, 4])
def test_start_column_alone_is_framed_and_its_pixels_are_untouched(tmp_path, start):
    images = constant_images([[0.5] * 5, [0.5] * 5])
    with Image.open(strips.save_strip(images, tmp_path / "strip.png", start=start, value_range=(0, 1))) as picture:
        pixels = np.asarray(picture)
        assert all((cell(picture, row, column)[..., :3] == 128).all() for row in range(2) for column in range(5))
    accent = (pixels[..., :3] == strips.ACCENT).all(-1) & (pixels[..., 3] == 255)
    first_row = accent[GUTTER : GUTTER + CELL]
    framed = np.flatnonzero(first_row.all(0))
    left, right = GUTTER + start * PITCH, GUTTER + start * PITCH + CELL
    assert framed.tolist() == [left - 3, left - 2, left - 1, right, right + 1, right + 2]
    # A pointer under the frame says it without colour.
    middle = (left + right) // 2
    assert accent[2 * PITCH + GUTTER : 2 * PITCH + GUTTER + 4, middle - 2 : middle + 2].any()


def test_nothing_is_marked_without_a_start(tmp_path):
    with Image.open(strips.save_strip(constant_images([[0.0, 1.0]]), tmp_path / "strip.png")) as picture:
        assert not (np.asarray(picture)[..., :3] == strips.ACCENT).all(-1).any()


def test_every_column_is_labelled_where_labels_fit(tmp_path):
    with Image.open(strips.save_strip(constant_images([[0.0, 0.5, 1.0]]), tmp_path / "strip.png", start=1)) as picture:
        opacity = np.asarray(picture)[PITCH + GUTTER + 8 :, :, 3]
    for column in range(3):
        assert opacity[:, GUTTER + column * PITCH : GUTTER + column * PITCH + CELL].max() == 255


def test_labels_thin_out_but_keep_the_start():
    font = strips.ImageFont.load_default(15)
    labels = strips._labels(columns=41, pitch=10, start=20, font=font)
    assert (20, "start") in labels
    assert len(labels) < 41
    assert {(column - 20) % 5 for column, _ in labels} == {0}
    assert [text for _, text in strips._labels(columns=3, pitch=69, start=None, font=font)] == ["0", "1", "2"]


def test_small_images_grow_by_a_whole_factor_and_large_ones_stay(tmp_path):
    for size, shown in [(8, 64), (28, 56), (33, 33), (100, 100)]:
        file = strips.save_strip(constant_images([[0.0, 1.0]], size=size), tmp_path / f"{size}.png")
        with Image.open(file) as picture:
            assert picture.width == 2 * (shown + GUTTER) + GUTTER
    file = strips.save_strip(constant_images([[0.0, 1.0]]), tmp_path / "sized.png", image_size=20)
    with Image.open(file) as picture:
        assert picture.width == 2 * (16 + GUTTER) + GUTTER


def test_large_images_keep_every_pixel(tmp_path):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 4, 64)
    with Image.open(strips.save_strip(images, tmp_path / "strip.png", value_range=(0, 255))) as picture:
        pixels = np.asarray(picture)[GUTTER : GUTTER + 4, GUTTER : GUTTER + 64, 0]
    assert (pixels == images.numpy()[0, 0, 0]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_every_precision_that_require_grad(tmp_path, dtype):
    images = torch.linspace(0, 1, 3, dtype=dtype).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 8, 8).clone().requires_grad_()
    with Image.open(strips.save_strip(images, tmp_path / "strip.png")) as picture:
        assert [int(cell(picture, 0, column)[0, 0, 0]) for column in range(3)] == [0, 128, 255]


def test_gif_goes_forth_and_back_without_repeating_its_ends(tmp_path):
    file = strips.save_gif(constant_images([[0.0, 0.4, 0.8, 1.0]]), tmp_path / "path.gif", value_range=(0, 1))
    assert [int(frame[0, 0]) for frame in gif_frames(file, "L")] == [0, 102, 204, 255, 204, 102]
    with Image.open(file) as picture:
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == 120


def test_gif_lays_starts_side_by_side(tmp_path):
    file = strips.save_gif(constant_images([[0.0, 1.0], [1.0, 0.0], [0.2, 0.4]]), tmp_path / "path.gif")
    first, second = gif_frames(file, "L")
    assert first.shape == (32, 3 * 34 - 2)
    assert [int(first[5, 34 * row + 5]) for row in range(3)] == [0, 255, 51]
    assert [int(second[5, 34 * row + 5]) for row in range(3)] == [255, 0, 102]


def test_animation_of_many_starts_has_several_rows():
    values = np.linspace(0, 1, 30)[:, None].repeat(2, 1)
    (sheet, _) = strips.side_by_side(constant_images(values), (0.0, 1.0), 8)
    assert sheet.shape == (3 * 10 - 2, 12 * 10 - 2, 1)
    for number, value in enumerate(values[:, 0]):
        top, left = number // 12 * 10, number % 12 * 10
        assert (sheet[top : top + 8, left : left + 8] == round(255 * value)).all()


def test_grey_gif_is_exact(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 5, 1, 40, 40), dtype=np.uint8)
    decoded = gif_frames(strips.save_gif(images, tmp_path / "path.gif", value_range=(0, 255)), "L")
    for frame, step in zip(decoded, [0, 1, 2, 3, 4, 3, 2, 1], strict=True):
        assert (frame[:, :40] == images[0, step, 0]).all()
        assert (frame[:, 42:] == images[1, step, 0]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_has_one_palette(tmp_path, channels):
    rng = np.random.default_rng(0)
    file = strips.save_gif(rng.random((2, 6, channels, 8, 8)), tmp_path / "path.gif")
    assert local_colour_tables(file.read_bytes()) == [False] * 10


def test_colour_that_stands_still_does_not_flicker(tmp_path):
    images = np.zeros((1, 6, 3, 40, 40), dtype=np.float32)
    images[..., :20] = np.array([0.9, 0.3, 0.1], dtype=np.float32)[:, None, None]
    images[..., 20:] = np.linspace(0, 1, 6, dtype=np.float32)[None, :, None, None, None]
    decoded = np.stack(gif_frames(strips.save_gif(images, tmp_path / "path.gif", value_range=(0, 1)), "RGB"))
    assert (decoded[:, :, :20] == decoded[0, 0, 0]).all()
    assert np.abs(decoded[0, 0, 0].astype(int) - [230, 77, 26]).max() <= 8


def test_one_step_and_one_start_work(tmp_path):
    images = constant_images([[0.3]])
    assert len(gif_frames(strips.save_gif(images, tmp_path / "path.gif"), "L")) == 1
    assert strips.save_strip(images, tmp_path / "strip.png", start=0).exists()


@pytest.mark.parametrize("save", [strips.save_strip, strips.save_gif], ids=["strip", "gif"])
@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 3, 8, 8)), {}, r"shape \(2, 3, 8, 8\)"),
        (np.zeros((2, 3, 2, 8, 8)), {}, "1 or 3 channels"),
        (np.zeros((0, 3, 1, 8, 8)), {}, "at least one start"),
        (np.zeros((2, 3, 1, 8, 8), dtype=complex), {}, "real numbers"),
        (constant_images([[0.0, np.nan]]), {}, "start 0, step 1"),
        (constant_images([[0.0, np.inf]]), {}, "NaN or infinite"),
        (constant_images([[0.0, 1.0]]), {"value_range": (1.0, 0.0)}, "first below the second"),
        (constant_images([[0.0, 1.0]]), {"value_range": (0.0, np.nan)}, "finite"),
        (constant_images([[0.0, 1.0]]), {"image_size": 0}, "positive"),
    ],
)
def test_bad_input_is_one_clear_line_and_no_file(tmp_path, save, images, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        save(images, tmp_path / "picture", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_start_and_speed_are_checked(tmp_path):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        strips.save_strip(constant_images([[0.0, 1.0]]), tmp_path / "strip.png", start=2)
    for speed in (0, -1, 51, float("nan")):
        with pytest.raises(ValueError, match="at most 50"):
            strips.save_gif(constant_images([[0.0, 1.0]]), tmp_path / "path.gif", frames_per_second=speed)


@pytest.mark.parametrize("save", [strips.save_strip, strips.save_gif], ids=["strip", "gif"])
def test_failed_write_keeps_the_older_file(tmp_path, monkeypatch, save):
    file = save(constant_images([[0.0, 1.0]]), tmp_path / "picture")
    before = file.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(constant_images([[0.0, 0.5, 1.0]]), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def local_colour_tables(data):
    """Whether each image of a GIF brings its own palette, read from the file's blocks."""
    assert data[:6] == b"GIF89a"
    assert data[10] & 0x80, "no global palette"
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)

    def skip_blocks(place):
        while data[place]:
            place += data[place] + 1
        return place + 1

    found = []
    while data[place] != 0x3B:
        if data[place] == 0x21:
            place = skip_blocks(place + 2)
        else:
            flags = data[place + 9]
            found.append(bool(flags & 0x80))
            place += 10 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
            place = skip_blocks(place + 1)
    return found
