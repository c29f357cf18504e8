"""The picture of a study: every variant's differences from the plain VAE with their standard errors."""

from __future__ import annotations

import math
from pathlib import Path

from fastflow.core.files import replacing
from fastflow.studies.likelihood.table import COMPARISONS, Results, differences
from fastflow.studies.likelihood.variants import PLAIN, VARIANTS


def draw(results: Results, file: Path) -> bool:
    """Draw table.png; return False, and draw nothing, where matplotlib isn't installed."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return False
    shown = {(name, variant) for name, variant, _ in results.found}
    names = [
        variant for variant in VARIANTS if variant != PLAIN and any((data, variant) in shown for data in results.data)
    ]
    count = len(results.data)
    figure, panels = plt.subplots(
        count, len(COMPARISONS), figsize=(14, count * (1.1 + 0.22 * len(names))), layout="constrained", sharey=True,
        squeeze=False,
    )  # fmt: skip
    for line, data in zip(panels, results.data, strict=True):
        for panel, (measure, against, head) in zip(line, COMPARISONS, strict=True):
            found = differences(results, data, measure, against)
            for place, variant in enumerate(names):
                if variant in found:
                    error = 0.0 if math.isnan(found[variant].standard_error) else found[variant].standard_error
                    panel.errorbar(found[variant].mean, place, xerr=error, fmt="o", color="C0", capsize=3)
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_title(f"{data}\n{head.replace(chr(92), '')}", fontsize=8)
            panel.set_xlabel(f"nats above {PLAIN}")
            panel.set_yticks(range(len(names)), names)
            panel.grid(axis="x", alpha=0.3)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)  # shared by all: the first variant on top, as in the table
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return True
