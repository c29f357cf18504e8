"""Strips and animations: the steps of traversals side by side, or one after the other."""

from __future__ import annotations

import io
import math
import operator
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

# Both colours have a contrast of at least 3.5:1 on white and on nearly black pages, as strips are partly transparent.
ACCENT = (217, 84, 30)
LABEL = (122, 122, 122)

# The longer side in pixels to which small images are enlarged. It is smaller for GIF, which packs smooth greys poorly.
STRIP_CELL = 64
_GIF_CELL = 32
_GUTTER = 5  # pixels between images: room for the frame of the start column
_FRAME = 3
_POINTER = 9
_FONT_SIZE = 15
_GIF_GUTTER = 2
_DIMMED = 0.3  # the opacity of frames beyond a path's ends
_MOST_ACROSS = 12  # starts that an animation shows in one row at most
_GIF_GUTTER_GREY = 128  # a grey that can be seen between dark images and between light ones


def save_strip(
    images: Images,
    file: str | os.PathLike[str],
    *,
    start: int | None = None,
    ends: torch.Tensor | Sequence[Sequence[int]] | None = None,
    value_range: tuple[float, float] | None = None,
    image_size: int | None = None,
) -> Path:
    """Save paths of images as one PNG: a row for each starting image, a column for each step.

    All frames share one brightness scale, so that they can be compared. The space between the images is transparent, so
    that the strip fits on light and dark pages.

    Args:
        images: (B, T, C, H, W), of any real dtype, with C = 1 (grey) or 3 (RGB).
        file: where the PNG goes; its folder is made if it is missing.
        start: the column of the starting images. It has a frame, a pointer and the label "start", and the other columns
            are counted from it. If None, nothing is marked, and columns are counted from 0.
        ends: the first and the last column (B, 2) at which each path is still among the data, as a traversal's `ends`.
            Frames beyond them are dimmed, behind a thin line. If None, no frame is.
        value_range: the values shown as black and as white; values beyond them are clipped. By default they are the
            least and the greatest value of the whole strip.
        image_size: the longer side in pixels up to which images are enlarged by a whole factor; 64 by default. Images
            larger than half of it keep their size.

    Returns:
        The path written. The file appears whole or not at all.

    Raises:
        InputError: `images` has another shape, is empty or holds NaN or infinity; `start` is not a column; `ends` are
            not two columns for each row, in order; `value_range` is not two finite increasing numbers; `image_size` is
            not positive.
        OSError: the file cannot be written.
    """
    frames = scaled_frames(images, value_range, STRIP_CELL if image_size is None else image_size)
    rows, columns, height, width = frames.shape[:4]
    if start is not None and not 0 <= start < columns:
        raise InputError(f"start={start} is not a column of this strip: expected 0 to {columns - 1}, or None")
    limits = [(0, columns - 1)] * rows if ends is None else _checked_ends(ends, rows, columns)

    # Large images are seen from further away, so that everything around them grows with them.
    unit = max(1, width // 96)
    gutter, frame, pointer, font_size = _GUTTER * unit, _FRAME * unit, _POINTER * unit, _FONT_SIZE * unit
    font = label_font(font_size)
    pitch = width + gutter
    bottom = rows * (height + gutter) + gutter
    # Transparent pixels have the labels' colour, so that antialiased text has no dark fringe.
    canvas = Image.new("RGBA", (columns * pitch + gutter, bottom + pointer + font_size + 4 * unit), (*LABEL, 0))
    for row in range(rows):
        for column in range(columns):
            corner = (gutter + column * pitch, gutter + row * (height + gutter))
            shown = picture_of(frames[row, column]).convert("RGBA")
            if not limits[row][0] <= column <= limits[row][1]:
                shown.putalpha(round(255 * _DIMMED))
            canvas.paste(shown, corner)

    draw = ImageDraw.Draw(canvas)
    for row, (first, last) in enumerate(limits):
        top = gutter + row * (height + gutter)
        for column in ([first] if first > 0 else []) + ([last + 1] if last < columns - 1 else []):
            left = column * pitch + (gutter - 2 * unit) // 2
            draw.rectangle((left, top, left + 2 * unit - 1, top + height - 1), (*ACCENT, 255))
    if start is not None:
        left, right = start * pitch + gutter - frame, (start + 1) * pitch + frame - 1
        _mark_column(draw, (left, gutter - frame, right, bottom - gutter + frame - 1), frame, unit)
    for column, text in _labels(columns, pitch, start, font):
        extent = font.getlength(text) / 2
        centre = min(max(gutter + column * pitch + width / 2, extent + 1), canvas.width - extent - 1)
        caption(draw, (centre, bottom + pointer - 2 * unit), text, font, ACCENT if column == start else LABEL)

    return write_whole(file, encoded(canvas, "PNG", optimize=True))


def _checked_ends(ends: torch.Tensor | Sequence[Sequence[int]], rows: int, columns: int) -> Sequence[tuple[int, int]]:
    """The first and last column of each row that isn't dimmed; raise InputError unless the strip has them."""
    pairs = ends.tolist() if isinstance(ends, torch.Tensor) else ends
    try:
        limits = [(operator.index(first), operator.index(last)) for first, last in pairs]
    except (TypeError, ValueError):
        limits = []
    if len(limits) != rows or not all(0 <= first <= last < columns for first, last in limits):
        raise InputError(
            f"ends must be a first and a last column in 0..{columns - 1} for each of {rows} rows, got {ends}"
        )
    return limits


def _mark_column(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], frame: int, unit: int) -> None:
    """Draw a frame around a column, and a pointer below it.

    Args:
        draw: the canvas.
        box: the frame's outer edges: left, top, right, bottom.
        frame: the width of the frame.
        unit: the scale of the pointer.
    """
    draw.rectangle(box, outline=(*ACCENT, 255), width=frame)
    middle, tip, wing = (box[0] + box[2]) // 2, box[3] + 1, 5 * unit
    draw.polygon([(middle, tip), (middle - wing, tip + wing + 1), (middle + wing + 1, tip + wing + 1)], (*ACCENT, 255))


def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, in which labels are written."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as Pillow returns whenever a size is given
    return font


def save_gif(
    images: Images,
    file: str | os.PathLike[str],
    *,
    value_range: tuple[float, float] | None = None,
    frames_per_second: float = 8,
    image_size: int | None = None,
) -> Path:
    """Save paths of images as one looping GIF: the starting images side by side, moving at the same time.

    The animation goes to the last step and back again, so that it loops without a jump. All frames share one palette
    and one brightness scale; grey images keep their exact 8-bit values.

    Args:
        images: (B, T, C, H, W), of any real dtype, with C = 1 (grey) or 3 (RGB).
        file: where the GIF goes; its folder is made if it is missing.
        value_range: as in `save_strip`.
        frames_per_second: the steps shown per second, at most 50: viewers slow down faster GIFs.
        image_size: as in `save_strip`, but 32 by default.

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
        # One palette for all frames, without dithering, whose pattern would move from frame to frame.
        everything = picture_of(sheets.reshape(-1, sheets.shape[2], 3))
        palette = everything.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours = bytes(palette.getpalette("RGB") or ())
        forth = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in forth]
    pictures = forth + forth[-2:0:-1]
    # GIF counts time in hundredths of a second.
    duration = max(2, round(100 / frames_per_second)) * 10
    # With the palette given, the file has one; otherwise Pillow would write one for every frame.
    options = {"palette": colours, "optimize": False, "duration": duration, "loop": 0}
    data = encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:], **options)
    return write_whole(file, data)


def side_by_side(images: Images, value_range: tuple[float, float] | None, image_size: int) -> Bytes:
    """The frames of an animation, (T, H', W', C) bytes: all starts side by side, at each step.

    More than a dozen starts are laid out in several rows.

    Args:
        images: as in `save_gif`.
        value_range: as in `save_gif`.
        image_size: the longer side in pixels up to which images are enlarged.
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
    """Check images (B, T, C, H, W) of any real dtype, scale and enlarge them, and return (B, T, H', W', C) bytes."""
    if isinstance(images, torch.Tensor):
        # NumPy has no bfloat16, and float16 is too coarse for scaling.
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
    # A strip with a single value has no scale, and is shown black.
    scaled = (array - low) / (high - low) if high > low else np.zeros_like(array)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8).transpose(0, 1, 3, 4, 2)
    return _enlarged(pixels, image_size)


def _enlarged(pixels: Bytes, image_size: int) -> Bytes:
    """Enlarge smoothly by a whole factor: an 8 x 8 digit drawn with squares would be hard to read."""
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
    """Bytes (H, W, 1) or (H, W, 3) as a Pillow image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _labels(columns: int, pitch: int, start: int | None, font: ImageFont.FreeTypeFont) -> Sequence[tuple[int, str]]:
    """The columns with their labels: all where these fit, otherwise every second, fifth, tenth, ... from the start."""
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
    """Draw a short text below a point, with a minus sign as wide as the plus."""
    fill = (*colour, 255)
    if not text.startswith("-"):
        draw.text(top_centre, text, fill, font, anchor="ma")
        return
    # The font has a hyphen but no minus sign: draw a bar where the plus has its own.
    left, top = top_centre[0] - font.getlength(text.replace("-", "+")) / 2, top_centre[1]
    plus = draw.textbbox((left, top), "+", font)
    middle = round((plus[1] + plus[3]) / 2)
    draw.line((round(plus[0]), middle, round(plus[2]) - 1, middle), fill, width=max(1, round(font.size / 15)))
    draw.text((left + font.getlength("+"), top), text[1:], fill, font)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file of this kind."""
    # In memory, so that nothing is written if it fails.
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def write_whole(file: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file, whole or not at all, and make its folder if it is missing."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
