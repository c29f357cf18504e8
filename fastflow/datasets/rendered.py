"""3D Shapes, Falcor3D and Isaac3D: rendered scenes, one for each combination of factors, read from public files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.devices import send
from fastflow.core.errors import InputError
from fastflow.core.plugins import first_line, imported
from fastflow.datasets.base import Split
from fastflow.datasets.factors import FactorSequences, check_labels
from fastflow.datasets.npy import mapped_array
from fastflow.datasets.pictures import read_picture

SHAPES3D = {"floor-hue": 10, "wall-hue": 10, "object-hue": 10, "scale": 8, "shape": 4, "orientation": 15}
FALCOR3D = {
    "lighting-intensity": 5,
    **{f"lighting-{axis}": 6 for axis in "xyz"},
    **{f"camera-{axis}": 6 for axis in "xyz"},
}
ISAAC3D = {
    "object-shape": 3,
    "robot-x": 8,
    "robot-y": 5,
    "camera-height": 4,
    "object-scale": 4,
    "lighting-intensity": 4,
    "lighting-y": 6,
    "object-color": 4,
    "wall-color": 4,
}
LABELS = "train-rec.labels"
# Limits of the bytes of an array that HDF5 reads at once: deflate expands a byte to 1,032 at most, and four million
# bytes are always allowed.
_LARGEST_CHUNK, _DEFLATE_LIMIT, _ALWAYS_ALLOWED = 1 << 28, 1032, 1 << 22
# HDF5's filters: deflate, as in gzip; LZF, which makes up to 88 bytes of one; and those that leave the size as it is,
# shuffle and a checksum of four bytes.
_DEFLATE, _LZF, _SAME_SIZE, _CHECKSUM = 1, 32000, (2, 3), 4


def shapes3d(
    root: Path | str,
    split: Split = "train",
    transformations: tuple[str, ...] = ("floor-hue", "wall-hue", "object-hue", "scale", "orientation"),
) -> FactorSequences:
    """3D Shapes (C. Burgess, H. Kim): 480,000 images of 64 x 64, from 3dshapes.h5 in the folder `root`.

    Raises:
        InputError: the file is missing or isn't the published one, h5py isn't installed, or an argument can't be used.
    """
    file = Path(root) / "3dshapes.h5"
    if not file.is_file():
        raise InputError(f"{str(root)!r} has no 3dshapes.h5: docs/datasets.md says where to get it")
    return FactorSequences(HDF5Images(file, "shapes3d", SHAPES3D), split, transformations)


def falcor3d(
    root: Path | str, split: Split = "train", transformations: tuple[str, ...] = tuple(FALCOR3D), *, size: int = 64
) -> FactorSequences:
    """Falcor3D (NVIDIA): 233,280 images of a living room, from the folder `root` with images/ and train-rec.labels.

    Args:
        size: the side in pixels to which the images are resized.

    Raises:
        InputError: files are missing or aren't the published ones, or an argument can't be used.
    """
    return FactorSequences(NumberedImages(Path(root), "falcor3d", FALCOR3D, size), split, transformations)


def isaac3d(
    root: Path | str, split: Split = "train", transformations: tuple[str, ...] = tuple(ISAAC3D)[1:], *, size: int = 64
) -> FactorSequences:
    """Isaac3D (NVIDIA): 737,280 images of a kitchen, from the folder `root` with images/ and train-rec.labels.

    Args:
        size: the side in pixels to which the images are resized.

    Raises:
        InputError: files are missing or aren't the published ones, or an argument can't be used.
    """
    return FactorSequences(NumberedImages(Path(root), "isaac3d", ISAAC3D, size), split, transformations)


class HDF5Images:
    """A grid's images in an HDF5 file with images (N, H, W, 3) uint8 and labels (N, F). They are read on request."""

    def __init__(self, file: Path, name: str, factors: Mapping[str, int], side: int = 64) -> None:
        self.name, self.factors, self.image_shape = name, dict(factors), (3, side, side)
        self.note = f"{name} of {str(file)!r}"
        self._file = file
        count = math.prod(factors.values())
        try:
            opened = imported("h5py", "datasets", f"data set {name}").File(file, "r")
            images, labels = opened["images"], opened["labels"]
            _check_array(images, (count, side, side, 3), np.uint8, file)
            _check_array(labels, (count, len(factors)), np.floating, file)
            check_labels(labels[:], factors, str(file))
        except InputError:
            raise
        except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and others for damaged files
            raise InputError(f"{str(file)!r} can't be read as {name}'s HDF5 file: {first_line(error)}") from error
        self._images = images

    def images(self, places: Tensor) -> Tensor:
        """Images (N, 3, H, W) at places (N,) in the grid."""
        # h5py reads rows only in rising order, and each once.
        rows, place = np.unique(places.cpu().numpy(), return_inverse=True)
        try:
            read = self._images[rows]
        except Exception as error:
            raise InputError(f"images of {str(self._file)!r} can't be read: {first_line(error)}") from error
        return send(torch.from_numpy(read[place]), places).permute(0, 3, 1, 2).float() / 255


def _check_array(array: Any, shape: tuple[int, ...], kind: type[np.generic], file: Path) -> None:
    """Raise InputError unless an array in an HDF5 file has this shape and kind, and can be read in small pieces.

    The check reads no values. An array may refer to data in other files: such data are refused.
    """
    what = f"{str(file)!r} has {array.name.strip('/')}"
    if array.shape != shape or not np.issubdtype(array.dtype, kind):
        raise InputError(f"{what} {array.shape} of {array.dtype}, expected {shape} of {kind.__name__}")
    if array.is_virtual or array.external or Path(array.file.filename) != file:
        raise InputError(f"{what} in another file: expected the data in this one")
    piece = math.prod(array.chunks or (0,)) * array.dtype.itemsize
    if piece > min(_LARGEST_CHUNK, max(_ALWAYS_ALLOWED, _DEFLATE_LIMIT * file.stat().st_size)):
        raise InputError(f"{what} stored in pieces of {array.chunks}, too large to read one by one")
    if array.chunks is not None:
        _check_pieces(array, piece, what)


def _check_pieces(array: Any, piece: int, what: str) -> None:
    """Raise InputError if pieces of an array inflate to more than they should: HDF5 would hold them whole.

    Only pieces whose stored bytes could inflate beyond the limit are inflated here, and none further than that.

    Args:
        array: the array.
        piece: the bytes of each piece.
        what: the array in words.
    """
    plan = array.id.get_create_plist()
    filters = [plan.get_filter(place)[0] for place in range(plan.get_nfilters())]
    packers = [code for code in filters if code not in _SAME_SIZE]
    if len(packers) > 1 or set(packers) - {_DEFLATE, _LZF}:
        raise InputError(f"{what} compressed twice, or by another method than gzip: write it anew with gzip")
    suspects: list[Any] = []

    def look(stored: Any) -> None:
        if stored.size * _DEFLATE_LIMIT > _LARGEST_CHUNK:
            suspects.append(stored)

    array.id.chunk_iter(look)
    for stored in suspects:
        if stored.size > piece + piece // 50 + 64:  # what can't be compressed grows a little
            raise InputError(f"{what} stored in pieces of {stored.size} bytes, expected at most {piece}")
        if _DEFLATE in packers:
            packed = array.id.read_direct_chunk(stored.chunk_offset)[1]
            if len(zlib.decompressobj().decompress(packed, piece + _CHECKSUM + 1)) > piece + _CHECKSUM:
                raise InputError(f"{what} stored in pieces that inflate beyond their {piece} bytes: download it again")


class NumberedImages:
    """A grid's images in files images/000000.png and so on, with a file of labels (N, F). They are read on request."""

    def __init__(self, folder: Path, name: str, factors: Mapping[str, int], size: int) -> None:
        check_count(size, "size")
        self.name, self.factors, self.image_shape = name, dict(factors), (3, size, size)
        self.note = f"{name} of {str(folder)!r}"
        self._folder = folder / "images"
        labels = folder / LABELS
        if not labels.is_file():
            raise InputError(f"{str(folder)!r} has no {LABELS}: expected it beside the folder images")
        count = math.prod(factors.values())
        try:
            check_labels(mapped_array(labels, (count, len(factors)), "f"), factors, str(labels))
        except OSError as error:
            raise InputError(f"{str(labels)!r} can't be read: {error.strerror or error}") from error
        for place in (0, count - 1):
            self._read(place)

    def images(self, places: Tensor) -> Tensor:
        """Images (N, 3, size, size) at places (N,) in the grid."""
        images = torch.stack([self._read(place) for place in places.tolist()])
        return send(images, places).float() / 255

    def _read(self, place: int) -> Tensor:
        return read_picture(self._folder / f"{place:06}.png", self.image_shape[-1])
