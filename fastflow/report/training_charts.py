"""The curves of a training: a chart for each group of logged metrics, and the same curves in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fastflow.report.charts import Line, line_chart
from fastflow.report.number_formats import short
from fastflow.report.run_files import RunFiles, number, numbers
from fastflow.training.timers import PHASES

# A title, metrics that share an axis, and a caption for each chart, in the order of the page. Other metrics follow,
# each with a chart of its own.
_CHARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Total loss", ("loss",), "the weighted sum of the terms"),
    ("Physics terms", ("pde", "initial"), "mean squared residual along the paths, and squared gradient at their start"),
    ("Jacobian term", ("jacobian",), "lower means that images change more along the potentials"),
    ("Classifier loss", ("classifier",), "cross-entropy of naming the potential from two consecutive images"),
    ("Guidance", ("guidance",), "how far guided attributes' changes are from what is asked, or 1 minus a cosine"),
    (
        "Held still",
        ("hold", "keep"),
        "the other attributes' share of guided paths' change, and the change of kept features",
    ),
    ("Shell", ("shell",), "how far guided paths leave the distances from the prior's mean that latents have"),
    ("Training accuracy", ("accuracy",), "share of training pairs whose potential the classifier names"),
    ("Strength", ("strength",), "mean absolute pixel change per step"),
    ("Learning rate", ("learning_rate",), "Adam's learning rate, with its schedule and restarts"),
    ("Speed", ("steps_per_second",), "training steps per second"),
    ("Time", tuple(f"share_{phase}" for phase in PHASES), "share of each phase of a training step, backward included"),
)
_NOT_DRAWN = {"step"}
_FROM_ZERO = {"accuracy", "strength", "steps_per_second", "learning_rate", *(f"share_{phase}" for phase in PHASES)}


@dataclass
class Chart:
    """A chart of one or more metrics."""

    title: str
    keys: tuple[str, ...]
    caption: str
    svg: Markup


def training_charts(run: RunFiles) -> list[Chart]:
    """The charts of a run's metrics, in the order of the page."""
    keys = _metric_keys(run)
    grouped = {key for _, group, _ in _CHARTS for key in group}
    groups = [(title, tuple(key for key in group if key in keys), caption) for title, group, caption in _CHARTS]
    groups += [(key.replace("_", " ").capitalize(), (key,), "") for key in keys if key not in grouped]
    charts = []
    for place, (title, names, caption) in enumerate(group for group in groups if group[1]):
        lines = [_series(run, key) for key in names]
        values = [y for line in lines for y in line.y if math.isfinite(y)]
        log = min(values) > 0 and max(values) > 20 * min(values)
        band = _strength_target(run) if names == ("strength",) else None
        if band is not None:
            log = min(values) > 0 and band[0] > 0
        svg = line_chart(
            lines,
            from_zero=_FROM_ZERO.issuperset(names),
            key=f"chart-{place}",
            title=f"{title} over training",
            description=_describe(lines),
            log=log,
            band=band,
        )
        charts.append(Chart(title, names, caption + (" (logarithmic)" if log else ""), Markup(svg)))
    return charts


def logged_values(run: RunFiles) -> list[dict[str, Any]]:
    """The curves as a table: first, last, least and greatest value of each metric, and how many were not finite."""
    table = []
    for key in _metric_keys(run):
        values = _series(run, key).y
        finite = [y for y in values if math.isfinite(y)]
        numbers_ = [finite[0], finite[-1], min(finite), max(finite)]
        table.append({"key": key, "values": [short(v) for v in numbers_], "lost": len(values) - len(finite)})
    return table


def _series(run: RunFiles, key: str) -> Line:
    """The curve of a metric, over the steps that logged it."""
    # A step without the metric leaves no gap: some metrics are measured less often than others.
    pairs = [(number(entry, "step"), number(entry, key)) for entry in run.metrics]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return Line(key, [x for x, _ in known], [y for _, y in known])


def _metric_keys(run: RunFiles) -> list[str]:
    """The metrics that can be drawn: known ones in their order, then others as they were logged."""
    logged = dict.fromkeys(key for entry in run.metrics for key in entry if key not in _NOT_DRAWN)
    drawable = {key for key in logged if any(math.isfinite(y) for y in _series(run, key).y)}
    order = [key for _, keys, _ in _CHARTS for key in keys]
    return [key for key in order if key in drawable] + [key for key in logged if key in drawable and key not in order]


def _strength_target(run: RunFiles) -> tuple[float, float] | None:
    """The least and the greatest strength of the target, where both are known."""
    match numbers(run.evaluation, "strength", "target"):
        case [float(low), float(high)] if math.isfinite(low) and math.isfinite(high):
            return low, high
    return None


def _describe(lines: list[Line]) -> str:
    """What the curves show, in words."""
    return " ".join(
        f"{line.name}: {short(finite[0])} at the first logged step, {short(finite[-1])} at the last, "
        f"between {short(min(finite))} and {short(max(finite))} in all."
        for line in lines
        if (finite := [y for y in line.y if math.isfinite(y)])
    )
