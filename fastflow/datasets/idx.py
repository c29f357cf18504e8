"""IDX files, the format of MNIST and its family: a short header, then bytes; as they are or compressed by gzip.

What a header promises is never taken at its word: memory grows with what is really read, and no further.
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

_DEFLATE_LIMIT = 1032  # bytes that deflate can make of one, at most
_CHUNK = 1 << 20
_UNSIGNED_BYTE = 8


class Labelled(NamedTuple):
    """Images (N, 1, H, W) uint8 and labels (N,) long."""

    images: Tensor
    labels: Tensor


def read_pair(images: Path, labels: Path) -> Labelled:
    """The images and labels of two files.

    Raises:
        InputError: one of them isn't there or isn't what it should be, or their counts differ.
    """
    # The small file first: where it is wrong, the large one needn't be read.
    answers = read_idx(labels, ndim=1).long()
    pictures = read_idx(images, ndim=3)[:, None]
    if len(pictures) != len(answers):
        raise InputError(
            f"{str(labels)!r} has {len(answers)} labels and {str(images)!r} has {len(pictures)} images: take both from "
            "one data set"
        )
    return Labelled(pictures, answers)


def read_idx(file: Path, ndim: int) -> Tensor:
    """The bytes of an IDX file as a uint8 tensor of `ndim` dimensions; gzip is told by its first bytes.

    Raises:
        InputError: it isn't there, isn't of this format and size, holds nothing, is cut off or goes on too long.
    """
    if not file.is_file():
        raise InputError(f"IDX file {str(file)!r} doesn't exist")
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            limit = file.stat().st_size * (_DEFLATE_LIMIT if compressed else 1)
            # GzipFile reads like a binary file.
            return _read(cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw, file, ndim, limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{str(file)!r} is a damaged gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise InputError(f"{str(file)!r} can't be read: {error.strerror or error}") from error


def _read(stream: BinaryIO, file: Path, ndim: int, limit: int) -> Tensor:
    what = "images" if ndim == 3 else "labels"
    head = _up_to(stream, 4 + 4 * ndim)
    if head[:4] != bytes([0, 0, _UNSIGNED_BYTE, ndim]):
        found = f"starts with the bytes {head[:4].hex(' ')}" if head else "is empty"
        raise InputError(f"{str(file)!r} {found}, expected 00 00 08 0{ndim}: an IDX file of {what}, one byte per value")
    if len(head) < 4 + 4 * ndim:
        raise InputError(f"{str(file)!r} ends within its header: fetch it again")
    shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
    size = math.prod(shape)
    sizes = " x ".join(map(str, shape))
    if size == 0:
        raise InputError(f"{str(file)!r} holds no {what}: its header says {sizes}")
    if size > limit:
        raise InputError(
            f"{str(file)!r} promises {sizes} bytes, more than a file of its size holds: it is damaged, or no IDX file"
        )
    body = _up_to(stream, size + 1)
    if len(body) != size:
        found = f"only {len(body)} follow" if len(body) < size else "more follow"
        raise InputError(f"{str(file)!r} promises {sizes} bytes, but {found}: fetch it again")
    return torch.frombuffer(body, dtype=torch.uint8).view(shape)


def _up_to(stream: BinaryIO, size: int) -> bytearray:
    """The next bytes, at most `size` of them, in memory that grows with what there is."""
    read = bytearray()
    while chunk := stream.read(min(_CHUNK, size - len(read))):
        read += chunk
    return read
