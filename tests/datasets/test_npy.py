"""Arrays in npz archives: headers and members that aren't what they say."""

import math
import zipfile

import numpy as np
import pytest
from support.memory import extra_memory
from support.sprites import SMALL, arrays

from fastflow import InputError
from fastflow.datasets.dsprites import (
    OFFICIAL_FILE,
    SpritesFile,
)


def archive_of(file, **members):
    """An archive with these bytes as its arrays, beside good ones."""
    good = arrays()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("latents_classes", "imgs"):
            with archive.open(f"{name}.npy", "w") as stream:
                if name in members:
                    stream.write(members[name])
                else:
                    np.lib.format.write_array(stream, good[name])
    return file


def npy_header(shape):
    return npy_text(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n")


def npy_text(content, version=b"\1\0"):
    length = len(content).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + content.encode("latin1")


@pytest.mark.parametrize(
    "content",
    ["{'descr': '|u1', 'fortran_order': (", "{'descr': [()]}", "{1: 2, 'descr': '|u1'}", "[" * 3000, "'" * 3, "\0", "",
     "{'descr': [('a',)], 'fortran_order': False, 'shape': ()}", "{'descr': (), 'fortran_order': False, 'shape': ()}",
     "{'descr': '|u1', 'fortran_order': False, 'shape': (360L, 64, 64)} }", "9" * 9000],
)  # fmt: skip
@pytest.mark.parametrize("version", [b"\1\0", b"\2\0"])
def test_header_that_is_no_header_is_one_line(tmp_path, content, version):
    file = archive_of(tmp_path / OFFICIAL_FILE, imgs=npy_text(content, version))
    with pytest.raises(InputError, match=r"imgs in .* isn't an array in NumPy's format") as error:
        SpritesFile(file, SMALL)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_long_header_takes_no_memory(tmp_path):
    file = archive_of(tmp_path / OFFICIAL_FILE, imgs=npy_text(" " * 200_000_000, b"\2\0"))
    assert file.stat().st_size < 1 << 20

    def refuse():
        with pytest.raises(InputError, match="promises a header of 200000000 bytes, more than the 10000 that NumPy"):
            SpritesFile(file, SMALL)

    refuse()
    assert extra_memory(refuse) < 10 << 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "imgs in .* isn't an array in NumPy's format"),
        (b"no array at all, but text", "imgs in .* isn't an array in NumPy's format"),
        (npy_header((10**12, 64, 64)), r"imgs in .* is an array \(1000000000000, 64, 64\)"),
        (npy_header((360, 64, 64)) + bytes(1000), "imgs in .* promises .* another size than the archive can hold"),
        (npy_header((360, 64, 64)) + bytes(360 * 4096 + 1), "another size than the archive can hold"),
        (b"\x93NUMPY\7\0" + npy_header((360, 64, 64))[8:], "isn't an array in NumPy's format: it has version 7.0"),
    ],
)
def test_member_that_is_not_what_it_says_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        SpritesFile(archive_of(tmp_path / OFFICIAL_FILE, imgs=content), SMALL)
    assert "\n" not in str(error.value)


def test_directory_that_promises_more_than_there_is_is_refused(tmp_path):
    # The archive's directory says that ten billion images are there, and so does the array's header.
    factors = {**SMALL, "orientation": 3 * 10**8}
    count = math.prod(factors.values())
    file = archive_of(tmp_path / OFFICIAL_FILE, latents_classes=npy_header((count, 6)))
    with zipfile.ZipFile(file) as archive:
        size = archive.getinfo("latents_classes.npy").file_size
    content = bytearray(file.read_bytes())
    entry = content.index(b"PK\1\2")
    assert int.from_bytes(content[entry + 24 : entry + 28], "little") == size
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(InputError, match="another size than the archive can hold"):
        SpritesFile(file, factors)
