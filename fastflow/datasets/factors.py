"""Data sets that are a grid of factors, one image for each combination: their transformations are the factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastflow.core.devices import send
from fastflow.core.errors import InputError
from fastflow.datasets.base import Split, check_names, check_request, rows_of


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
    image has, and place 1 its last; in between the nearest value counts. No walk of one split meets a walk of the
    other: see `held_apart`.

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
        names, sizes = list(source.factors), list(source.factors.values())
        walked = [names.index(name) for name in self.transformations]
        starts, groups = held_apart(tuple(sizes), tuple(walked))
        kinds, group = groups.unique(return_inverse=True)
        if len(kinds) < 2:
            raise InputError(
                f"data set {source.name} can't hold out walks along {' and '.join(self.transformations)}: they cross "
                "all of its images; leave a factor that isn't walked, or walk along three or more"
            )
        self._starts = starts[torch.isin(group, rows_of(split, len(kinds)))]
        self.note = (
            f"{source.note}; the {split} split walks from {len(self._starts)} of {math.prod(sizes)} images, drawn with "
            "seed 0 so that no walk meets one of the other split"
        )
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


def held_apart(sizes: tuple[int, ...], walked: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Places (N,) in a grid to walk from, and the group (N,) of each: walks of different groups share no image.

    A walk along factor i and a walk along factor j meet where their starts agree in all factors but i and j. Starts of
    two groups therefore differ in a factor that nobody walks along, or in three that are walked. With three walked
    factors or more, the starts are those whose values, modulo a prime, form a codeword of a Hamming code (Hamming,
    1950), any two of which differ in three places; of dSprites' four factors that is a ninth of the grid, and their
    walks pass through all of it. With one or two, all images are starts, in groups by their other factors.

    Args:
        sizes: how many values each factor has, the last changing fastest. walked: which factors are walked along.
    """
    values = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes))  # (F, N)
    still = [i for i in range(len(sizes)) if i not in walked]
    group = np.zeros(values.shape[1], dtype=np.int64)
    for i in still:
        group = group * sizes[i] + values[i]
    places = np.arange(len(group))
    if len(walked) > 2:
        prime = next(p for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31) if p + 1 >= len(walked))
        code = values[list(walked)] % prime
        # Columns (1, 0), (1, 1), .. and (0, 1) of the checks, no two of them proportional: distance three.
        slopes = np.arange(len(walked) - 1)[:, None]
        checks = code[:-1].sum(0) % prime, ((slopes * code[:-1]).sum(0) + code[-1]) % prime
        places = np.flatnonzero((checks[0] == 0) & (checks[1] == 0))
        for digit in code:
            group = group * prime + digit
    return torch.from_numpy(places), torch.from_numpy(group[places])


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
