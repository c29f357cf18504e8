"""Traversals as pictures: a strip of steps side by side, and the same frames as an animation."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from fastflow.core.errors import InputError
from fastflow.core.files import replacing

Images = torch.Tensor | npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]

# Both colours keep at least 3.5:1 contrast on white and on near-black paper: strips are transparent between the images.
ACCENT = (217, 84, 30)
LABEL = (122, 122, 122)

# Longer side in pixels that small images are enlarged towards. GIF packs smooth greys poorly, hence the smaller one.
STRIP_CELL = 64
_GIF_CELL = 32
_GUTTER = 5  # pixels between images, wide enough for the start column's frame and a hair of air
_FRAME = 3
_POINTER = 9
_FONT_SIZE = 15
_GIF_GUTTER = 2
_MOST_ACROSS = 12  # starts of an animation beside each other in one row
_GIF_GUTTER_GREY = 128  # grey on purpose: visible between dark images and between light ones


def save_strip(
    images: Images,
    file: str | os.PathLike[str],
    *,
    start: int | None = None,
    value_range: tuple[float, float] | None = None,
    image_size: int | None = None,
) -> Path:
    """Save paths of images as one PNG: a row for each starting image, a column for each step.

    Every frame shares one brightness scale, so two frames of the strip can be compared. The space between the images
    is transparent, which lets the strip stand on light and dark paper alike.

    Args:
        images: (B, T, C, H, W), any real dtype, C 1 (grey) or 3 (RGB).
        file: where the PNG goes; its folder is made if need be.
        start: column of the starting images. It gets a frame, a pointer and the label "start", and the other columns
            are counted from it. With None nothing is marked and columns are counted from 0.
        value_range: values shown as black and as white; values outside are clipped. By default the least and the
            greatest value of the whole strip.
        image_size: longer side in pixels to enlarge images towards, by a whole factor; 64 by default. Images that are
            already larger than half of it keep their size.

    Returns:
        The path written. The file appears whole or not at all.

    Raises:
        InputError: `images` has another shape, is empty or holds NaN or infinity; `start` is not a column;
            `value_range` is not two finite increasing numbers; `image_size` is not positive.
        OSError: the file cannot be written.
    """
    frames = scaled_frames(images, value_range, STRIP_CELL if image_size is None else image_size)
    rows, columns, height, width = frames.shape[:4]
    if start is not None and not 0 <= start < columns:
        raise InputError(f"start={start} is not a column of this strip: expected 0 to {columns - 1}, or None")

    # Large images are looked at from further away: everything around them grows with them.
    unit = max(1, width // 96)
    gutter, frame, pointer, font_size = _GUTTER * unit, _FRAME * unit, _POINTER * unit, _FONT_SIZE * unit
    font = ImageFont.load_default(font_size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # what Pillow answers whenever a size is asked for
    pitch = width + gutter
    bottom = rows * (height + gutter) + gutter
    # Transparent pixels carry the labels' colour, so that blending antialiased text leaves no dark fringe.
    canvas = Image.new("RGBA", (columns * pitch + gutter, bottom + pointer + font_size + 4 * unit), (*LABEL, 0))
    for row in range(rows):
        for column in range(columns):
            corner = (gutter + column * pitch, gutter + row * (height + gutter))
            canvas.paste(picture_of(frames[row, column]).convert("RGBA"), corner)

    draw = ImageDraw.Draw(canvas)
    if start is not None:
        left, right = start * pitch + gutter - frame, (start + 1) * pitch + frame - 1
        top = gutter - frame
        draw.rectangle((left, top, right, bottom - top - 1), outline=(*ACCENT, 255), width=frame)
        middle, tip, wing = (left + right) // 2, bottom - top, 5 * unit
        draw.polygon(
            [(middle, tip), (middle - wing, tip + wing + 1), (middle + wing + 1, tip + wing + 1)], (*ACCENT, 255)
        )
    for column, text in _labels(columns, pitch, start, font):
        extent = font.getlength(text) / 2
        centre = min(max(gutter + column * pitch + width / 2, extent + 1), canvas.width - extent - 1)
        caption(draw, (centre, bottom + pointer - 2 * unit), text, font, ACCENT if column == start else LABEL)

    return write_whole(file, encoded(canvas, "PNG", optimize=True))


def save_gif(
    images: Images,
    file: str | os.PathLike[str],
    *,
    value_range: tuple[float, float] | None = None,
    frames_per_second: float = 8,
    image_size: int | None = None,
) -> Path:
    """Save paths of images as one looping GIF: the starting images side by side, all moving in step.

    The animation runs to the last step and back again, so it loops without a jump. One palette and one brightness
    scale serve every frame; grey images keep their exact 8-bit values.

    Args:
        images: (B, T, C, H, W), any real dtype, C 1 (grey) or 3 (RGB).
        file: where the GIF goes; its folder is made if need be.
        value_range: as in `save_strip`.
        image_size: as in `save_strip`, but 32 by default.
        frames_per_second: steps shown per second, at most 50 (GIF viewers slow faster ones down).

    Returns:
        The path written. The file appears whole or not at all.

    Raises:
        InputError: as `save_strip`, or `frames_per_second` is not above 0 and at most 50.
        OSError: the file cannot be written.
    """
    if not 0 < frames_per_second <= 50:
        raise InputError(f"frames_per_second={frames_per_second} cannot be shown: expected above 0 and at most 50")
    sheets = side_by_side(images, value_range, _GIF_CELL if image_size is None else image_size)
    channels = sheets.shape[-1]

    forth = [picture_of(sheet) for sheet in sheets]
    colours = bytes(level for level in range(256) for _ in "RGB")
    if channels == 3:
        # One palette from all frames at once. No dithering: its pattern would crawl from frame to frame.
        everything = picture_of(sheets.reshape(-1, sheets.shape[2], 3))
        palette = everything.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours = bytes(palette.getpalette("RGB") or ())
        forth = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in forth]
    pictures = forth + forth[-2:0:-1]
    # GIF counts in hundredths of a second.
    duration = max(2, round(100 / frames_per_second)) * 10
    # Naming the palette makes it the file's only one; Pillow would otherwise write one for every frame.
    options = {"palette": colours, "optimize": False, "duration": duration, "loop": 0}
    data = encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:], **options)
    return write_whole(file, data)


def side_by_side(images: Images, value_range: tuple[float, float] | None, image_size: int) -> Bytes:
    """The frames of an animation, (T, H', W', C) bytes: the starting images beside each other, at each step.

    More than a dozen are laid out in several rows.
    """
    frames = scaled_frames(images, value_range, image_size)
    count, steps, height, width, channels = frames.shape
    across = count if count <= _MOST_ACROSS else max(_MOST_ACROSS, math.ceil(math.sqrt(1.5 * count)))
    pitches = height + _GIF_GUTTER, width + _GIF_GUTTER
    size = math.ceil(count / across) * pitches[0] - _GIF_GUTTER, across * pitches[1] - _GIF_GUTTER
    sheets = np.full((steps, *size, channels), _GIF_GUTTER_GREY, dtype=np.uint8)
    for number, path in enumerate(frames):
        top, left = number // across * pitches[0], number % across * pitches[1]
        sheets[:, top : top + height, left : left + width] = path
    return sheets


def scaled_frames(images: Images, value_range: tuple[float, float] | None, image_size: int) -> Bytes:
    """Check, scale and enlarge: (B, T, C, H, W) of any dtype becomes (B, T, H', W', C) bytes."""
    if isinstance(images, torch.Tensor):
        # NumPy has no bfloat16, and halves are too coarse to scale in.
        array = images.detach().to("cpu", torch.float64 if images.dtype == torch.float64 else torch.float32).numpy()
    else:
        array = np.asarray(images)
        if array.dtype.kind not in "buif":
            raise InputError(f"images have dtype {array.dtype}: expected real numbers")
        array = array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)
    if array.ndim != 5 or array.shape[2] not in (1, 3):
        raise InputError(
            f"images have shape {array.shape}: expected (starts, steps, channels, height, width) with 1 or 3 channels"
        )
    if array.size == 0:
        raise InputError(f"images have shape {array.shape}: expected at least one start, one step and one pixel")
    finite = np.isfinite(array)
    if not finite.all():
        row, step = (int(i) for i in np.argwhere(~finite)[0][:2])
        raise InputError(
            f"{int((~finite).sum())} of {array.size} image values are NaN or infinite, the first at start {row}, "
            f"step {step}: expected finite values only"
        )
    if value_range is None:
        low, high = float(array.min()), float(array.max())
    else:
        low, high = (float(bound) for bound in value_range)
        if not (np.isfinite([low, high]).all() and low < high):
            raise InputError(f"value_range={value_range}: expected two finite numbers, the first below the second")
    # A strip of one single value has no scale; it is shown black rather than divided by zero.
    scaled = (array - low) / (high - low) if high > low else np.zeros_like(array)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8).transpose(0, 1, 3, 4, 2)
    return _enlarged(pixels, image_size)


def _enlarged(pixels: Bytes, image_size: int) -> Bytes:
    """Enlarge by a whole factor, smoothly: an 8x8 digit in hard squares reads as squares, not as a digit."""
    if image_size < 1:
        raise InputError(f"image_size={image_size}: expected a positive number of pixels")
    rows, steps, height, width, channels = pixels.shape
    factor = image_size // max(height, width)
    if factor < 2:
        return pixels
    large = np.empty((rows, steps, height * factor, width * factor, channels), dtype=np.uint8)
    for row in range(rows):
        for step in range(steps):
            picture = picture_of(pixels[row, step]).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
            large[row, step] = np.asarray(picture).reshape(large.shape[2:])
    return large


def picture_of(pixels: Bytes) -> Image.Image:
    """(H, W, 1) or (H, W, 3) bytes as a Pillow image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _labels(columns: int, pitch: int, start: int | None, font: ImageFont.FreeTypeFont) -> Sequence[tuple[int, str]]:
    """Columns and their labels: every column where they fit, else every second, fifth, tenth .. counted from start."""
    origin = 0 if start is None else start
    texts = {column: "start" if column == start else f"{column - origin:+d}" for column in range(columns)}
    if start is None:
        texts = {column: str(column) for column in range(columns)}
    widest = max(font.getlength(text) for text in texts.values()) + 6
    stride = next(s for p in range(9) for s in (10**p, 2 * 10**p, 5 * 10**p) if s * pitch >= widest or s >= columns)
    return [(column, text) for column, text in texts.items() if (column - origin) % stride == 0]


def caption(
    draw: ImageDraw.ImageDraw,
    top_centre: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
) -> None:
    """Draw a short text below a point, a number's sign as wide as the plus."""
    fill = (*colour, 255)
    if not text.startswith("-"):
        draw.text(top_centre, text, fill, font, anchor="ma")
        return
    # The built-in font knows a hyphen but no minus sign: draw a bar where the plus has its own.
    left, top = top_centre[0] - font.getlength(text.replace("-", "+")) / 2, top_centre[1]
    plus = draw.textbbox((left, top), "+", font)
    middle = round((plus[1] + plus[3]) / 2)
    draw.line((round(plus[0]), middle, round(plus[2]) - 1, middle), fill, width=max(1, round(font.size / 15)))
    draw.text((left + font.getlength("+"), top), text[1:], fill, font)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file of this kind."""
    # Encoding in memory first: whatever fails here leaves the disk alone.
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def write_whole(file: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file, whole or not at all, with its folder."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
