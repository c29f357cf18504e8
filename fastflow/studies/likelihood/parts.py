"""Parts of what a data set has to show: trainings see no more, and are measured on the rest of it."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from fastflow.core.devices import send
from fastflow.core.errors import InputError
from fastflow.datasets import FactorSequences, Sequences
from fastflow.datasets.base import check_request

REACH = Fraction(2, 3)
"""How far paths go, as a share of the whole transformations."""


class Part:
    """A data set whose paths end at `REACH` of their way.

    Args:
        data: the whole data set, whose images have kinds; see `kinds_of`.
        withheld: whether the last kind of images never moves along the first transformation. In its place moves the
            image that follows in the data set and is of another kind.
    """

    def __init__(self, data: Sequences, *, withheld: bool) -> None:
        self._data = data
        self.name, self.image_shape, self.transformations = data.name, data.image_shape, data.transformations
        self.note = f"{data.note}, whose paths end at {REACH} of their way"
        self._shown = torch.arange(len(data))
        if withheld:
            self.note += f", and of which one kind doesn't move by {self.transformations[0]}"
            hidden = is_withheld(data)
            others = (~hidden).nonzero()[:, 0]
            following = others[torch.searchsorted(others, self._shown) % len(others)]
            self._shown = torch.where(hidden, following, self._shown)

    def __len__(self) -> int:
        return len(self._data)

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W); see `Sequences.frames`."""
        check_request(self, rows, transformation, place)
        first = (transformation == 0).view(len(rows), -1).any(1)
        shown = torch.where(first, send(self._shown, rows)[rows], rows)
        return self._data.frames(shown, transformation, place * float(REACH))


def kinds_of(data: Sequences) -> Tensor:
    """The kind of each starting image, (N,) long from 0 on: its label, or its value of the first factor that stays.

    Raises:
        InputError: the images have neither, or are all of one kind.
    """
    kinds = getattr(data, "labels", None)
    if isinstance(data, FactorSequences):
        factors = enumerate(data.source.factors.items())
        staying = [place for place, (name, size) in factors if size > 1 and name not in data.transformations]
        kinds = data.factors_of(torch.arange(len(data)))[:, staying[0]] if staying else None
    if kinds is None or len(kinds.unique()) < 2:
        raise InputError(f"data set {data.name} must have labels, or a factor that stays, of two values or more")
    return kinds.unique(return_inverse=True)[1]


def is_withheld(data: Sequences) -> Tensor:
    """Whether each starting image is of the last kind, which `Part` withholds, (N,) bool."""
    kinds = kinds_of(data)
    return kinds == kinds.max()
