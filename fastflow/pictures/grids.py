"""Grids: all potentials of a run in one picture, a row for each, with the ends of their paths from each start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from fastflow.core.errors import InputError
from fastflow.pictures.strips import (
    ACCENT,
    LABEL,
    STRIP_CELL,
    Images,
    caption,
    encoded,
    label_font,
    picture_of,
    scaled_frames,
    write_whole,
)

_GUTTER = 3
_GROUP_GUTTER = 14  # pixels between the images of one start and those of the next
_FONT_SIZE = 15
_LONGEST = 24  # characters of a row's label; longer ones are cut


def save_grid(
    images: Images,
    file: str | os.PathLike[str],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    value_range: tuple[float, float] | None = None,
    image_size: int | None = None,
) -> Path:
    """Save one PNG with a row for each of K potentials and a group of P images for each of B starts.

    All images share one brightness scale. The space between them is transparent, as in a strip.

    Args:
        images: (K, B, P, C, H, W), of any real dtype, with C = 1 (grey) or 3 (RGB).
        file: where the PNG goes; its folder is made if it is missing.
        rows: K labels.
        columns: P labels, which stand above the images of every start; "start" is highlighted.
        value_range: as in `save_strip`.
        image_size: as in `save_strip`.

    Returns:
        The path written. The file appears whole or not at all.

    Raises:
        InputError: `images` has another shape, is empty or holds NaN or infinity, or the labels are of another number.
        OSError: the file cannot be written.
    """
    if images.ndim != 6 or (len(rows), len(columns)) != (images.shape[0], images.shape[2]):
        raise InputError(
            f"images have shape {tuple(images.shape)}, with {len(rows)} labels for rows and {len(columns)} for "
            "columns: expected (potentials, starts, places, channels, height, width) and labels for potentials and "
            "places"
        )
    count, starts, places = images.shape[:3]
    joined = images.reshape(count, starts * places, *images.shape[3:])
    frames = scaled_frames(joined, value_range, STRIP_CELL if image_size is None else image_size)
    height, width = frames.shape[2:4]

    unit = max(1, width // 96)
    gutter, group_gutter, font_size = _GUTTER * unit, _GROUP_GUTTER * unit, _FONT_SIZE * unit
    font = label_font(font_size)
    labels = [text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…" for text in rows]
    left = round(max(font.getlength(text) for text in labels)) + group_gutter + gutter
    top = font_size + 3 * gutter
    group = places * (width + gutter) - gutter + group_gutter
    size = (left + starts * group, top + count * (height + gutter))
    # Transparent pixels have the labels' colour, so that antialiased text has no dark fringe.
    canvas = Image.new("RGBA", size, (*LABEL, 0))
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(labels):
        y = top + row * (height + gutter)
        draw.text((left - group_gutter, y + height / 2), text, (*LABEL, 255), font, anchor="rm")
        for column in range(starts * places):
            x = left + column // places * group + column % places * (width + gutter)
            canvas.paste(picture_of(frames[row, column]).convert("RGBA"), (x, y))
    for start in range(starts):
        for place, text in enumerate(columns):
            x = left + start * group + place * (width + gutter) + width / 2
            caption(draw, (x, gutter), text, font, ACCENT if text == "start" else LABEL)
    return write_whole(file, encoded(canvas, "PNG", optimize=True))
