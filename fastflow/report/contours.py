"""A landscape on a plane as inline SVG: lines of equal height, arrows uphill and a path, one frame for each time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

LEVELS = 15
_SIZE = 240.0
_ARROW = 0.8  # the longest arrow's length, in spacings of the arrows

Floats = npt.NDArray[np.float64]
Point = tuple[float, float]


def landscape_svg(data: Mapping[str, Any], *, still: int, key: str, title: str, description: str) -> str:
    """Draw what `fastflow.report.landscapes.landscape` measured as one `<svg>` with a group for each time.

    Frame i has the classes "frame" and "frame-i", and frame `still` has "standing" too; a page decides which are seen.
    Colours come from the page, as in `fastflow.report.charts`; lines of higher u, which are the same at all times, are
    stronger.

    Args:
        key: makes ids unique within a page; letters, digits and hyphens.
        title, description: what a reader who cannot see the picture should know.
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
        for number, level in enumerate(levels):
            strength, lines = 0.3 + 0.7 * number / (LEVELS - 1), _drawn(contour(heights, level), len(heights))
            parts += [f'<path class="level" opacity="{strength:.2f}" d="{lines}"/>'] if lines else []
        parts.append(f'<path class="arrows" d="{_arrows(slopes, longest)}"/>')
        parts.append(f'<path class="trail" d="M{trail}"/>')
        parts.append(f'<circle class="here" cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>')
    parts.append("</svg>")
    return "\n".join(parts)


def contour(heights: Floats, level: float) -> list[list[Point]]:
    """Lines of equal height through a grid (N, N) of heights, by marching squares.

    Returns:
        Polylines of points (x, y) in grid units, x along columns and y along rows; closed ones end where they begin. A
        saddle's two pieces are joined by the height in the middle of its square.
    """
    above = heights >= level
    neighbours: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}

    def link(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)

    # An edge is (row, column, 0) to the right of a point, or (row, column, 1) from it upwards.
    mixed = above[:-1, :-1].astype(int) + above[:-1, 1:] + above[1:, :-1] + above[1:, 1:]
    for r, c in np.argwhere((mixed > 0) & (mixed < 4)).tolist():
        corners = [bool(above[r, c]), bool(above[r, c + 1]), bool(above[r + 1, c + 1]), bool(above[r + 1, c])]
        edges = [(r, c, 0), (r, c + 1, 1), (r + 1, c, 0), (r, c, 1)]  # edge i lies between corners i and i + 1
        crossed = [edges[i] for i in range(4) if corners[i] != corners[(i + 1) % 4]]
        if len(crossed) == 4:
            middle = heights[r : r + 2, c : c + 2].mean() >= level
            first = 0 if middle == corners[0] else 1  # cut off the two corners that differ from the middle
            crossed = crossed[first:] + crossed[:first]
        for one, other in zip(crossed[::2], crossed[1::2], strict=True):
            link(one, other)

    def point(edge: tuple[int, int, int]) -> Point:
        r, c, upwards = edge
        here, there = heights[r, c], heights[r + upwards, c + 1 - upwards]
        share = float((level - here) / (there - here))
        return (c, r + share) if upwards else (c + share, r)

    lines = []
    # Open lines first, from one of their ends; what is left are rings.
    for edge in sorted(neighbours, key=lambda edge: len(neighbours[edge])):
        line = [edge]
        while neighbours[line[-1]]:
            following = neighbours[line[-1]].pop()
            neighbours[following].remove(line[-1])
            line.append(following)
        if len(line) > 1:
            lines.append([point(edge) for edge in line])
    return lines


def _place(x: float, y: float) -> Point:
    """Where a point of the square [-1, 1]^2 lies in the view box."""
    return _SIZE / 2 * (1 + x), _SIZE / 2 * (1 - y)


def _drawn(lines: Sequence[Sequence[Point]], points: int) -> str:
    scale = 2 / (points - 1)
    places = [[_place(x * scale - 1, y * scale - 1) for x, y in line] for line in lines]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in places)


def _arrows(slopes: Floats, longest: float) -> str:
    """Arrows along gradients (N, N, 2), of the same scale at all times, their middles on the grid."""
    count = len(slopes)
    spacing = 2 / (count - 1)
    drawn = []
    for row in range(count):
        for column in range(count):
            dx, dy = (float(v) / longest * _ARROW * spacing for v in slopes[row, column]) if longest > 0 else (0.0, 0.0)
            length = math.hypot(dx, dy) * _SIZE / 2
            if length < 1:  # a pixel says nothing of a direction
                continue
            x, y = column * spacing - 1, row * spacing - 1
            (x0, y0), (x1, y1) = _place(x - dx / 2, y - dy / 2), _place(x + dx / 2, y + dy / 2)
            head, angle = min(5.0, 0.45 * length), math.atan2(y1 - y0, x1 - x0)
            wings = [(x1 - head * math.cos(angle + side), y1 - head * math.sin(angle + side)) for side in (0.5, -0.5)]
            drawn.append(
                f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}M{wings[0][0]:.1f} {wings[0][1]:.1f}L{x1:.1f} {y1:.1f}"
                f"L{wings[1][0]:.1f} {wings[1][1]:.1f}"
            )
    return "".join(drawn)
