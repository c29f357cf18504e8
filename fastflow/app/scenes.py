"""What the page shows: a start, a film along a path from it, and a scene of one or two films."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.latents.ends import leaving
from fastflow.saved.edits import Edit


@dataclass(frozen=True)
class Start:
    """A latent to start from.

    Attributes:
        z: the latent (1, D).
        words: its name on the page.
        code: the expression in Python that gives it again; None for a drawing, whose latent is in a saved file only.
        label: its class, for a generator with classes.
    """

    z: Tensor
    words: str
    code: str | None
    label: int | None = None


@dataclass(frozen=True)
class Film:
    """A path both ways from a start, and its images.

    Attributes:
        latents: (T, D).
        images: (T, C, H, W) in [0, 1], grey or RGB: pictures of the images, see `Generator.pictured`.
        middle: the column of the start.
        title: the name of the path on the page.
        change: the mean absolute pixel change of a step.
        ends: the first and the last column at which the path is still among the data.
    """

    latents: Tensor
    images: Tensor
    middle: int
    title: str
    change: float
    ends: tuple[int, int]

    @property
    def leaving(self) -> str:
        """Where the path leaves the data, in words; empty if it doesn't."""
        return leaving([self.ends], self.middle, len(self.latents))

    @property
    def steps(self) -> range:
        """The steps from the start that the film shows; negative ones are those of the reverse flow."""
        return range(-self.middle, len(self.latents) - self.middle)


@dataclass(frozen=True)
class Scene:
    """Everything that the page shows at a time.

    Attributes:
        start: the latent that everything began with.
        before: the edit that was applied to it already.
        mix: the weights of the potentials along which the film goes.
        film: the film from there on.
        beside: the film of a baseline with equal strength.
        note: a remark on the films.
    """

    start: Start
    before: Edit | None
    mix: dict[int, float]
    film: Film
    beside: Film | None
    note: str

    @property
    def films(self) -> list[Film]:
        """The film, and the baseline's if there is one."""
        return [self.film] if self.beside is None else [self.film, self.beside]


def picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], grey or RGB, as a Pillow image."""
    pixels = image.detach().cpu().mul(255).round().to(torch.uint8).numpy()
    if len(pixels) not in (1, 3):
        raise InputError(f"images of 1 or 3 channels can be shown, got {len(pixels)}")
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
