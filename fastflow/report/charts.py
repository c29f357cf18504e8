"""Line charts as inline SVG, drawn with the page's own colours and type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from fastflow.core.errors import InputError

_MARGIN_TOP = 14
_MARGIN_BOTTOM = 40
_MARGIN_RIGHT_PLAIN = 58
_CHARACTER = 6.7  # width of a character of the labels' type, for reserving room
_LABEL_PITCH = 15
_MOST_POINTS = 240  # a curve of this many points already fills the pixels it has
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Point = tuple[float, float]
Place = Callable[[float], float]  # from a value to where it lies in the view box


@dataclass(frozen=True)
class Line:
    """One curve: its name and its points. A value that is NaN or infinite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    lines: Sequence[Line],
    *,
    key: str,
    title: str,
    description: str,
    x_label: str = "step",
    log: bool = False,
    band: tuple[float | None, float | None] | None = None,
    from_zero: bool = False,
    width: int = 340,
    height: int = 205,
) -> str:
    """Draw curves against a common x axis and return the chart as one `<svg>` element.

    Colours come from the page: `currentColor` for axes and text, the custom properties `--line-1` to `--line-4` for
    curves and `--band` for the target. Each curve is labelled at its end and has a dash pattern of its own, so that
    nothing depends on colour.

    Args:
        lines: one or more curves with at least one drawable point between them.
        key: makes the ids of the title and the description unique within a page; letters, digits and hyphens.
        title: the chart's accessible name.
        description: what a reader who cannot see the curves should know.
        x_label: the x axis in words.
        log: logarithmic y axis; values that are not positive leave gaps.
        band: (lowest, highest) of a target, shaded and labelled; None for an open end.
        from_zero: begin a linear y axis at zero, for quantities whose size matters more than their wiggles.
        width: of the view box in CSS pixels; the element itself scales with its container.
        height: as `width`.

    Raises:
        InputError: a line's x and y differ in length, or there is nothing that can be drawn.
    """
    for line in lines:
        if len(line.x) != len(line.y):
            raise InputError(f"line {line.name!r} has {len(line.x)} x and {len(line.y)} y values: expected as many")
    curves = [_drawable(line, log) for line in lines]
    points = [point for curve in curves for point in curve if point is not None]
    if not points:
        raise InputError(f"chart {title!r} has no point that can be drawn" + (" on a logarithmic axis" if log else ""))

    low, high = min(y for _, y in points), max(y for _, y in points)
    if band is not None:
        # A target is worth seeing even where no curve reaches it.
        ends = [end for end in band if end is not None and math.isfinite(end) and (end > 0 or not log)]
        low, high = min([low, *ends]), max([high, *ends])
    if from_zero and not log:
        low = min(low, 0.0)
    y_ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    # An axis that begins near zero may as well begin there: the reader sees where training began.
    x_low = 0 if 0 < x_low < 0.25 * x_high else x_low

    tick_texts = [_tick_text(tick, log) for tick in y_ticks]
    ends = [_end_label(line.name if len(lines) > 1 else "", curve) for line, curve in zip(lines, curves, strict=True)]
    left = 14 + _CHARACTER * max(len(text) for text in tick_texts)
    right = width - max([_MARGIN_RIGHT_PLAIN] + [14 + _CHARACTER * len(text) for text in ends])
    top, bottom = _MARGIN_TOP, height - _MARGIN_BOTTOM

    def place_x(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def place_y(y: float) -> float:
        if log:
            return bottom - (math.log(y) - math.log(low)) / (math.log(high) - math.log(low)) * (bottom - top)
        return bottom - (y - low) / (high - low) * (bottom - top)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{escape(key)}-title {escape(key)}-desc">',
        f'<title id="{escape(key)}-title">{escape(title)}</title>',
        f'<desc id="{escape(key)}-desc">{escape(description)}</desc>',
    ]
    if band is not None:
        parts.append(_band(band, place_y, left, right, top, bottom, log))
    for tick, text in zip(y_ticks, tick_texts, strict=True):
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    x_ticks = [tick for tick in _linear_ticks(x_low, x_high) if x_low <= tick <= x_high]
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{_plain(tick)}</text>')
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{bottom}" y2="{bottom}"/>')
    centre = (left + right) / 2
    parts.append(f'<text class="tick" x="{centre:.1f}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for number, curve in enumerate(curves):
        parts.append(_curve(curve, number, place_x, place_y))
    parts += _end_labels(curves, ends, place_x, place_y, right, top, bottom)
    parts.append("</svg>")
    return "\n".join(parts)


def _drawable(line: Line, log: bool) -> list[Point | None]:
    """The points in order, None where the curve breaks, thinned to what the eye can tell apart."""
    points: list[Point | None] = [
        (float(x), float(y)) if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log) else None
        for x, y in zip(line.x, line.y, strict=True)
    ]
    if len(points) <= _MOST_POINTS:
        return points
    # The least and the greatest of each stretch survive: thinning must not hide a spike.
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    thinned: list[Point | None] = []
    for begin in range(0, len(points), stretch):
        piece = points[begin : begin + stretch]
        known = [point for point in piece if point is not None]
        if not known:
            thinned.append(None)
            continue
        extremes = {min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])}
        if begin + stretch >= len(points):
            extremes.add(known[-1])  # the end is what the label quotes
        thinned += sorted(extremes)
    return thinned


def _curve(curve: list[Point | None], number: int, place_x: Place, place_y: Place) -> str:
    path, pen_down = [], False
    for point in curve:
        if point is not None:
            # A line of no length shows a point that has a gap on either side.
            path.append(
                ("L{:.1f} {:.1f}" if pen_down else "M{:.1f} {:.1f}h0").format(place_x(point[0]), place_y(point[1]))
            )
        pen_down = point is not None
    return f'<path class="curve curve-{number % 4 + 1}" d="{"".join(path)}"/>'


def _end_label(name: str, curve: list[Point | None]) -> str:
    last = next((point for point in reversed(curve) if point is not None), None)
    return "" if last is None else f"{name} {short(last[1])}".strip()


def _end_labels(
    curves: list[list[Point | None]],
    texts: list[str],
    place_x: Place,
    place_y: Place,
    right: float,
    top: float,
    bottom: float,
) -> list[str]:
    """Labels at the curves' ends, pushed apart where they would overlap."""
    wanted = []
    for number, (curve, text) in enumerate(zip(curves, texts, strict=True)):
        last = next((point for point in reversed(curve) if point is not None), None)
        if last is not None:
            wanted.append([place_y(last[1]), number, text])
    wanted.sort()
    for above, below in pairwise(wanted):
        below[0] = max(below[0], above[0] + _LABEL_PITCH)
    overflow = max(0.0, wanted[-1][0] - bottom) if wanted else 0.0
    return [
        f'<text class="end end-{number % 4 + 1}" x="{right + 7:.1f}" y="{max(top, y - overflow) + 4:.1f}">'
        f"{escape(text)}</text>"
        for y, number, text in wanted
    ]


def _band(
    band: tuple[float | None, float | None],
    place_y: Place,
    left: float,
    right: float,
    top: float,
    bottom: float,
    log: bool,
) -> str:
    low, high = band
    upper = top if high is None else place_y(high)
    lower = bottom if low is None or (log and low <= 0) else place_y(low)
    return (
        f'<rect class="band" x="{left:.1f}" y="{upper:.1f}" width="{right - left:.1f}" height="{lower - upper:.1f}"/>'
        f'<text class="tick" x="{right - 5:.1f}" y="{upper + 14:.1f}" text-anchor="end">target</text>'
    )


def _linear_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose [low, high]."""
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (-1.0, 1.0)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounding through text keeps 0.30000000000000004 off the axis.
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Decades that enclose [low, high]; ones, twos and fives where decades are too few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if high > 100 * low:
        stride = math.ceil((last - first) / 5)
        return [10.0**power for power in range(first, last + stride, stride)]
    ticks = [float(f"{factor}e{power}") for power in range(first, last + 2) for factor in (1, 2, 5)]
    below = [tick for tick in ticks if tick <= low * (1 + 1e-9)]
    begin = ticks.index(below[-1]) if below else 0
    end = next(i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9) and i > begin)
    return ticks[begin : end + 1]


def _tick_text(value: float, log: bool) -> str:
    if log and not 1e-3 <= value < 1e4:
        mantissa, exponent = f"{value:e}".split("e")
        lead = "" if float(mantissa) == 1 else f"{float(mantissa):g}·"
        return f"{lead}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return _plain(value)


def _plain(value: float) -> str:
    """A tick's value, with thin spaces between thousands and a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.6g}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")


def short(value: float, digits: int = 3) -> str:
    """A measured value to three significant digits, zeros included, with a true minus sign: 0.0210, 12.3, 1.20e−5."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}".rstrip(".")
    if "e+" in text and abs(value) < 1e6:
        text = f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    mantissa, mark, exponent = text.partition("e")
    return (mantissa + (f"e{int(exponent)}" if mark else "")).replace("-", "\N{MINUS SIGN}")


def exact(value: float) -> str:
    """A chosen value, such as a target, as it was written: 0.05, 0.1, 1e−5."""
    return f"{value:.10g}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "not finite"
