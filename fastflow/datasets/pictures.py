"""Image files, read one at a time, and data sets of the image files in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.core.file_kinds import what_it_is
from fastflow.core.files import left_by_system
from fastflow.core.plugins import first_line
from fastflow.datasets.base import Split, rows_of
from fastflow.datasets.images import IMAGE_TRANSFORMATIONS, ImageSequences

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
BACKGROUND = (0, 0, 0)
"""The colour, black, that shows through where an image is transparent, as it does beyond the edge of a turned image."""
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

    Hidden files are left out, and what an operating system leaves in folders. Transparent pixels show black.

    Args:
        size: the side of the images in pixels. color: whether they keep their colours, or become grey.

    Raises:
        InputError: there are no images, one of them can't be read, or an argument can't be used.
    """
    check_count(size, "size")
    root = Path(root)
    files = image_files(root, below=True)
    rows = rows_of(split, len(files))
    images = torch.empty(len(rows), 3 if color else 1, size, size, dtype=torch.uint8)
    for image, row in zip(images, rows, strict=True):
        image.copy_(read_picture(files[row], size, color=color))
    note = f"images of {str(root)!r}; the {split} split is {len(rows)} of {len(files)}, drawn with seed 0"
    return ImageSequences(images, transformations, name="images", note=note)


def image_files(folder: Path, *, below: bool = False) -> list[Path]:
    """The image files in a folder, by their names, without hidden ones and what an operating system leaves there.

    Args:
        below: whether to look into the folders below it too.

    Raises:
        InputError: there are none.
    """

    def is_own(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return not any(part.startswith(".") or left_by_system(Path(part)) for part in parts)

    found = folder.rglob("*") if below else folder.iterdir() if folder.is_dir() else ()
    files = sorted(path for path in found if path.suffix.lower() in SUFFIXES and is_own(path) and path.is_file())
    if not files:
        raise InputError(f"{str(folder)!r} has no images: expected files ending in {', '.join(SUFFIXES)}")
    return files


def read_picture(file: Path, size: int, *, color: bool = True) -> Tensor:
    """The middle square of an image file, resized, (3 or 1, size, size) uint8; for errors see `read_whole_picture`."""
    # A grey image gets its three colours once it is small.
    picture = ImageOps.fit(_opened(file, None if color else "L"), (size, size), Image.Resampling.BOX)
    return _tensor(picture.convert("RGB") if color and picture.mode != "RGB" else picture)


def read_whole_picture(file: Path) -> Tensor:
    """An image file as (C, H, W) uint8, with C = 1 for a grey image and C = 3 for others, on black if transparent.

    Raises:
        InputError: the file is missing, isn't an image, is damaged, or promises more pixels than it can hold.
    """
    return _tensor(_opened(file))


def _opened(file: Path, mode: str | None = None) -> Image.Image:
    """The image in a file, turned upright; where it is transparent, the background shows.

    Args:
        mode: Pillow's mode; if None, "L" for a grey image and "RGB" for others.
    """
    if not file.is_file():
        problem = "isn't a file" if file.exists() else "doesn't exist"
        raise InputError(f"image {str(file)!r} {problem}: expected an image file, or a folder of them")
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
                _mend_transparent_color(image, file)
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                # Each copy of a large image takes hundreds of megabytes: none is made without need.
                flat = _on_background(image)
                return flat if flat.mode == mode else flat.convert(mode)
    except InputError:
        raise
    except Exception as error:  # the errors of Pillow's readers have no common type
        reason = (what_it_is(file) if isinstance(error, UnidentifiedImageError) else None) or first_line(error)
        raise InputError(f"{str(file)!r} isn't an image, or is damaged: {reason}") from error


def _on_background(image: Image.Image) -> Image.Image:
    """An image without transparency. What a transparent pixel hides isn't seen: only its share of the colour counts."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(image, mask=image)
    return flat


def _mend_transparent_color(image: Image.Image, file: Path) -> None:
    """Scale the one transparent colour of a PNG as Pillow scales the file's pixels when it loads them."""
    color, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if color is None or image.format != "PNG" or not tiles:
        return
    bits = tiles[0][3]  # how the file holds its pixels
    if bits == "RGB;16B":
        raise InputError(f"{str(file)!r} has more than 8 bits per channel: convert it to 8 bits")
    if bits in ("L;2", "L;4"):
        image.info["transparency"] = color * 255 // (2 ** int(bits[2:]) - 1)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
