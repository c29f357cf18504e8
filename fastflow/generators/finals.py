"""What may follow a generator's last layer."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Final(NamedTuple):
    """What follows a generator's last layer."""

    activation: type[nn.Module]
    value_range: tuple[float, float]
    """The images' darkest and brightest value then."""


FINALS = {
    "sigmoid": Final(nn.Sigmoid, (0.0, 1.0)),
    "tanh": Final(nn.Tanh, (-1.0, 1.0)),
    "none": Final(nn.Identity, (0.0, 1.0)),
}
"""Activations after the last layer, by the names that the option `final` takes."""
