"""IDX files as they should be, and everything that a file of that name may be instead."""

import gzip
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from support.idx import idx_bytes

from fastflow import InputError
from fastflow.datasets.idx import read_idx, read_pair

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 5)).astype(np.uint8)
WHOLE = idx_bytes(IMAGES)
HEADER = WHOLE[:16]


def header(*sizes: int) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)


def written(folder, content):
    file = folder / "images"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_bytes_come_as_they_were_written(tmp_path, pack):
    read = read_idx(written(tmp_path, pack(WHOLE)), ndim=3)
    assert read.dtype == torch.uint8
    np.testing.assert_array_equal(read.numpy(), IMAGES)


BROKEN = {
    "empty": (b"", "is empty, expected 00 00 08 03: an IDX file of images"),
    "cut within its magic": (WHOLE[:3], "starts with the bytes 00 00 08, expected"),
    "cut within its header": (WHOLE[:11], "ends within its header"),
    "cut within its images": (WHOLE[:-1], "promises 4 x 3 x 5 bytes, but only 59 follow"),
    "nothing after the header": (HEADER, "promises 4 x 3 x 5 bytes"),
    "trailing bytes": (WHOLE + b"\0", "promises 4 x 3 x 5 bytes, but more follow"),
    "wrong magic": (b"\1" + WHOLE[1:], "starts with the bytes 01 00 08 03"),
    "floats": (bytes([0, 0, 13, 3]) + WHOLE[4:], "starts with the bytes 00 00 0d 03"),
    "labels for images": (idx_bytes(np.zeros(20)), "starts with the bytes 00 00 08 01"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(90), "starts with the bytes 89 50 4e 47"),
    "no images": (header(0, 28, 28), "holds no images: its header says 0 x 28 x 28"),
    "images of no size": (header(9, 28, 0), "holds no images"),
    "10^12 images": (header(2**32 - 1, 2**32 - 1, 28) + bytes(1000), "more than a file of its size holds"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_broken_file_is_one_line(tmp_path, name, pack):
    content, message = BROKEN[name]
    with pytest.raises(InputError, match=message) as error:
        read_idx(written(tmp_path, pack(content)), ndim=3)
    assert "\n" not in str(error.value)
    assert "images" in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-9],  # within the data
        lambda packed: packed[:-3],  # within the checksum
        lambda packed: packed[:30] + bytes([packed[30] ^ 255]) + packed[31:],
        lambda packed: packed[:-8] + bytes(4) + packed[-4:],  # another checksum
        lambda packed: packed + b"rest",
        lambda packed: packed[:5],
    ],
)
def test_damaged_gzip_is_one_line(tmp_path, damage):
    with pytest.raises(InputError, match=r"'.*images' is a damaged gzip file \(.*\): download it again") as error:
        read_idx(written(tmp_path, damage(gzip.compress(WHOLE))), ndim=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "gzip"])
def test_a_promise_takes_no_memory(tmp_path, compressed):
    # A promise that the file's size doesn't give away: deflate could hold it. Only what is there is read.
    content = header(50_000, 28, 28) + bytes(1000)
    if compressed:
        content = gzip.compress(content + np.random.default_rng(0).bytes(60_000))
    file = written(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="promises 50000 x 28 x 28 bytes"):
            read_idx(file, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_is_read_no_further_than_it_promises(tmp_path):
    # 64 MB of zeros behind a header of four small images.
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(HEADER) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    file = written(tmp_path, packed)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="but more follow"):
            read_idx(file, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_absent_file_and_folder_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=f"IDX file '{path}' doesn't exist"):
            read_idx(path, ndim=1)


def test_counts_must_agree(tmp_path):
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(5)))
    images = written(tmp_path, WHOLE)
    with pytest.raises(InputError, match=r"labels' has 5 labels and '.*images' has 4 images"):
        read_pair(images, tmp_path / "labels")
