"""Line charts as inline SVG, in the page's own colours and type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from fastflow.core.errors import InputError
from fastflow.report.number_formats import short

_MARGIN_TOP = 14
_MARGIN_BOTTOM = 40
_MARGIN_RIGHT_PLAIN = 58
_CHARACTER = 6.7  # the width of a character of a label, for which room is left
_LABEL_PITCH = 15
_MOST_POINTS = 240  # more points on a curve would not be visible
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Point = tuple[float, float]
Curve = list[Point | None]  # None where the curve breaks
Band = tuple[float | None, float | None]  # the lowest and the highest value of a target, None for an open end


@dataclass(frozen=True)
class Line:
    """A curve: its name and its points. A value that is NaN or infinite leaves a gap."""

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
    band: Band | None = None,
    from_zero: bool = False,
    width: int = 340,
    height: int = 205,
) -> str:
    """Draw curves against a common x axis and return the chart as one `<svg>` element.

    Colours come from the page: `currentColor` for axes and text, the custom properties `--line-1` to `--line-4` for
    curves and `--band` for the target. Each curve is labelled at its end and has a dash pattern of its own, so that
    nothing depends on colour.

    Args:
        lines: one or more curves, of which at least one has a point that can be drawn.
        key: a prefix that makes ids unique within a page; letters, digits and hyphens.
        title: the chart's accessible name.
        description: what a reader who cannot see the curves should know.
        x_label: the label of the x axis.
        log: make the y axis logarithmic; values that are not positive leave gaps.
        band: the lowest and the highest value of a target, which is shaded; None for an open end.
        from_zero: begin a linear y axis at zero, for quantities whose size matters more than small changes.
        width: the width of the view box in CSS pixels; the element itself scales with its container.
        height: the height of the view box in CSS pixels.

    Raises:
        InputError: a line's x and y differ in length, or there is nothing that can be drawn.
    """
    for line in lines:
        if len(line.x) != len(line.y):
            raise InputError(
                f"line {line.name!r} has {len(line.x)} x and {len(line.y)} y values: expected as many of both"
            )
    curves = [_drawable(line, log) for line in lines]
    if not any(point is not None for curve in curves for point in curve):
        raise InputError(f"chart {title!r} has no point that can be drawn" + (" on a logarithmic axis" if log else ""))

    low, high = _value_range(curves, band, log=log, from_zero=from_zero)
    y_ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    tick_texts = [_tick_text(tick, log) for tick in y_ticks]
    ends = [_end_label(line.name if len(lines) > 1 else "", curve) for line, curve in zip(lines, curves, strict=True)]
    x_low, x_high = _step_range(curves)
    plot = _Plot(
        left=14 + _CHARACTER * max(len(text) for text in tick_texts),
        right=width - max([_MARGIN_RIGHT_PLAIN] + [14 + _CHARACTER * len(text) for text in ends]),
        top=_MARGIN_TOP,
        bottom=height - _MARGIN_BOTTOM,
        x_low=x_low,
        x_high=x_high,
        y_low=min(low, y_ticks[0]),
        y_high=max(high, y_ticks[-1]),
        log=log,
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{escape(key)}-title {escape(key)}-desc">',
        f'<title id="{escape(key)}-title">{escape(title)}</title>',
        f'<desc id="{escape(key)}-desc">{escape(description)}</desc>',
    ]
    if band is not None:
        parts.append(_band(band, plot))
    parts += _axes(plot, y_ticks, tick_texts)
    centre = (plot.left + plot.right) / 2
    parts.append(f'<text class="tick" x="{centre:.1f}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>')
    parts += [_curve(curve, number, plot) for number, curve in enumerate(curves)]
    parts += _end_labels(curves, ends, plot)
    parts.append("</svg>")
    return "\n".join(parts)


@dataclass(frozen=True)
class _Plot:
    """The area of a chart that holds the curves, in the view box, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def x(self, value: float) -> float:
        """The place of a value of the x axis in the view box."""
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """The place of a value of the y axis in the view box."""
        scale = math.log if self.log else float
        low, high = scale(self.y_low), scale(self.y_high)
        return self.bottom - (scale(value) - low) / (high - low) * (self.bottom - self.top)


def _value_range(curves: list[Curve], band: Band | None, *, log: bool, from_zero: bool) -> tuple[float, float]:
    """The least and the greatest value that a chart's y axis has to show."""
    values = [point[1] for curve in curves for point in curve if point is not None]
    low, high = min(values), max(values)
    if band is not None:
        # A target is worth seeing even where no curve reaches it.
        ends = [end for end in band if end is not None and math.isfinite(end) and (end > 0 or not log)]
        low, high = min([low, *ends]), max([high, *ends])
    return (min(low, 0.0) if from_zero and not log else low), high


def _step_range(curves: list[Curve]) -> tuple[float, float]:
    """The least and the greatest value of a chart's x axis."""
    places = [point[0] for curve in curves for point in curve if point is not None]
    low, high = min(places), max(places)
    if low == high:
        low, high = low - 0.5, high + 0.5
    # An axis that would begin near zero begins at zero, where the training began.
    return (0 if 0 < low < 0.25 * high else low), high


def _axes(plot: _Plot, y_ticks: list[float], tick_texts: list[str]) -> list[str]:
    """The lines of the grid and the x axis, with their ticks."""
    parts = []
    for tick, text in zip(y_ticks, tick_texts, strict=True):
        y = plot.y(tick)
        parts.append(f'<line class="grid" x1="{plot.left:.1f}" x2="{plot.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{plot.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    bottom = plot.bottom
    for tick in _linear_ticks(plot.x_low, plot.x_high):
        if plot.x_low <= tick <= plot.x_high:
            x = plot.x(tick)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{_plain(tick)}</text>')
    parts.append(f'<line class="axis" x1="{plot.left:.1f}" x2="{plot.right:.1f}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _drawable(line: Line, log: bool) -> Curve:
    """The points of a line as a curve, thinned to what can be seen."""
    points: Curve = [
        (float(x), float(y)) if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log) else None
        for x, y in zip(line.x, line.y, strict=True)
    ]
    if len(points) <= _MOST_POINTS:
        return points
    # The least and the greatest point of each stretch stay, so that no spike is hidden.
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    thinned: Curve = []
    for begin in range(0, len(points), stretch):
        piece = points[begin : begin + stretch]
        known = [point for point in piece if point is not None]
        if not known:
            thinned.append(None)
            continue
        extremes = {min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])}
        if begin + stretch >= len(points):
            extremes.add(known[-1])  # the label shows the last value
        thinned += sorted(extremes)
    return thinned


def _curve(curve: Curve, number: int, plot: _Plot) -> str:
    """A curve as a path, broken at its gaps."""
    path, pen_down = [], False
    for point in curve:
        if point is not None:
            # The line of no length shows a point that has a gap on either side.
            path.append(
                ("L{:.1f} {:.1f}" if pen_down else "M{:.1f} {:.1f}h0").format(plot.x(point[0]), plot.y(point[1]))
            )
        pen_down = point is not None
    return f'<path class="curve curve-{number % 4 + 1}" d="{"".join(path)}"/>'


def _end_label(name: str, curve: Curve) -> str:
    """The name and the last value of a curve; empty for a curve without points."""
    last = next((point for point in reversed(curve) if point is not None), None)
    return "" if last is None else f"{name} {short(last[1])}".strip()


def _end_labels(curves: list[Curve], texts: list[str], plot: _Plot) -> list[str]:
    """The labels at the curves' ends, moved apart where they would overlap."""
    wanted = []
    for number, (curve, text) in enumerate(zip(curves, texts, strict=True)):
        last = next((point for point in reversed(curve) if point is not None), None)
        if last is not None:
            wanted.append([plot.y(last[1]), number, text])
    wanted.sort()
    for above, below in pairwise(wanted):
        below[0] = max(below[0], above[0] + _LABEL_PITCH)
    overflow = max(0.0, wanted[-1][0] - plot.bottom) if wanted else 0.0
    return [
        f'<text class="end end-{number % 4 + 1}" x="{plot.right + 7:.1f}" y="{max(plot.top, y - overflow) + 4:.1f}">'
        f"{escape(text)}</text>"
        for y, number, text in wanted
    ]


def _band(band: Band, plot: _Plot) -> str:
    """The shaded target, with its label."""
    low, high = band
    upper = plot.top if high is None else plot.y(high)
    lower = plot.bottom if low is None or (plot.log and low <= 0) else plot.y(low)
    return (
        f'<rect class="band" x="{plot.left:.1f}" y="{upper:.1f}" width="{plot.right - plot.left:.1f}" '
        f'height="{lower - upper:.1f}"/>'
        f'<text class="tick" x="{plot.right - 5:.1f}" y="{upper + 14:.1f}" text-anchor="end">target</text>'
    )


def _linear_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose [low, high]."""
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (-1.0, 1.0)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounding through text avoids 0.30000000000000004 on the axis.
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten that enclose [low, high], or ones, twos and fives where these are too few."""
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
    """The text of a tick of the y axis."""
    if log and not 1e-3 <= value < 1e4:
        mantissa, exponent = f"{value:e}".split("e")
        lead = "" if float(mantissa) == 1 else f"{float(mantissa):g}·"
        return f"{lead}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return _plain(value)


def _plain(value: float) -> str:
    """The value of a tick, with thin spaces between thousands and a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.6g}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
