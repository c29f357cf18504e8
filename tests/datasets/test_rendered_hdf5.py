"""3D Shapes: its published grid, and its reader on small files of the same layout."""

import math

import numpy as np
import pytest
import torch
from support.grids import COUNT, SMALL, labels, pixels
from support.memory import extra_memory

from fastflow import InputError, datasets
from fastflow.datasets.rendered import SHAPES3D, HDF5Images

h5py = pytest.importorskip("h5py", reason="needs h5py: fastflow[datasets]")


def test_grid_is_the_published_one():
    assert tuple(SHAPES3D.values()) == (10, 10, 10, 8, 4, 15)
    assert math.prod(SHAPES3D.values()) == 480_000


def write(folder, **changes):
    file = folder / "3dshapes.h5"
    with h5py.File(file, "w") as stream:
        for name, values in {"images": pixels(), "labels": labels(), **changes}.items():
            if values is not None:
                stream.create_dataset(name, data=values, compression="gzip" if np.ndim(values) > 1 else None)
    return file


def read(file):
    return HDF5Images(file, "shapes3d", SMALL, side=6)


def test_images_stand_in_the_grids_order(tmp_path):
    images = read(write(tmp_path)).images(torch.tensor([23, 0, 7, 7]))
    assert images.dtype == torch.float32
    expected = pixels()[[23, 0, 7, 7]].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-6)


def test_walks_go_along_a_factor(tmp_path):
    data = datasets.FactorSequences(read(write(tmp_path)), "test", ("color",))
    rows = torch.arange(len(data))
    frames = data.frames(rows, torch.zeros_like(rows), torch.tensor([[0.0, 1.0]]).expand(len(rows), 2))
    start = (data.factors_of(rows) * torch.tensor([8, 8, 2, 0])).sum(1)
    expected = pixels()[torch.stack([start, start + 1], 1)].transpose(0, 1, 4, 2, 3) / 255
    np.testing.assert_allclose(frames.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "can't be read as shapes3d's HDF5 file: .*images"),
        ({"labels": None}, "can't be read as shapes3d's HDF5 file: .*labels"),
        ({"images": pixels()[:23]}, r"has images \(23, 6, 6, 3\) of uint8, expected \(24, 6, 6, 3\) of uint8"),
        ({"labels": labels().astype(int)}, r"has labels \(24, 4\) of int64, expected \(24, 4\) of floating"),
        ({"images": pixels() / 255.0}, "of float64, expected"),
        ({"images": b"no array"}, r"has images \(\) of "),
        ({"labels": labels()[:, :2]}, r"has labels \(24, 2\) of float64, expected \(24, 4\) of floating"),
        ({"labels": labels()[np.random.default_rng(0).permutation(COUNT)]}, "labels of lighting that don't follow"),
        ({"labels": np.full((24, 4), b"text")}, r"has labels \(24, 4\) of \|S4, expected \(24, 4\) of floating"),
    ],
)
def test_other_content_is_refused(tmp_path, changes, message):
    file = write(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as error:
        read(file)
    assert "3dshapes.h5" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-500],
        lambda content: content[:50],
        lambda content: b"\x89PNG" * 99,
    ],
    ids=["empty", "cut off", "cut within its header", "no HDF5"],
)
def test_damaged_file_is_one_line(tmp_path, damage):
    file = write(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"3dshapes.h5' can't be read as shapes3d's HDF5 file: ") as error:
        read(file)
    assert "\n" not in str(error.value)


def test_damaged_images_are_named_when_they_are_read(tmp_path):
    file = write(tmp_path)
    with h5py.File(file) as stream:
        start = stream["images"].id.get_chunk_info(0).byte_offset
    content = file.read_bytes()
    file.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    reader = read(file)
    with pytest.raises(InputError, match=r"images of '.*3dshapes.h5' can't be read: ") as error:
        reader.images(torch.tensor([0]))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_promise_of_images_takes_no_memory(tmp_path):
    file = tmp_path / "3dshapes.h5"
    with h5py.File(file, "w") as stream:
        stream.create_dataset("images", (10**12, 6, 6, 3), np.uint8, chunks=(8, 6, 6, 3))
        stream.create_dataset("labels", (10**12, 4), np.float64, chunks=(8, 4))

    def refuse():
        with pytest.raises(InputError, match=r"has images \(1000000000000, 6, 6, 3\) of uint8, expected \(24,"):
            read(file)

    refuse()
    assert extra_memory(refuse) < 10 << 20


@pytest.mark.slow
def test_labels_are_looked_at_before_they_are_read(tmp_path):
    """A few kilobytes of file, whose labels would be 24 x 4 texts of ten million characters."""
    file = tmp_path / "3dshapes.h5"
    with h5py.File(file, "w") as stream:
        stream.create_dataset("images", data=pixels())
        stream.create_dataset("labels", (24, 4), "S10000000", chunks=(1, 1))

    def refuse():
        with pytest.raises(InputError, match=r"has labels \(24, 4\) of \|S10000000, expected"):
            read(file)

    refuse()
    assert extra_memory(refuse) < 10 << 20


@pytest.mark.parametrize("kind", ["external", "virtual", "linked"])
def test_data_of_other_files_are_not_read(tmp_path, kind):
    other, file = write(tmp_path).rename(tmp_path / "other.h5"), tmp_path / "3dshapes.h5"
    with h5py.File(file, "w") as stream:
        stream.create_dataset("images", data=pixels())
        if kind == "external":
            stream.create_dataset("labels", (24, 4), float, external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((24, 4), float)
            layout[:] = h5py.VirtualSource(str(other), "labels", (24, 4))
            stream.create_virtual_dataset("labels", layout)
        else:
            stream["labels"] = h5py.ExternalLink(str(other), "labels")
    with pytest.raises(InputError, match="has labels in another file: expected the data in this one"):
        read(file)


def test_pieces_too_large_to_hold_are_refused(tmp_path):
    file = tmp_path / "3dshapes.h5"
    with h5py.File(file, "w") as stream:
        stream.create_dataset("images", (480_000, 64, 64, 3), np.uint8, chunks=(48_000, 64, 64, 3))
        stream.create_dataset("labels", data=labels(SHAPES3D))
    with pytest.raises(InputError, match=r"images stored in pieces of \(48000, 64, 64, 3\), too large"):
        datasets.load("shapes3d", tmp_path)


def test_whole_labels_are_read(tmp_path):
    file = tmp_path / "3dshapes.h5"
    with h5py.File(file, "w") as stream:
        stream.create_dataset("images", (480_000, 64, 64, 3), np.uint8, chunks=(16, 64, 64, 3))
        stream.create_dataset("labels", data=labels(SHAPES3D, -30, 30))
        stream["images"][479_999] = 255
    data = datasets.load("shapes3d", tmp_path)
    assert (len(data), data.image_shape) == (16_320, (3, 64, 64))
    assert data.transformations == ("floor-hue", "wall-hue", "object-hue", "scale", "orientation")
    assert isinstance(data, datasets.FactorSequences)
    ends = data.source.images(torch.tensor([479_999, 0]))
    assert ends.mean((1, 2, 3)).tolist() == [1, 0]


def test_absent_file_and_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"has no 3dshapes\.h5: docs/datasets.md says where to get it"):
        datasets.load("shapes3d", tmp_path)
    (tmp_path / "3dshapes.h5").write_bytes(b"")

    def import_nothing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("fastflow.core.plugins.import_module", import_nothing)
    with pytest.raises(InputError, match=r"shapes3d needs the package h5py: pip install 'fastflow\[datasets\]'"):
        datasets.load("shapes3d", tmp_path)
