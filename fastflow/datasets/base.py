"""What a data set of this package is: images that move along known transformations, and how they are split."""

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
        name: the data set's. image_shape: (C, H, W). transformations: their names; a transformation's number is its
            place among them. note: in one sentence, where the images come from and how they are split.
    """

    name: str
    image_shape: tuple[int, int, int]
    transformations: tuple[str, ...]
    note: str

    def __len__(self) -> int:
        """The number of starting images."""
        ...

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W), float32 in [0, 1], on the device of `rows`, the same in every call.

        Image b, p is starting image rows[b], moved along transformation[b] to place[b, p].

        Args:
            rows: (B,) long. transformation: (B,) long. place: (B, P) float in [0, 1], a share of the whole
                transformation: 0 is its start.
        """
        ...


class First:
    """The first `count` starting images of a data set, or all if there are fewer; otherwise the same."""

    def __init__(self, data: Sequences, count: int) -> None:
        self._data, self._count = data, min(count, len(data))
        self.name, self.image_shape, self.transformations = data.name, data.image_shape, data.transformations
        self.note = f"{data.note}, of which the first {self._count}"

    def __len__(self) -> int:
        return self._count

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """See `Sequences`."""
        check_request(self, rows, transformation, place)
        return self._data.frames(rows, transformation, place)


def check_split(split: str) -> None:
    """Raise InputError unless this names a split."""
    if split not in ("train", "test"):
        raise InputError(f"split must be 'train' or 'test', got {split!r}")


def rows_of(split: Split, count: int) -> Tensor:
    """Which of `count` images belong to a split, (n,) long: 15% are held out, drawn with seed 0, and at least one."""
    check_split(split)
    if count < 2:
        raise InputError(f"a data set needs at least 2 images, so that one can be held out; there are {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    held_out = max(1, round(HELD_OUT * count))
    return (order[:held_out] if split == "test" else order[held_out:]).sort().values


def check_request(data: Sequences, rows: Tensor, transformation: Tensor, place: Tensor) -> None:
    """Raise InputError unless these are what `data.frames` takes; what lies on a GPU is looked at in shape alone."""
    batch = rows.shape[0] if isinstance(rows, Tensor) and rows.ndim else 0
    _check_numbers(rows, batch, len(data), "rows")
    _check_numbers(transformation, batch, len(data.transformations), "transformation")
    if not isinstance(place, Tensor) or not place.is_floating_point() or place.ndim != 2 or place.shape[0] != batch:
        raise InputError(f"place must be a float tensor of shape ({batch}, P), got {_description(place)}")
    if not rows.device == transformation.device == place.device:
        raise InputError(
            f"rows, transformation and place must be on one device, got {rows.device}, {transformation.device} and "
            f"{place.device}"
        )
    if place.device.type == "cpu" and place.numel() and not bool(((place >= 0) & (place <= 1)).all()):
        raise InputError("place must lie in [0, 1], a share of the whole transformation")


def check_names(names: tuple[str, ...]) -> None:
    """Raise InputError unless these are names, at least one, none of them twice."""
    if isinstance(names, str) or not names:
        raise InputError(f"transformations must be a tuple with at least one name, got {names!r}")
    if len(set(names)) < len(names):
        raise InputError(f"transformations must differ, got {', '.join(names)}")


def _check_numbers(numbers: Tensor, batch: int, count: int, name: str) -> None:
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.long or numbers.shape != (batch,):
        raise InputError(f"{name} must be a long tensor of shape ({batch or 'B'},), got {_description(numbers)}")
    if numbers.device.type == "cpu" and batch:
        low, high = (int(bound) for bound in numbers.aminmax())
        if low < 0 or high >= count:
            raise InputError(f"{name} must lie in 0..{count - 1}, got values from {low} to {high}")


def _description(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
