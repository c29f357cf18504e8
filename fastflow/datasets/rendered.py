"""3D Shapes, Falcor3D and Isaac3D: rendered scenes, one for each combination of factors, out of their public files."""

from __future__ import annotations

import math
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
from fastflow.datasets.npy import check_header
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
# Bytes of an array that HDF5 reads at once. Deflate makes at most 1,032 of one; four million are little.
_LARGEST_CHUNK, _DEFLATE_LIMIT, _ALWAYS_ALLOWED = 1 << 28, 1032, 1 << 22


def shapes3d(
    root: Path | str,
    split: Split = "train",
    transformations: tuple[str, ...] = ("floor-hue", "wall-hue", "object-hue", "scale", "orientation"),
) -> FactorSequences:
    """3D Shapes (C. Burgess, H. Kim): 480,000 images of 64 x 64, from 3dshapes.h5 in the folder `root`.

    Raises:
        InputError: the file isn't there or isn't what it should be, h5py isn't installed, or an argument can't be used.
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
        size: side to which the images are resized, in pixels.

    Raises:
        InputError: files are missing or not what they should be, or an argument can't be used.
    """
    return FactorSequences(NumberedImages(Path(root), "falcor3d", FALCOR3D, size), split, transformations)


def isaac3d(
    root: Path | str, split: Split = "train", transformations: tuple[str, ...] = tuple(ISAAC3D)[1:], *, size: int = 64
) -> FactorSequences:
    """Isaac3D (NVIDIA): 737,280 images of a kitchen, from the folder `root` with images/ and train-rec.labels.

    Args:
        size: side to which the images are resized, in pixels.

    Raises:
        InputError: files are missing or not what they should be, or an argument can't be used.
    """
    return FactorSequences(NumberedImages(Path(root), "isaac3d", ISAAC3D, size), split, transformations)


class HDF5Images:
    """A grid's images in an HDF5 file: images (N, H, W, 3) uint8 and labels (N, F). Read when asked for, by rows."""

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
        except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and others for what is damaged
            raise InputError(f"{str(file)!r} can't be read as {name}'s HDF5 file: {first_line(error)}") from error
        self._images = images

    def images(self, places: Tensor) -> Tensor:
        """Images (N, 3, H, W) at places (N,) in the grid."""
        # h5py reads rows in order, each once.
        rows, place = np.unique(places.cpu().numpy(), return_inverse=True)
        try:
            read = self._images[rows]
        except Exception as error:
            raise InputError(f"images of {str(self._file)!r} can't be read: {first_line(error)}") from error
        return send(torch.from_numpy(read[place]), places).permute(0, 3, 1, 2).float() / 255


def _check_array(array: Any, shape: tuple[int, ...], kind: type[np.generic], file: Path) -> None:
    """Raise InputError unless an array of an HDF5 file is of this shape and kind, and can be read in small pieces.

    Only its description is looked at. Data in other files, which such an array may name, are never read.
    """
    what = f"{str(file)!r} has {array.name.strip('/')}"
    if array.shape != shape or not np.issubdtype(array.dtype, kind):
        raise InputError(f"{what} {array.shape} of {array.dtype}, expected {shape} of {kind.__name__}")
    if array.is_virtual or array.external or Path(array.file.filename) != file:
        raise InputError(f"{what} in another file: expected the data in this one")
    piece = math.prod(array.chunks or (0,)) * array.dtype.itemsize
    if piece > min(_LARGEST_CHUNK, max(_ALWAYS_ALLOWED, _DEFLATE_LIMIT * file.stat().st_size)):
        raise InputError(f"{what} stored in pieces of {array.chunks}, too large to read one by one")


class NumberedImages:
    """A grid's images as files images/000000.png and so on, and labels (N, F) beside them. Read when asked for."""

    def __init__(self, folder: Path, name: str, factors: Mapping[str, int], size: int) -> None:
        check_count(size, "size")
        self.name, self.factors, self.image_shape = name, dict(factors), (3, size, size)
        self.note = f"{name} of {str(folder)!r}"
        self._folder = folder / "images"
        labels = folder / LABELS
        if not labels.is_file():
            raise InputError(f"{str(folder)!r} has no {LABELS}: expected it beside the folder images")
        count = math.prod(factors.values())
        shape = (count, len(factors))
        try:
            with labels.open("rb") as stream:
                dtype = check_header(stream, f"{str(labels)!r}", shape, "f")
                if labels.stat().st_size != stream.tell() + math.prod(shape) * dtype.itemsize:
                    raise InputError(f"{str(labels)!r} is longer or shorter than its header says: fetch it again")
                check_labels(np.frombuffer(stream.read(), dtype).reshape(shape), factors, str(labels))
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
