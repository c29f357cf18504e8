"""IDX files, the format of MNIST and similar data sets: a short header, then bytes, plain or compressed by gzip.

A header isn't trusted: memory grows with the bytes that are read, not with the size that the header promises.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.files import most_inflated

_DEFLATE_LIMIT = 1032  # deflate expands a byte to so many at most
_CHUNK = 1 << 20
_UNSIGNED_BYTE = 8


class Labelled(NamedTuple):
    """Images (N, 1, H, W) uint8 and labels (N,) long."""

    images: Tensor
    labels: Tensor


def read_pair(images: Path, labels: Path) -> Labelled:
    """The images and labels of two files.

    Raises:
        InputError: one of them is missing or isn't such a file, or their numbers of images and labels differ.
    """
    # The small file comes first: if it is wrong, the large one needn't be read.
    numbers = read_idx(labels, ndim=1).long()
    pictures = read_idx(images, ndim=3)[:, None]
    if len(pictures) != len(numbers):
        raise InputError(
            f"{str(labels)!r} has {len(numbers)} labels and {str(images)!r} has {len(pictures)} images: take both from "
            "one data set"
        )
    return Labelled(pictures, numbers)


def read_idx(file: Path, ndim: int) -> Tensor:
    """The bytes of an IDX file as a uint8 tensor of `ndim` dimensions; gzip is recognized by its first bytes.

    Raises:
        InputError: the file is missing, has another format or number of dimensions, is empty, or is shorter or longer
            than its header says.
    """
    if not file.is_file():
        raise InputError(f"IDX file {str(file)!r} doesn't exist")
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            size = file.stat().st_size
            limit = min(size * _DEFLATE_LIMIT, most_inflated(size)) if compressed else size
            # A GzipFile has the methods of a binary file.
            return _read(cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw, file, ndim, limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{str(file)!r} is a damaged gzip file ({error}): download it again") from error
    except OSError as error:
        raise InputError(f"{str(file)!r} can't be read: {error.strerror or error}") from error


def _read(stream: BinaryIO, file: Path, ndim: int, limit: int) -> Tensor:
    what = "images" if ndim == 3 else "labels"
    head = _up_to(stream, 4 + 4 * ndim)
    if head[:4] != bytes([0, 0, _UNSIGNED_BYTE, ndim]):
        found = f"starts with the bytes {head[:4].hex(' ')}" if head else "is empty"
        raise InputError(f"{str(file)!r} {found}, expected 00 00 08 0{ndim}: an IDX file of {what}, one byte per value")
    if len(head) < 4 + 4 * ndim:
        raise InputError(f"{str(file)!r} ends within its header: download it again")
    shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
    size = math.prod(shape)
    sizes = " x ".join(map(str, shape))
    if size == 0:
        raise InputError(f"{str(file)!r} holds no {what}: its header says {sizes}")
    if size > limit:
        raise InputError(
            f"{str(file)!r} promises {sizes} bytes, more than a file of its size holds: it is damaged, or isn't an IDX "
            "file"
        )
    body = _up_to(stream, size + 1)
    if len(body) != size:
        found = f"only {len(body)} follow" if len(body) < size else "more follow"
        raise InputError(f"{str(file)!r} promises {sizes} bytes, but {found}: download it again")
    return torch.frombuffer(body, dtype=torch.uint8).view(shape)


def _up_to(stream: BinaryIO, size: int) -> bytearray:
    """The next bytes, `size` at most. Memory grows with the bytes that there are."""
    read = bytearray()
    while chunk := stream.read(min(_CHUNK, size - len(read))):
        read += chunk
    return read
