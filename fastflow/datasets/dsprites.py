"""dSprites: white sprites on black, one for each combination of shape, scale, orientation and position.

The grid is that of github.com/google-deepmind/dsprites-dataset. Its images are read from the official file, or drawn
here without it.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastflow.core.errors import InputError
from fastflow.datasets.base import Split
from fastflow.datasets.factors import FactorImages, FactorSequences
from fastflow.datasets.npy import member_rows

FACTORS = {"color": 1, "shape": 3, "scale": 6, "orientation": 40, "position-x": 32, "position-y": 32}
"""The number of values of each factor, in the order of the file; the last factor changes fastest."""
SHAPES = ("square", "ellipse", "heart")
SCALES, ORIENTATIONS = np.linspace(0.5, 1, FACTORS["scale"]), np.linspace(0, 2 * math.pi, FACTORS["orientation"])
OFFICIAL_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SIDE = 64
TRANSFORMATIONS = ("orientation", "scale", "position-x", "position-y")

_PIXELS = SIDE * SIDE
_MARGIN = 16  # the least distance in pixels between the frame and a sprite's centre
_WINDOW = 2 * _MARGIN + 1  # the side of a sprite's own square of pixels, with its centre in the middle
_SAMPLES = 5  # per pixel and axis; odd, so that no pixel is half covered
_LAST = (FACTORS["position-y"] - 1) * SIDE + FACTORS["position-x"] - 1  # pixels from the first position to the last


def dsprites(
    root: Path | str | None = None,
    split: Split = "train",
    transformations: tuple[str, ...] = TRANSFORMATIONS,
    size: int = SIDE,
) -> FactorSequences:
    """dSprites, from the official file in the folder `root`, or drawn if `root` is None.

    Args:
        root, split, transformations: as for `fastflow.datasets.load`.
        size: the side of the images: 64, or 32 for images of a quarter of the pixels, see `HalvedSprites`.

    Raises:
        InputError: the folder doesn't have the file, the file is damaged, or an argument can't be used.
    """
    if size not in (SIDE, SIDE // 2) or isinstance(size, bool):
        raise InputError(f"size must be {SIDE} or {SIDE // 2} for dsprites, got {size!r}")
    source = _source(root)
    return FactorSequences(source if size == SIDE else HalvedSprites(source), split, transformations)


def _source(root: Path | str | None) -> FactorImages:
    """The images of the official file, or drawn ones."""
    if root is None:
        return DrawnSprites()
    file = Path(root) / OFFICIAL_FILE
    if not file.is_file():
        raise InputError(
            f"{str(root)!r} has no {OFFICIAL_FILE}: put it there, or name no folder to have the sprites drawn"
        )
    return SpritesFile(file)


class DrawnSprites:
    """The grid's images, drawn here: a pixel is white if the sprite covers more than half of it.

    Scales are 0.5 to 1 and orientations 0 to 360 degrees anticlockwise, both ends included; x goes right and y down.
    The 32 positions are a pixel apart, so that a sprite of one shape, scale and orientation has the same pixels at all
    of them. These 720 sprites are drawn once, and each image is a copy of one of them. The shapes have equal areas, but
    not the official sizes: pixels differ from those of the official images.
    """

    name, image_shape, factors = "dsprites", (1, SIDE, SIDE), FACTORS
    note = "dSprites, drawn"

    def __init__(self) -> None:
        self._sprites = _first_images()

    def images(self, places: Tensor) -> Tensor:
        """Images (N, 1, 64, 64) of zeros and ones, at places (N,) in the grid."""
        if self._sprites.device != places.device:
            self._sprites = self._sprites.to(places.device)
        y, x = places % FACTORS["position-y"], places // FACTORS["position-y"] % FACTORS["position-x"]
        sprite = places // (FACTORS["position-x"] * FACTORS["position-y"])
        # A sprite moves by n pixels if its image begins n pixels earlier in memory.
        first = sprite * (_LAST + _PIXELS) + _LAST - (SIDE * y + x)
        return self._sprites.unfold(0, _PIXELS, 1)[first].float().view(-1, *self.image_shape)


class SpritesFile:
    """The grid's images from the official npz file, stored in one bit per pixel: 377 MB for 737,280 images.

    The factors' values in the file are read too, to check that the images are in the published order.

    Attributes:
        factors: the number of values of each factor; the published numbers unless others are given.
    """

    name, image_shape = "dsprites", (1, SIDE, SIDE)

    def __init__(self, file: Path, factors: dict[str, int] | None = None) -> None:
        self.factors = FACTORS if factors is None else factors
        self.note = f"dSprites of {str(file)!r}"
        try:
            with zipfile.ZipFile(file) as archive:
                _check_classes(archive, tuple(self.factors.values()))
                self._bits = _packed_images(archive, math.prod(self.factors.values()))
        # NotImplementedError is what zipfile raises for a compression that it doesn't know.
        except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
            raise InputError(
                f"{str(file)!r} isn't an npz archive, or is damaged ({error}): download it again"
            ) from error
        except OSError as error:
            raise InputError(f"{str(file)!r} can't be read: {error.strerror or error}") from error
        self._unpacked = torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)).float()

    def images(self, places: Tensor) -> Tensor:
        """Images (N, 1, 64, 64) of zeros and ones, at places (N,) in the grid."""
        if self._bits.device != places.device:
            self._bits, self._unpacked = self._bits.to(places.device), self._unpacked.to(places.device)
        return self._unpacked[self._bits[places].int()].view(-1, *self.image_shape)


class HalvedSprites:
    """The grid's images with half the side: a pixel is white if at least two of the four that it stands for are."""

    def __init__(self, source: FactorImages) -> None:
        self._source = source
        self.name, self.factors = source.name, source.factors
        self.image_shape: tuple[int, int, int] = (1, SIDE // 2, SIDE // 2)
        self.note = f"{source.note}, with {SIDE // 2} x {SIDE // 2} pixels"

    def images(self, places: Tensor) -> Tensor:
        """Images (N, 1, 32, 32) of zeros and ones, at places (N,) in the grid."""
        return (avg_pool2d(self._source.images(places), 2) >= 0.5).float()


def covers(shape: str, right: Tensor, up: Tensor) -> Tensor:
    """Whether an upright shape of scale 1 with its centroid at the origin covers points, in pixels from the origin.

    All three shapes have an area of about 475 pixels, and their points are at most 15.5 pixels from the centroid.
    """
    if shape == "square":
        return torch.maximum(right.abs(), up.abs()) <= 10.9
    if shape == "ellipse":
        return (right / 15.2) ** 2 + (up / 9.95) ** 2 <= 1
    # The sextic (x^2 + y^2 - 1)^3 = x^2 y^3, whose centroid is at y = 0.2935.
    x, y = right / 11.4, up / 11.4 + 0.2935
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


def draw_sprite(shape: str, scale: float, angles: Tensor) -> Tensor:
    """Sprites (A, 33, 33) uint8 of zeros and ones, rotated anticlockwise by angles (A,) in radians."""
    samples = (torch.arange(_WINDOW * _SAMPLES, dtype=torch.float64) - (_WINDOW * _SAMPLES - 1) / 2) / _SAMPLES
    right, up = samples / scale, -samples[:, None] / scale  # [33 S], [33 S, 1]
    cos, sin = angles.double().cos()[:, None, None], angles.double().sin()[:, None, None]
    covered = covers(shape, cos * right + sin * up, cos * up - sin * right)  # [A, 33 S, 33 S]
    area = covered.unflatten(2, (_WINDOW, _SAMPLES)).unflatten(1, (_WINDOW, _SAMPLES)).sum((2, 4))
    return (2 * area > _SAMPLES**2).to(torch.uint8)


@cache
def _first_images() -> Tensor:
    """The images of the 720 sprites at the first position, in one row of bytes (720 (2015 + 4096),).

    Before each image are the black pixels that enter the frame as the sprite moves to the last position.
    """
    angles = torch.from_numpy(ORIENTATIONS)
    sprites = torch.stack([torch.stack([draw_sprite(shape, scale, angles) for scale in SCALES]) for shape in SHAPES])
    images = torch.zeros(*sprites.shape[:3], SIDE, SIDE, dtype=torch.uint8)
    images[..., :_WINDOW, :_WINDOW] = sprites
    return torch.nn.functional.pad(images.flatten(3), (_LAST, 0)).flatten()


def _check_classes(archive: zipfile.ZipFile, sizes: tuple[int, ...]) -> None:
    """Raise InputError unless the images are in the published order."""
    first = 0
    for found in member_rows(archive, "latents_classes", (math.prod(sizes), len(sizes)), "iu"):
        expected = np.stack(np.unravel_index(np.arange(first, first + len(found)), sizes), -1)
        if not np.array_equal(found, expected):
            raise InputError(f"{str(archive.filename)!r} has latents_classes that aren't in the published order")
        first += len(found)


def _packed_images(archive: zipfile.ZipFile, count: int) -> Tensor:
    """The images with one bit per pixel, (N, 512) uint8. Memory grows with what is read, not with what is promised."""
    packed = bytearray()
    for images in member_rows(archive, "imgs", (count, SIDE, SIDE), "ub"):
        if images.max() > 1:
            raise InputError(f"imgs in {str(archive.filename)!r} has values other than 0 and 1")
        packed += np.packbits(images.reshape(len(images), -1), axis=1).tobytes()
    return torch.frombuffer(packed, dtype=torch.uint8).view(count, _PIXELS // 8)
