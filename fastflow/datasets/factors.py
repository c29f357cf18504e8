"""Data sets on a grid of factors, with one image for each combination; their transformations change a factor."""

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
    """The images of a grid of factors.

    Attributes:
        name: the data set's name. image_shape: (C, H, W).
        factors: the number of values of each factor, by name; the last factor changes fastest.
        note: the origin of the images.
    """

    name: str
    image_shape: tuple[int, int, int]
    factors: dict[str, int]
    note: str

    def images(self, places: Tensor) -> Tensor:
        """Images (N, C, H, W), float32 in [0, 1], at places (N,) long in the grid, on their device."""
        ...


class FactorSequences:
    """A grid's images as sequences: a walk goes along one factor, from its first value to its last.

    A walk has the starting image's values of all other factors. Its place 0 is the factor's first value, whichever
    value the starting image has, and place 1 is its last; between them the nearest value is taken. The walks of one
    split have no image in common with those of the other: see `held_apart`.

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
        axes = [names.index(name) for name in self.transformations]
        starts, groups = held_apart(tuple(sizes), tuple(axes))
        kinds, group = groups.unique(return_inverse=True)
        if len(kinds) < 2:
            raise InputError(
                f"data set {source.name} can't hold out walks along {' and '.join(self.transformations)}: they cross "
                "all of its images; leave out a factor, or walk along three or more"
            )
        self._starts = starts[torch.isin(group, rows_of(split, len(kinds)))]
        self.note = (
            f"{source.note}; the {split} split walks from {len(self._starts)} of {math.prod(sizes)} images, drawn with "
            "seed 0 so that no walk meets one of the other split"
        )
        self._sizes = torch.tensor([sizes[i] for i in axes])
        self._strides = torch.tensor([math.prod(sizes[i + 1 :]) for i in axes])

    def __len__(self) -> int:
        return len(self._starts)

    def factors_of(self, rows: Tensor) -> Tensor:
        """The factors' values (B, F) long of starting images (B,), in the order of `source.factors`."""
        return coordinates(send(self._starts, rows)[rows], self.source.factors)

    def starts(self, rows: Tensor) -> Tensor:
        """The starting images (B, C, H, W) of rows (B,), unmoved."""
        return self.source.images(send(self._starts, rows)[rows])

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W) with the factor's value at `place`; see `Sequences.frames`."""
        check_request(self, rows, transformation, place)
        if self._starts.device != rows.device:
            self._starts, self._sizes, self._strides = (
                send(x, rows) for x in (self._starts, self._sizes, self._strides)
            )
        if transformation.ndim == 1:
            transformation, place = transformation[:, None], place[..., None]
        elif transformation.device.type == "cpu" and bool((transformation.sort(1).values.diff(dim=1) == 0).any()):
            raise InputError("transformation must name each factor once for an image: a factor has one value")
        size, stride = self._sizes[transformation][:, None], self._strides[transformation][:, None]  # [B, 1, M]
        start = self._starts[rows][:, None]  # [B, 1]
        value = (place * (size - 1) + 0.5).long()  # [B, P, M]
        places = start + ((value - start[..., None] // stride % size) * stride).sum(-1)
        return self.source.images(places.flatten()).unflatten(0, places.shape)


def held_apart(sizes: tuple[int, ...], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Places (N,) in a grid to walk from, and a group (N,) for each: walks of different groups share no image.

    A walk along factor i and a walk along factor j meet if their starts agree in all factors but i and j. Starts of
    different groups must therefore differ in a factor along which there are no walks, or in three factors with walks.
    With walks along three factors or more, the starts are those whose values, modulo a prime, form a codeword of a
    Hamming code (Hamming, 1950), because any two codewords differ in three places. For dSprites' four factors that is
    a ninth of the grid, and the walks pass through all of it. With walks along one or two factors, all images are
    starts, grouped by their other factors.

    Args:
        sizes: the number of values of each factor; the last factor changes fastest.
        axes: the numbers of the factors along which there are walks.
    """
    values = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes))  # (F, N)
    fixed = [i for i in range(len(sizes)) if i not in axes]
    group = np.zeros(values.shape[1], dtype=np.int64)
    for i in fixed:
        group = group * sizes[i] + values[i]
    places = np.arange(len(group))
    if len(axes) > 2:
        prime = next(p for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31) if p + 1 >= len(axes))
        code = values[list(axes)] % prime
        # The columns (1, 0), (1, 1), .. and (0, 1) of the parity checks are pairwise independent: distance three.
        slopes = np.arange(len(axes) - 1)[:, None]
        checks = code[:-1].sum(0) % prime, ((slopes * code[:-1]).sum(0) + code[-1]) % prime
        places = np.flatnonzero((checks[0] == 0) & (checks[1] == 0))
        for digit in code:
            group = group * prime + digit
    return torch.from_numpy(places), torch.from_numpy(group[places])


def coordinates(places: Tensor, factors: Mapping[str, int]) -> Tensor:
    """The factors' values (N, F) long at places (N,) in their grid."""
    return torch.stack(torch.unravel_index(places, tuple(factors.values())), -1)


def check_labels(labels: np.ndarray, factors: Mapping[str, int], file: str) -> None:
    """Raise InputError unless labels (N, F) are the grid's values in its order; each factor's values are even steps."""
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
        # The values in steps from the first to the last. NaN and infinity differ from every expected step.
        with np.errstate(all="ignore"):
            steps = (column - low) / ((high - low) / max(size - 1, 1) or 1.0)
        if not np.all(np.abs(steps - expected) < 0.25):
            raise InputError(f"{file!r} has labels of {name} that don't follow the published order of its images")
