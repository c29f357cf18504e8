"""Data sets that are a grid of factors, one image for each combination: their transformations are the factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastflow.datasets.base import Split, check_names, check_request, rows_of
from fastflow.devices import send
from fastflow.errors import InputError


class FactorImages(Protocol):
    """The images of a grid, however they are come by.

    Attributes:
        name: the data set's. image_shape: (C, H, W). factors: how many values each has, by name, the last changing
            fastest. note: where the images come from.
    """

    name: str
    image_shape: tuple[int, int, int]
    factors: dict[str, int]
    note: str

    def images(self, places: Tensor) -> Tensor:
        """Images (N, C, H, W), float32 in [0, 1], at places (N,) long in the grid, on their device."""
        ...


class FactorSequences:
    """A grid's images, each of which can walk along each of a few factors, from its first value to its last.

    A walk keeps the starting image's other factors. Its place 0 is the factor's first value, whichever the starting
    image has, and place 1 its last; in between the nearest value counts. Every walk passes through images of both
    splits: a full grid has no others.

    Attributes:
        source: the images. name, image_shape, transformations, note: see `Sequences`.
    """

    def __init__(self, source: FactorImages, split: Split, transformations: tuple[str, ...]) -> None:
        check_names(transformations)
        walkable = [factor for factor, size in source.factors.items() if size > 1]
        for name in transformations:
            if name not in walkable:
                raise InputError(f"data set {source.name} has no factor {name!r} to walk along; it has {walkable}")
        self.source, self.name, self.image_shape = source, source.name, source.image_shape
        self.transformations = tuple(transformations)
        count = math.prod(source.factors.values())
        self._starts = rows_of(split, count)
        self.note = f"{source.note}; the {split} split is {len(self._starts)} of {count} images, drawn with seed 0"
        names, sizes = list(source.factors), list(source.factors.values())
        walked = [names.index(name) for name in self.transformations]
        self._sizes = torch.tensor([sizes[i] for i in walked])
        self._strides = torch.tensor([math.prod(sizes[i + 1 :]) for i in walked])

    def __len__(self) -> int:
        return len(self._starts)

    def factors_of(self, rows: Tensor) -> Tensor:
        """The factors' values (B, F) long of starting images (B,), in the order of `source.factors`."""
        return coordinates(send(self._starts, rows)[rows], self.source.factors)

    def starts(self, rows: Tensor) -> Tensor:
        """The starting images (B, C, H, W) of rows (B,), each with all its own factors."""
        return self.source.images(send(self._starts, rows)[rows])

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W) of the factor's value at `place`; see `Sequences.frames`."""
        check_request(self, rows, transformation, place)
        if self._starts.device != rows.device:
            self._starts, self._sizes, self._strides = (
                send(x, rows) for x in (self._starts, self._sizes, self._strides)
            )
        size, stride = self._sizes[transformation][:, None], self._strides[transformation][:, None]  # [B, 1]
        start = self._starts[rows][:, None]
        value = (place * (size - 1) + 0.5).long()  # [B, P]
        places = start + (value - start // stride % size) * stride
        return self.source.images(places.flatten()).unflatten(0, places.shape)


def coordinates(places: Tensor, factors: Mapping[str, int]) -> Tensor:
    """The factors' values (N, F) long at places (N,) in their grid."""
    return torch.stack(torch.unravel_index(places, tuple(factors.values())), -1)


def check_labels(labels: np.ndarray, factors: Mapping[str, int], file: str) -> None:
    """Raise InputError unless labels (N, F) are the grid's values in its order, evenly spaced in whatever range."""
    count = math.prod(factors.values())
    if labels.shape != (count, len(factors)) or labels.dtype.kind != "f":
        raise InputError(
            f"{file!r} must have labels of shape ({count}, {len(factors)}), floats, got {labels.dtype} {labels.shape}"
        )
    stride = count
    for (name, size), column in zip(factors.items(), labels.T, strict=True):
        stride //= size
        low, high = float(column[0]), float(column[-1])
        expected = np.arange(count) // stride % size
        # In steps from the first value to the last; NaN is no whole number, and neither is what overflows.
        with np.errstate(all="ignore"):
            steps = (column - low) / ((high - low) / max(size - 1, 1) or 1.0)
        if not np.all(np.abs(steps - expected) < 0.25):
            raise InputError(f"{file!r} has labels of {name} that don't follow the published order of its images")
