"""Tables of codes and factors, which factor metrics take: their checks, their split into parts, and counts of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastflow.core.checks import check_seed
from fastflow.core.errors import InputError

Array = Tensor | np.ndarray
"""A tensor on any device, or a NumPy array."""

LEAST = 50
"""The number of samples that every metric needs at least."""


@dataclass(frozen=True)
class Sizes:
    """The numbers of samples in the training, validation and test parts; no sample is in two of them."""

    train: int
    validation: int
    test: int


class Rows(NamedTuple):
    """The row numbers of the samples in the three parts, each (n,)."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def sizes(self) -> Sizes:
        """The number of samples in each part."""
        return Sizes(*map(len, self))


def checked(
    codes: Array, factors: Array, seed: int, *, least_codes: int = 1, least_factors: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Check codes (N, d) and factors (N, F), and return them as float64 and int64.

    Raises:
        InputError: one of them isn't a finite matrix of the right kind, has a constant column, or has too few rows or
            columns; they differ in length; or the seed can't be used.
    """
    check_seed(seed)
    values, known = _matrix(codes, "codes", "float", "fiu"), _matrix(factors, "factors", "integer", "iu")
    if len(values) != len(known):
        raise InputError(f"codes and factors must have a row for each sample, got {len(values)} and {len(known)} rows")
    if len(values) < LEAST:
        raise InputError(f"a factor metric needs at least {LEAST} samples, got {len(values)}")
    values, known = values.astype(np.float64), known.astype(np.int64)
    strange = np.flatnonzero(~np.isfinite(values).all(0))
    if len(strange):
        raise InputError(f"codes must be finite, got NaN or infinity in column {strange[0]}")
    for name, columns, least in (("codes", values, least_codes), ("factors", known, least_factors)):
        # Rounding makes even a constant vary by some units in its last place.
        low, high = columns.min(0), columns.max(0)
        same = np.flatnonzero(high - low <= 1e-12 * np.maximum(abs(low), abs(high)))
        if len(same):
            raise InputError(f"{name} must vary, column {same[0]} is constant: leave it out")
        if columns.shape[1] < least:
            raise InputError(f"this metric needs at least {least} columns of {name}, got {columns.shape[1]}")
    return values, known


def numbered(factors: np.ndarray) -> np.ndarray:
    """Factors (N, F) in which each column's values are replaced by their numbers 0, 1, ... in sorted order."""
    return np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in factors.T], 1)


def check_categorical(categorical: Sequence[int], factors: np.ndarray) -> set[int]:
    """The columns of factors without an order, as a set; raise InputError unless all of them exist."""
    width = factors.shape[1]
    whole = isinstance(categorical, Sequence) and all(type(column) is int for column in categorical)
    if not whole or not all(0 <= column < width for column in categorical):
        raise InputError(f"categorical must be columns of factors in 0..{width - 1}, got {categorical!r}")
    return set(categorical)


def split(count: int, seed: int) -> Rows:
    """Split `count` samples at random: 60% for training, 20% for validation, 20% for the test."""
    order = np.random.default_rng((seed, 0)).permutation(count)
    return Rows(*np.split(order, [round(0.6 * count), round(0.8 * count)]))


def check_parts(factors: np.ndarray, columns: Iterable[int], rows: Rows) -> None:
    """Raise InputError where a factor is constant in a part, so that it can't be learned or measured there."""
    for part, place in zip(rows._fields, rows, strict=True):
        for column in columns:
            if (factors[place, column] == factors[place[0], column]).all():
                raise InputError(
                    f"factors must vary in every part, column {column} is constant in the {len(place)} samples of the "
                    f"{part} part: give more samples, or leave it out"
                )


def binned(codes: np.ndarray, bins: int) -> np.ndarray:
    """The bin 0 .. bins - 1 of each code, (N, d): bins of equal width between the extremes of its column."""
    low, high = codes.min(0), codes.max(0)
    return np.minimum((bins * (codes - low) / (high - low)).astype(np.int64), bins - 1)


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The mutual information I(z_i; v_f) in nats, (d, F), of whole numbers (N, d) and (N, F), from frequencies."""
    return np.array([[_information(z, v) for v in factors.T] for z in codes.T])


def entropy(factors: np.ndarray) -> np.ndarray:
    """The entropy H(v_f) in nats, (F,), of whole numbers (N, F), from frequencies."""
    return np.array([_information(v, v) for v in factors.T])


def gaps(table: np.ndarray) -> np.ndarray:
    """The largest entry minus the second largest of each column (d, F), (F,); the second is 0 if there is one row."""
    ordered = np.sort(np.vstack((np.zeros(table.shape[1]), table)), 0)
    return ordered[-1] - ordered[-2]


def _information(z: np.ndarray, v: np.ndarray) -> float:
    """The mutual information of two columns of whole numbers, in nats."""
    width = int(v.max()) + 1
    joint = np.bincount(z * width + v, minlength=(int(z.max()) + 1) * width).reshape(-1, width) / len(z)
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _matrix(values: Any, name: str, kind: str, kinds: str) -> np.ndarray:
    """The values as an array; raise InputError unless they are a matrix of this kind, given by NumPy's letters."""
    matrix = values
    if isinstance(values, Tensor) and values.layout == torch.strided:
        # NumPy has no bfloat16.
        matrix = (values.double() if values.is_floating_point() else values).detach().cpu().numpy()
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in kinds:
        shown = (
            f"{values.dtype} {tuple(values.shape)}"
            if isinstance(values, (Tensor, np.ndarray))
            else type(values).__name__
        )
        raise InputError(f"{name} must be a tensor or array of shape (N, columns), {kind}, got {shown}")
    if 0 in matrix.shape:
        raise InputError(f"{name} must have rows and columns, got shape {matrix.shape}")
    return matrix
