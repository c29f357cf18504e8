"""Falcor3D and Isaac3D: their published grids, and their reader on small folders of the same layout."""

import io
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from support.grids import COUNT, SMALL, labels, pixels

from fastflow import InputError, datasets
from fastflow.datasets.rendered import FALCOR3D, ISAAC3D, LABELS, NumberedImages


def test_grids_are_the_published_ones():
    assert tuple(FALCOR3D.values()) == (5, 6, 6, 6, 6, 6, 6)
    assert math.prod(FALCOR3D.values()) == 233_280
    assert tuple(ISAAC3D.values()) == (3, 8, 5, 4, 4, 4, 6, 4, 4)
    assert math.prod(ISAAC3D.values()) == 737_280


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for place, image in enumerate(pixels()):
        Image.fromarray(image).save(tmp_path / "images" / f"{place:06}.png")
    write(tmp_path, labels())
    return tmp_path


def write(folder, values):
    with (folder / LABELS).open("wb") as stream:
        np.save(stream, values)


def archive_of(array):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("labels.npy", array)
    return stream.getvalue()


def read(folder, size=6):
    return NumberedImages(folder, "falcor3d", SMALL, size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_stand_in_the_grids_order(folder, dtype):
    write(folder, labels().astype(dtype))
    images = read(folder).images(torch.tensor([23, 0, 7, 7]))
    assert images.dtype == torch.float32
    expected = pixels()[[23, 0, 7, 7]].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-6)


def test_images_are_resized(folder):
    images = read(folder, size=3).images(torch.tensor([4]))
    means = pixels()[4].reshape(3, 2, 3, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(images[0].numpy() * 255, means, atol=1)


def test_walks_go_along_a_factor(folder):
    data = datasets.FactorSequences(read(folder), "train", ("camera-y", "lighting"))
    assert len(data) == COUNT // 2  # of one colour; the other is held out
    frames = data.frames(torch.tensor([2]), torch.tensor([0]), torch.tensor([[0.0, 0.3, 1.0]]))
    lighting, _, _, color = data.factors_of(torch.tensor([2]))[0].tolist()
    expected = pixels()[[8 * lighting + color, 8 * lighting + 2 + color, 8 * lighting + 6 + color]]
    np.testing.assert_allclose(frames[0].numpy(), expected.transpose(0, 3, 1, 2) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (labels()[:-1], r"is an array \(23, 4\) of float64, expected \(24, 4\) of kind f"),
        (labels()[:, :3], r"is an array \(24, 3\)"),
        (labels().astype(int), "of int64, expected"),
        (labels().astype(object), "isn't an array in NumPy's format, or is cut off: Array can't be memory-mapped: Pyt"),
        (np.asfortranarray(labels()), "in Fortran order"),
        (labels()[::-1].copy(), None),
        (
            labels()[np.random.default_rng(0).permutation(COUNT)],
            "labels of lighting that don't follow",
        ),
        (labels() * np.array([1, 1, np.nan, 1]), "labels of camera-y that don't follow the published order"),
        (np.zeros_like(labels()), "labels of lighting that don't follow"),
    ],
)
def test_labels_must_be_the_grids(folder, values, message):
    write(folder, values)
    if message is None:  # from the last value to the first is as even
        assert read(folder).images(torch.tensor([1])).shape == (1, 3, 6, 6)
        return
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert LABELS in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "isn't an array in NumPy's format"),
        (lambda content: content[:7], "isn't an array in NumPy's format"),
        (lambda content: content[:100], "isn't an array in NumPy's format"),
        (lambda content: content[:-1], "isn't an array in NumPy's format, or is cut off: mmap length"),
        (lambda content: content + b"\0", "is longer than its header says: download it again"),
        (lambda content: b"lighting,camera\n0,1\n" * 30, "isn't an array in NumPy's format"),
        (lambda content: content.replace(b"(24, 4)", b"(10**12, 4)"), "isn't an array in NumPy's format"),
        (
            lambda content: content.replace(b"(24, 4), }     ", b"(999999999, 4), }"),
            "isn't an array in NumPy's format, or is cut off: mmap length",
        ),
        (lambda content: archive_of(content), "isn't an array in NumPy's format, but an archive of arrays"),
        (lambda content: pickle.dumps([1.0]), "isn't an array in NumPy's format"),
    ],
)
def test_damaged_labels_are_one_line(folder, damage, message):
    file = folder / LABELS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_missing_and_damaged_images_are_named(folder):
    reader = read(folder)
    (folder / "images" / "000005.png").write_bytes(b"no image")
    (folder / "images" / "000006.png").unlink()
    for place, how in ((5, "isn't an image, or is damaged"), (6, "doesn't exist")):
        with pytest.raises(InputError, match=f"00000{place}.png' {how}"):
            reader.images(torch.tensor([1, place]))
    (folder / "images" / "000023.png").unlink()  # the last one: not all are there
    with pytest.raises(InputError, match=r"000023\.png"):
        read(folder)


@pytest.mark.parametrize("name", ["falcor3d", "isaac3d"])
def test_small_folder_is_not_the_official_one(folder, name):
    count, factors = {"falcor3d": (233280, 7), "isaac3d": (737280, 9)}[name]
    with pytest.raises(InputError, match=rf"is an array \(24, 4\) of float64, expected \({count}, {factors}\)"):
        datasets.load(name, folder)
    (folder / LABELS).unlink()
    with pytest.raises(InputError, match=f"has no {LABELS}: expected it beside the folder images"):
        datasets.load(name, folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "factors", "starts"), [("falcor3d", FALCOR3D, 4047), ("isaac3d", ISAAC3D, 12_780)])
def test_whole_labels_are_read(folder, name, factors, starts):
    # Labels of the published size, and images of the two ends, which are all that opening reads.
    write(folder, labels(factors, 0.0, 1.0).astype(np.float32))
    last = math.prod(factors.values()) - 1
    (folder / "images" / "000023.png").rename(folder / "images" / f"{last:06}.png")
    data = datasets.load(name, folder, size=6)
    assert data.image_shape == (3, 6, 6)
    assert set(data.transformations) == set(factors) - {"object-shape"}
    assert len(data) == starts
