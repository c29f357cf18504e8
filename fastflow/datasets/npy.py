"""Arrays in NumPy's format: whole files, read or mapped into memory, and members of npz archives, read piece by piece.

Before any of their values are read, their shape and dtype are compared with the expected ones, or with the file's size.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from fastflow.core.errors import InputError
from fastflow.core.files import check_inflated
from fastflow.core.plugins import first_line

_CHUNK = 1 << 20
_DEFLATE_LIMIT = 1032  # deflate expands a byte to so many at most
_LONGEST_HEADER = 10_000  # NumPy's own limit
# For the first bytes of versions 1.0 and 2.0: the number of bytes of the header's length, and the header's reader.
_READERS = {
    np.lib.format.MAGIC_PREFIX + b"\1\0": (2, np.lib.format.read_array_header_1_0),
    np.lib.format.MAGIC_PREFIX + b"\2\0": (4, np.lib.format.read_array_header_2_0),
}


def read_only_array(file: Path) -> np.ndarray:
    """The array of numbers in a file that holds a single one, alone or in an archive that ends in .npz.

    Arrays of objects, which are pickles, are never read.

    Raises:
        InputError: the file doesn't hold such an array, or is shorter than the array; or the array is larger than
            `fastflow.core.files.most_inflated` allows, of which nothing is inflated then.
        OSError: the file can't be read.
        zipfile.BadZipFile: the archive is damaged.
    """
    what = repr(str(file))
    with file.open("rb") as raw:
        size = file.stat().st_size
        if file.suffix != ".npz":
            return _values(raw, what, size)
        with zipfile.ZipFile(raw) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise InputError(f"{what} has {len(names)} arrays, expected one")
            info = archive.getinfo(names[0])
            _check_method(info, what)
            check_inflated(info.file_size, size, what)
            with archive.open(info) as stream:
                return _values(stream, what, info.file_size)


def mapped_array(file: Path, shape: tuple[int, ...], kinds: str) -> np.ndarray:
    """The array in a file, mapped into memory. Arrays of objects, which are pickles, are never read.

    Args:
        shape: the expected shape, in C order. kinds: the expected kinds of dtype, such as "f".

    Raises:
        InputError: the file doesn't hold such an array, or is longer or shorter than the array.
        OSError: the file can't be read.
    """
    what = repr(str(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers that Python 2 wrote can be read
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a header is a piece of Python, and the errors of its parsers have no common type
        raise InputError(f"{what} isn't an array in NumPy's format, or is cut off: {first_line(error)}") from error
    if not isinstance(array, np.memmap):
        array.close()
        raise InputError(f"{what} isn't an array in NumPy's format, but an archive of arrays")
    _check_array(what, array.shape, array.dtype, not array.flags.c_contiguous, shape=shape, kinds=kinds)
    if file.stat().st_size != array.offset + array.nbytes:
        raise InputError(f"{what} is longer than its header says: download it again")
    return array


def member_rows(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kinds: str) -> Iterator[np.ndarray]:
    """The rows of an array in an npz archive, about a megabyte at a time.

    Raises:
        InputError: the array isn't in the archive, isn't the expected one, or has another size than it says.
    """
    what = f"{name} in {str(archive.filename)!r}"
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise InputError(f"{str(archive.filename)!r} has no array {name}: download it again") from error
    _check_method(info, what)
    with archive.open(info) as stream:
        dtype = _checked_dtype(stream, what, shape, kinds)
        size = math.prod(shape) * dtype.itemsize
        if info.file_size != stream.tell() + size or info.file_size > _DEFLATE_LIMIT * info.compress_size:
            raise InputError(f"{what} promises {shape} of {dtype}, another size than the archive can hold")
        row = math.prod(shape[1:]) * dtype.itemsize
        for first in range(0, shape[0], step := max(1, _CHUNK // row)):
            wanted = min(step, shape[0] - first) * row
            if len(content := stream.read(wanted)) != wanted:
                raise InputError(f"{what} ends early: download it again")
            yield np.frombuffer(content, dtype).reshape(-1, *shape[1:])
        if stream.read(1):  # reading the end also checks the checksum of all bytes
            raise InputError(f"{what} has bytes after its end: download it again")


def _check_method(info: zipfile.ZipInfo, what: str) -> None:
    """Raise InputError if a member of an archive is compressed by a method that NumPy doesn't use, or is encrypted."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise InputError(f"{what} is encrypted, or compressed by another method than np.savez uses")


def _values(stream: IO[bytes], what: str, size: int) -> np.ndarray:
    """The array in a stream of `size` bytes; raise InputError if the array is larger, or isn't one of numbers."""
    shape, fortran, dtype = _header(stream, what)
    if dtype.kind not in "biufc":
        raise InputError(f"{what} is an array of {dtype}, expected numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size - stream.tell():
        raise InputError(f"{what} promises {shape} of {dtype}, more than the {size} bytes that it has")
    content = bytearray(stream.read(wanted))
    if len(content) != wanted:
        raise InputError(f"{what} ends early: download it again")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _checked_dtype(stream: IO[bytes], what: str, shape: tuple[int, ...], kinds: str) -> np.dtype:
    """Read an array's header from a stream, and return its dtype; raise InputError for another array."""
    found, fortran, dtype = _header(stream, what)
    _check_array(what, found, dtype, fortran, shape=shape, kinds=kinds)
    return dtype


def _header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read an array's header from a stream: its shape, whether it is in Fortran order, and its dtype."""
    magic = stream.read(8)
    reader = _READERS.get(magic)
    if reader is None:
        known = magic.startswith(np.lib.format.MAGIC_PREFIX)
        found = f"version {'.'.join(map(str, magic[6:]))}" if known else "other first bytes"
        raise InputError(f"{what} isn't an array in NumPy's format: it has {found}, expected version 1.0 or 2.0")
    width, read = reader
    length = stream.read(width)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise InputError(f"{what} promises a header of {size} bytes, more than the {_LONGEST_HEADER} that NumPy reads")
    header = stream.read(size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers that Python 2 wrote can be read
            return read(io.BytesIO(length + header))
    except Exception as error:  # a header is a piece of Python, and the errors of its parsers have no common type
        raise InputError(f"{what} isn't an array in NumPy's format: {first_line(error)}") from error


def _check_array(
    what: str, found: tuple[int, ...], dtype: np.dtype, fortran: bool, *, shape: tuple[int, ...], kinds: str
) -> None:
    """Raise InputError unless an array has the expected shape, in C order, and one of the expected kinds of dtype."""
    if found != shape or fortran or dtype.kind not in kinds:
        order = " in Fortran order" if fortran else ""
        raise InputError(f"{what} is an array {found} of {dtype}{order}, expected {shape} of kind {' or '.join(kinds)}")
