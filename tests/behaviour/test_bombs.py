"""Small files that promise a lot: no reader inflates more of them than its stated bound."""

import gzip
import io
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.memory import extra_memory

from fastflow.core.errors import InputError
from fastflow.core.files import ALWAYS_READ, MOST_READ, check_zip, most_inflated
from fastflow.datasets.idx import read_idx
from fastflow.datasets.npy import read_only_array
from fastflow.datasets.pictures import read_whole_picture
from fastflow.datasets.rendered import HDF5Images
from fastflow.generators.archives import archive
from fastflow.generators.state_dicts import read_state_dict

BIG = 70_000_000


def zipped(file, name):
    """A zip archive with one member of 70 MB of zeros, in some 70 KB."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed, packed.open(name, "w") as stream:
        for _ in range(BIG // 1_000_000):
            stream.write(bytes(1_000_000))
    return file


def inflating_weights(file):
    """A file of torch.save whose members are compressed, which torch reads though it never writes it."""
    torch.save({"weight": torch.zeros(BIG // 4)}, plain := io.BytesIO())
    with zipfile.ZipFile(plain) as before, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as after:
        for member in before.infolist():
            after.writestr(member.filename, before.read(member))
    return file


def repeated_weights(file):
    """A file of torch.save whose only number is repeated by strides of 0."""
    torch.save({"weight": torch.zeros(1).expand(BIG)}, file)
    return file


def idx(file):
    """An IDX file of 70 MB of zeros, compressed."""
    head = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (70, 1000, 1000))
    file.write_bytes(gzip.compress(head + bytes(BIG), 1))
    return file


def picture(file):
    """A whole PNG of 12,000 x 12,000 black pixels."""
    Image.new("1", (12_000, 12_000)).save(file)
    return file


def pieces(file):
    """An HDF5 file of which one piece of 864 bytes inflates to 70 MB from 300 KB."""
    h5py = pytest.importorskip("h5py")
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(70)) + packer.flush()
    with h5py.File(file, "w") as stream:
        images = stream.create_dataset("images", (24, 6, 6, 3), np.uint8, chunks=(8, 6, 6, 3), compression="gzip")
        images.id.write_direct_chunk((0, 0, 0, 0), packed)
        stream.create_dataset("labels", data=np.arange(24.0)[:, None])
    return file


def hidden_end(file):
    """The same with a comment in which Python, but not torch, looks for the archive's end."""
    with zipfile.ZipFile(inflating_weights(file), "a") as archive:
        archive.comment = b"PK\5\6abc"
    return file


def two_directories(file):
    """The same with another directory before its end, which Python takes, while torch goes by the recorded place."""
    data = inflating_weights(file).read_bytes()
    with zipfile.ZipFile(small := io.BytesIO(), "w") as archive:
        archive.writestr("a", b"")
    other = small.getvalue()[small.getvalue().index(b"PK\1\2") : -22]
    end = data[-22:]
    length = int.from_bytes(end[12:16], "little")
    gap = bytes(max(0, length - len(other)))
    file.write_bytes(data[:-22] + gap + other.ljust(length, b"\0")[:length] + end)
    return file


BOMBS = {
    "latents": (lambda folder: zipped(folder / "z.npz", "z.npy"), read_only_array, "more than the 67108864 that are"),
    "weights": (lambda folder: inflating_weights(folder / "w.pt"), read_state_dict, "more than the 67108864 that are"),
    "weights-hidden": (lambda folder: hidden_end(folder / "w.pt"), read_state_dict, "cut off or damaged"),
    "weights-twice": (lambda folder: two_directories(folder / "w.pt"), read_state_dict, "cut off or damaged"),
    "strides": (
        lambda folder: repeated_weights(folder / "w.pt"),
        read_state_dict,
        "'weight' has .* promises 280000000",
    ),
    "torchscript": (
        lambda folder: zipped(folder / "g.pt", "g/code/x.py"),
        lambda file: archive(file, 2),
        "promises 70000000, more than the 67108864",
    ),
    "exported": (
        lambda folder: zipped(folder / "g.pt2", "g/data/x"),
        lambda file: archive(file, 2),
        "promises 70000000, more than the 67108864",
    ),
    "idx": (lambda folder: idx(folder / "i.gz"), lambda file: read_idx(file, 3), "promises 70 x 1000 x 1000 bytes"),
    "picture": (lambda folder: picture(folder / "a.png"), read_whole_picture, "exceeds limit"),
    "hdf5": (
        lambda folder: pieces(folder / "3dshapes.h5"),
        lambda file: HDF5Images(file, "shapes3d", {"a": 24}, side=6),
        "images stored in pieces of .* bytes, expected at most 864",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_in_one_line_before_it_is_inflated(tmp_path, kind):
    write, read, message = BOMBS[kind]
    file = write(tmp_path)
    assert file.stat().st_size < 1 << 20

    def refuse():
        with pytest.raises(InputError, match=message) as error:
            read(file)
        assert "\n" not in str(error.value)

    refuse()
    assert extra_memory(refuse) < 10 << 20


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_makes_no_array_of_any_size(tmp_path, legacy):
    class Bytes:
        def __reduce__(self):
            return bytearray, (3_000_000_000,)

    torch.save({"a.weight": Bytes()}, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)

    def refuse():
        with pytest.raises(InputError, match="holds more than weights"):
            read_state_dict(tmp_path / "w.pt")

    assert extra_memory(refuse) < 10 << 20


def test_archives_that_torch_writes_are_read(tmp_path):
    for legacy in (False, True):
        torch.save({"weight": torch.ones(3)}, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
        assert read_state_dict(tmp_path / "w.pt")["weight"].tolist() == [1, 1, 1]
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        archive.writestr("a", b"x")
    check_zip(tmp_path / "long.zip")


def test_what_one_file_may_inflate_to():
    assert most_inflated(146_000) == ALWAYS_READ == 64 << 20
    assert most_inflated(10 << 20) == 640 << 20
    assert most_inflated(1 << 30) == MOST_READ == 4 << 30
    assert most_inflated(10 << 30) == 10 << 30


def test_a_picture_is_bounded_even_where_pillow_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(InputError, match="promises 12000 x 12000 pixels"):
        read_whole_picture(picture(tmp_path / "a.png"))


ARRAYS = (
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.zeros((0, 3)),
    np.array(True),
    np.arange(6, dtype=">i4"),
)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, np.save])
def test_arrays_are_read_as_they_were_written(tmp_path, save):
    file = tmp_path / ("z.npy" if save is np.save else "z.npz")
    for array in ARRAYS:
        save(file, array)
        read = read_only_array(file)
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert read.flags.writeable


def test_pieces_that_cannot_be_compressed_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 128, 128, 3), np.uint8)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as stream:
        options = {"chunks": pixels.shape, "compression": "gzip", "shuffle": True, "fletcher32": True}
        stream.create_dataset("images", data=pixels, **options)
        stream.create_dataset("labels", data=np.arange(24.0)[:, None])
    read = HDF5Images(tmp_path / "3dshapes.h5", "shapes3d", {"a": 24}, side=128).images(torch.tensor([5]))
    assert np.array_equal((read[0].permute(1, 2, 0) * 255).round().byte().numpy(), pixels[5])


def test_numbers_that_strides_repeat_a_few_times_are_read(tmp_path):
    torch.save({"weight": torch.ones(3).expand(2, 3)}, tmp_path / "w.pt")
    assert torch.equal(read_state_dict(tmp_path / "w.pt")["weight"], torch.ones(2, 3))
