"""Arrays in NumPy's format, read piece by piece after their header was held to what is expected."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from fastflow.core.errors import InputError
from fastflow.core.plugins import first_line

_CHUNK = 1 << 20
_DEFLATE_LIMIT = 1032  # bytes that deflate can make of one, at most
_LONGEST_HEADER = 10_000  # as NumPy has it
# By the format's first bytes, of versions 1.0 and 2.0: how many bytes say the header's length, and what reads it.
_READERS = {
    np.lib.format.MAGIC_PREFIX + b"\1\0": (2, np.lib.format.read_array_header_1_0),
    np.lib.format.MAGIC_PREFIX + b"\2\0": (4, np.lib.format.read_array_header_2_0),
}


def check_header(stream: IO[bytes], what: str, shape: tuple[int, ...], kinds: str) -> np.dtype:
    """Read an array's header, and give its dtype; objects, which are pickles, are never read.

    Raises:
        InputError: the array hasn't this shape, in C order, and a dtype of these kinds.
    """
    magic = stream.read(8)
    reader = _READERS.get(magic)
    if reader is None:
        known = magic.startswith(np.lib.format.MAGIC_PREFIX)
        said = f"version {'.'.join(map(str, magic[6:]))}" if known else "other first bytes"
        raise InputError(f"{what} isn't an array in NumPy's format: it has {said}, expected version 1.0 or 2.0")
    width, read = reader
    length = stream.read(width)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise InputError(f"{what} promises a header of {size} bytes, more than the {_LONGEST_HEADER} that NumPy reads")
    header = stream.read(size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers by Python 2, which can be read
            found, fortran, dtype = read(io.BytesIO(length + header))
    except Exception as error:  # a header is a piece of Python, and what its parsers raise has no common type
        raise InputError(f"{what} isn't an array in NumPy's format: {first_line(error)}") from error
    if found != shape or fortran or dtype.kind not in kinds:
        order = " in Fortran order" if fortran else ""
        raise InputError(f"{what} is an array {found} of {dtype}{order}, expected {shape} of kind {' or '.join(kinds)}")
    return dtype


def member_rows(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kinds: str) -> Iterator[np.ndarray]:
    """The rows of an array in an npz archive, about a megabyte at a time.

    Raises:
        InputError: it isn't there, isn't the array that is expected, or is another size than it says.
    """
    what = f"{name} in {str(archive.filename)!r}"
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise InputError(f"{str(archive.filename)!r} has no array {name}") from error
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise InputError(f"{what} is encrypted, or compressed in a way that np.savez doesn't know")
    with archive.open(info) as stream:
        dtype = check_header(stream, what, shape, kinds)
        size = math.prod(shape) * dtype.itemsize
        if info.file_size != stream.tell() + size or info.file_size > _DEFLATE_LIMIT * info.compress_size:
            raise InputError(f"{what} promises {shape} of {dtype}, another size than the archive can hold")
        row = math.prod(shape[1:]) * dtype.itemsize
        for first in range(0, shape[0], step := max(1, _CHUNK // row)):
            wanted = min(step, shape[0] - first) * row
            if len(content := stream.read(wanted)) != wanted:
                raise InputError(f"{what} ends early: fetch it again")
            yield np.frombuffer(content, dtype).reshape(-1, *shape[1:])
        if stream.read(1):  # which checks the sum of all bytes, too
            raise InputError(f"{what} goes on after its end: fetch it again")
