"""The drawing of a landscape as inline SVG: lines of equal height, arrows uphill and a path, a frame for each time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator

LEVELS = 15
_SIZE = 240.0  # side of the view box
_ARROW = 0.8  # length of the longest arrow, as a share of the arrows' spacing

Floats = npt.NDArray[np.float64]
Point = tuple[float, float]


def landscape_svg(data: Mapping[str, Any], *, still: int, key: str, title: str, description: str) -> str:
    """Draw what `fastflow.report.landscapes.landscape` measured as one `<svg>` with a group for each time.

    Frame i has the classes "frame" and "frame-i"; frame `still` also has "standing". A page decides which of them are
    seen. Colours come from the page, as in `fastflow.report.charts`. The levels of u are the same at all times, and a
    line is drawn stronger where u is higher.

    Args:
        data: a landscape, as landscapes.json holds it.
        still: the frame to show where nothing may move.
        key: a prefix that makes ids unique within a page; letters, digits and hyphens.
        title: the accessible name of the picture.
        description: what a reader who cannot see the picture should know.
    """
    values, gradients = np.asarray(data["values"], float), np.asarray(data["gradients"], float)
    path = [_place(x, y) for x, y in data["path"]]
    low, high = float(values.min()), float(values.max())
    levels = [low + (high - low) * (level + 0.5) / LEVELS for level in range(LEVELS)] if high > low else []
    longest = float(np.hypot(gradients[..., 0], gradients[..., 1]).max())
    parts = [
        f'<svg class="landscape" viewBox="0 0 {_SIZE:.0f} {_SIZE:.0f}" role="img" '
        f'aria-labelledby="{escape(key)}-title {escape(key)}-desc">',
        f'<title id="{escape(key)}-title">{escape(title)}</title>',
        f'<desc id="{escape(key)}-desc">{escape(description)}</desc>',
    ]
    trail = "L".join(f"{x:.1f} {y:.1f}" for x, y in path)
    for frame, (heights, slopes, column) in enumerate(zip(values, gradients, data["columns"], strict=True)):
        x, y = path[column]
        parts.append(f'<g class="frame frame-{frame}{" standing" if frame == still else ""}">')
        for number, lines in enumerate(contour_lines(heights, levels)):
            opacity = 0.3 + 0.7 * number / (LEVELS - 1)
            path_data = _line_path(lines, len(heights))
            parts += [f'<path class="level" opacity="{opacity:.2f}" d="{path_data}"/>'] if path_data else []
        parts.append(f'<path class="arrows" d="{_arrow_path(slopes, longest)}"/>')
        parts.append(f'<path class="trail" d="M{trail}"/>')
        parts.append(f'<circle class="here" cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>')
    parts.append("</svg>")
    return "\n".join(parts)


def contour_lines(heights: Floats, levels: Sequence[float]) -> list[list[Floats]]:
    """The lines of equal height through a grid (N, N) of heights, for each level.

    Returns:
        Lines of points (x, y), each (P, 2), in grid units: x along columns, y along rows. Closed lines end where they
        begin.
    """
    contours = contour_generator(z=heights, name="serial", line_type=LineType.Separate)
    return [[np.asarray(line) for line in contours.lines(level)] for level in levels]


def _place(x: float, y: float) -> Point:
    """The place of a point of the square [-1, 1]^2 in the view box."""
    return _SIZE / 2 * (1 + x), _SIZE / 2 * (1 - y)


def _line_path(lines: Sequence[Floats], points: int) -> str:
    """The path data of lines in grid units, on a grid of `points` points along a side."""
    scale = 2 / (points - 1)
    places = [[_place(x * scale - 1, y * scale - 1) for x, y in line] for line in lines]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in places)


def _arrow_path(slopes: Floats, longest: float) -> str:
    """The path data of arrows along gradients (N, N, 2), centred on the grid; their scale is the same at all times."""
    count = len(slopes)
    spacing = 2 / (count - 1)
    arrows = []
    for row in range(count):
        for column in range(count):
            dx, dy = (float(v) / longest * _ARROW * spacing for v in slopes[row, column]) if longest > 0 else (0.0, 0.0)
            length = math.hypot(dx, dy) * _SIZE / 2
            if length < 1:  # an arrow of one pixel shows no direction
                continue
            x, y = column * spacing - 1, row * spacing - 1
            (x0, y0), (x1, y1) = _place(x - dx / 2, y - dy / 2), _place(x + dx / 2, y + dy / 2)
            head, angle = min(5.0, 0.45 * length), math.atan2(y1 - y0, x1 - x0)
            wings = [(x1 - head * math.cos(angle + side), y1 - head * math.sin(angle + side)) for side in (0.5, -0.5)]
            arrows.append(
                f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}M{wings[0][0]:.1f} {wings[0][1]:.1f}L{x1:.1f} {y1:.1f}"
                f"L{wings[1][0]:.1f} {wings[1][1]:.1f}"
            )
    return "".join(arrows)
