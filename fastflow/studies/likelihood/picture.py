"""The picture of a study: every variant's nats above the plain VAE with their standard errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fastflow.core.files import replacing
from fastflow.studies.likelihood.measures import COMPOSED, LONGER, START, UNSEEN, pair, sequence
from fastflow.studies.likelihood.table import Results, differences
from fastflow.studies.likelihood.variants import GROUPS, PLAIN, VARIANTS, Group

_PANELS: tuple[tuple[str, Group], ...] = (
    ("x_0..x_T, trained on whole paths", "paths"),
    ("x_0, x_n, trained on pairs", "pairs"),
)


def draw(results: Results, file: Path) -> bool:
    """Draw table.png; return False, and draw nothing, where matplotlib isn't installed."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return False
    count = len(results.data)
    figure, panels = plt.subplots(count, 4, figsize=(18, 4.2 * count), layout="constrained", squeeze=False)
    for line, data in zip(panels, results.data, strict=True):
        for panel, (head, group) in zip(line, _PANELS, strict=False):
            _draw_lengths(panel, results, data, group)
            panel.set_title(f"{data}: {head}", fontsize=9)
        _draw_beyond(line[2], results, data)
        _draw_starts(line[3], results, data)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return True


def _draw_lengths(panel: Any, results: Results, data: str, group: Group) -> None:
    """Nats above the plain VAE by the number of steps, a line for each variant."""
    measure = sequence if group == "paths" else pair
    found = [differences(results, data, group, measure(length), PLAIN) for length in results.lengths]
    for place, variant in enumerate(VARIANTS):
        points = [(n, e[variant]) for n, e in zip(results.lengths, found, strict=True) if variant in e]
        if points:
            steps, estimates = zip(*points, strict=True)
            panel.errorbar(
                steps, [e.mean for e in estimates], yerr=[_error(e.standard_error) for e in estimates], label=variant,
                color=f"C{place}", linewidth=2.0 if VARIANTS[variant].ours else 1.0, marker="o", markersize=3,
            )  # fmt: skip
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xticks(results.lengths)
    panel.set_xlabel("steps")
    panel.set_ylabel(f"nats above {PLAIN}")
    panel.grid(alpha=0.3)
    if any(found):
        panel.legend(fontsize=7)


def _draw_beyond(panel: Any, results: Results, data: str) -> None:
    """Nats above the plain VAE where trainings saw a part of the data, a line for each variant."""
    measures = (sequence(max(results.lengths)), LONGER, COMPOSED, UNSEEN)
    found = [differences(results, data, "parts", measure, PLAIN) for measure in measures]
    for place, variant in enumerate(VARIANTS):
        points = [(at, e[variant]) for at, e in enumerate(found) if variant in e]
        if points:
            spots, estimates = zip(*points, strict=True)
            panel.errorbar(
                [spot + 0.05 * (place - len(VARIANTS) / 2) for spot in spots], [e.mean for e in estimates],
                yerr=[_error(e.standard_error) for e in estimates], label=variant, color=f"C{place}", fmt="o",
                markersize=6 if VARIANTS[variant].ours else 4, capsize=2,
            )  # fmt: skip
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xticks(range(len(measures)), ["as trained", "longer", "two in turn", "unseen kind"])
    panel.set_title(f"{data}: trained on parts", fontsize=9)
    panel.set_ylabel(f"nats above {PLAIN}")
    panel.grid(axis="y", alpha=0.3)
    if any(found):
        panel.legend(fontsize=7)


def _draw_starts(panel: Any, results: Results, data: str) -> None:
    """Nats above the plain VAE for single images, a row for each variant, in every group."""
    names = [variant for variant in VARIANTS if variant != PLAIN]
    drawn = False
    for group, colour, shift in zip(GROUPS, ("C0", "C1", "C2"), (-0.2, 0.0, 0.2), strict=True):
        found = differences(results, data, group, START, PLAIN)
        rows = [(place + shift, found[name]) for place, name in enumerate(names) if name in found]
        if rows:
            drawn = True
            places, estimates = zip(*rows, strict=True)
            panel.errorbar(
                [e.mean for e in estimates], places, xerr=[_error(e.standard_error) for e in estimates], fmt="o",
                color=colour, capsize=3, label=GROUPS[group].lower(),
            )  # fmt: skip
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)  # the first variant on top, as in the table
    panel.set_title(f"{data}: log p(x_0)", fontsize=9)
    panel.set_xlabel(f"nats above {PLAIN}")
    panel.grid(axis="x", alpha=0.3)
    if drawn:
        panel.legend(fontsize=7)


def _error(standard_error: float) -> float:
    return 0.0 if math.isnan(standard_error) else standard_error
