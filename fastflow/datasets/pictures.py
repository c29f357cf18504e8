"""Image files, read one at a time, and data sets of the image files in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.core.plugins import first_line
from fastflow.datasets.base import Split, rows_of
from fastflow.datasets.images import IMAGE_TRANSFORMATIONS, ImageSequences

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# A small file may promise an image that no memory holds. Deflate expands a byte to 1,032 at most, and a byte holds at
# most eight pixels; four million pixels are always allowed,
# and never more than a gigabyte in four bytes for each of three colours, which is Pillow's own limit.
_PIXELS_PER_BYTE, _ALWAYS_ALLOWED, _MOST_PIXELS = 8 * 1032, 1 << 22, (1 << 30) // 4 // 3


def image_folder(
    root: Path | str,
    split: Split = "train",
    transformations: tuple[str, ...] = IMAGE_TRANSFORMATIONS,
    *,
    size: int = 64,
    color: bool = True,
) -> ImageSequences:
    """The images in a folder and the folders below it, cropped to squares and resized, all in memory.

    Args:
        size: the side of the images in pixels. color: whether they keep their colours, or become grey.

    Raises:
        InputError: there are no images, one of them can't be read, or an argument can't be used.
    """
    check_count(size, "size")
    root = Path(root)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{str(root)!r} has no images: expected files ending in {', '.join(SUFFIXES)}")
    rows = rows_of(split, len(files))
    images = torch.empty(len(rows), 3 if color else 1, size, size, dtype=torch.uint8)
    for image, row in zip(images, rows, strict=True):
        image.copy_(read_picture(files[row], size, color=color))
    note = f"images of {str(root)!r}; the {split} split is {len(rows)} of {len(files)}, drawn with seed 0"
    return ImageSequences(images, transformations, name="images", note=note)


def read_picture(file: Path, size: int, *, color: bool = True) -> Tensor:
    """The middle square of an image file, resized, (3 or 1, size, size) uint8; for errors see `read_whole_picture`."""
    whole = _opened(file, "RGB" if color else "L")
    return _tensor(ImageOps.fit(whole, (size, size), Image.Resampling.BOX))


def read_whole_picture(file: Path) -> Tensor:
    """An image file as (C, H, W) uint8, with C = 1 for a grey image and C = 3 for others.

    Raises:
        InputError: the file is missing, isn't an image, is damaged, or promises more pixels than it can hold.
    """
    return _tensor(_opened(file))


def _opened(file: Path, mode: str | None = None) -> Image.Image:
    """The image in a file, turned upright.

    Args:
        mode: Pillow's mode; if None, "L" for a grey image and "RGB" for others.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > min(max(_ALWAYS_ALLOWED, _PIXELS_PER_BYTE * file.stat().st_size), _MOST_PIXELS):
                    raise InputError(
                        f"{str(file)!r} promises {width} x {height} pixels, more than a file of its size holds"
                    )
                image.verify()  # checks the file's checksums, which loading doesn't
            with Image.open(file, formats=_FORMATS) as image:
                if image.mode.startswith(("I", "F")):
                    raise InputError(f"{str(file)!r} has more than 8 bits per channel: convert it to 8 bits")
                mode = ("L" if image.mode in ("1", "L", "LA") else "RGB") if mode is None else mode
                return ImageOps.exif_transpose(image).convert(mode)
    except InputError:
        raise
    except Exception as error:  # the errors of Pillow's readers have no common type
        raise InputError(f"{str(file)!r} isn't an image, or is damaged: {first_line(error)}") from error


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
