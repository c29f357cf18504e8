"""The protocol of data sets, images that move along known transformations, and their train and test splits."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from fastflow.core.errors import InputError

Split = Literal["train", "test"]
HELD_OUT = 0.15


class Sequences(Protocol):
    """Starting images, each of which can move along each of a few transformations.

    Attributes:
        name: the data set's name. image_shape: (C, H, W).
        transformations: the names of the transformations; a transformation's number is its place among them.
        note: one sentence on the origin of the images and their split.
    """

    name: str
    image_shape: tuple[int, int, int]
    transformations: tuple[str, ...]
    note: str

    def __len__(self) -> int:
        """The number of starting images."""
        ...

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W), float32 in [0, 1], on the device of `rows`; every call returns the same.

        Image (b, p) is starting image rows[b], moved along transformation[b] to place[b, p].

        Args:
            rows: (B,) long.
            transformation: (B,) long; or (B, M), each for what the one before gives. Data sets of your own need the
                second form only to have compositions measured.
            place: (B, P) float in [0, 1], a fraction of the whole transformation: 0 is its start; or (B, P, M).
        """
        ...


class First:
    """A data set reduced to its first `count` starting images, or to all if it has fewer."""

    def __init__(self, data: Sequences, count: int) -> None:
        self._data, self._count = data, min(count, len(data))
        self.name, self.image_shape, self.transformations = data.name, data.image_shape, data.transformations
        self.note = f"{data.note}, of which the first {self._count}"

    def __len__(self) -> int:
        return self._count

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W); see `Sequences.frames`."""
        check_request(self, rows, transformation, place)
        return self._data.frames(rows, transformation, place)


def check_split(split: str) -> None:
    """Raise InputError unless `split` is the name of a split."""
    if split not in ("train", "test"):
        raise InputError(f"split must be 'train' or 'test', got {split!r}")


def rows_of(split: Split, count: int) -> Tensor:
    """The images of a split, (n,) long, out of `count`: the test split is 15%, at least one, drawn with seed 0."""
    check_split(split)
    if count < 2:
        raise InputError(f"a data set needs at least 2 images, so that one can be held out; there are {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    held_out = max(1, round(HELD_OUT * count))
    return (order[:held_out] if split == "test" else order[held_out:]).sort().values


def check_request(data: Sequences, rows: Tensor, transformation: Tensor, place: Tensor) -> None:
    """Raise InputError unless `data.frames` takes these arguments. The values of tensors on a GPU aren't checked."""
    batch = rows.shape[0] if isinstance(rows, Tensor) and rows.ndim else 0
    several = transformation.shape[1:2] if isinstance(transformation, Tensor) and transformation.ndim == 2 else ()
    _check_numbers(rows, (batch,), len(data), "rows")
    _check_numbers(transformation, (batch, *several), len(data.transformations), "transformation")
    fits = isinstance(place, Tensor) and place.is_floating_point() and place.ndim == 2 + len(several)
    if not fits or (place.shape[0], *place.shape[2:]) != (batch, *several):
        shape = ", ".join(map(str, (batch, "P", *several)))
        raise InputError(f"place must be a float tensor of shape ({shape}), got {_description(place)}")
    if not rows.device == transformation.device == place.device:
        raise InputError(
            f"rows, transformation and place must be on one device, got {rows.device}, {transformation.device} and "
            f"{place.device}"
        )
    if place.device.type == "cpu" and place.numel() and not bool(((place >= 0) & (place <= 1)).all()):
        raise InputError("place must lie in [0, 1]: it is a fraction of the whole transformation")


def check_names(names: tuple[str, ...]) -> None:
    """Raise InputError unless there is at least one name, and no name twice."""
    if isinstance(names, str) or not names:
        raise InputError(f"transformations must be a tuple with at least one name, got {names!r}")
    if len(set(names)) < len(names):
        raise InputError(f"transformations must differ, got {', '.join(names)}")


def _check_numbers(numbers: Tensor, shape: tuple[int, ...], count: int, name: str) -> None:
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.long or numbers.shape != shape:
        expected = ", ".join(map(str, (shape[0] or "B", *shape[1:]))) + "," * (len(shape) == 1)
        raise InputError(f"{name} must be a long tensor of shape ({expected}), got {_description(numbers)}")
    if numbers.device.type == "cpu" and numbers.numel():
        low, high = (int(bound) for bound in numbers.aminmax())
        if low < 0 or high >= count:
            raise InputError(f"{name} must lie in 0..{count - 1}, got values from {low} to {high}")


def _description(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
