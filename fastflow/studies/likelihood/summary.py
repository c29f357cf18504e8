"""The table of a study: means over seeds, paired differences from the plain VAE, and what follows from them."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fastflow.core.files import replacing, write_json
from fastflow.studies.likelihood.variants import PLAIN, VARIANTS
from fastflow.studies.statistics import (
    SIGNIFICANT,
    Estimate,
    estimate,
    holm,
    mean_cell,
    p_cell,
    table_row,
    table_rows,
)

LIKELIHOODS = {
    "start": "log p(x_0)",
    "moved": "log p(x_n)",
    "separate": "log p(x_0) + log p(x_n)",
    "pair": "log p(x_0, x_n \\| k)",
}
"""The measures of likelihood, as heads of the table: nats for an image, or for a pair of them."""


class Comparison(NamedTuple):
    """A difference from the plain VAE."""

    measure: str
    against: str
    """The plain VAE's measure."""
    head: str


COMPARISONS = (
    Comparison("start", "start", LIKELIHOODS["start"]),
    Comparison("moved", "moved", LIKELIHOODS["moved"]),
    Comparison("pair", "pair", LIKELIHOODS["pair"]),
    Comparison("pair", "separate", f"{LIKELIHOODS['pair']} above plain's {LIKELIHOODS['separate']}"),
)
"""In the order of the table; the last is for variants with flows alone, what they know set against two latents."""

_LEGEND = (
    "Likelihoods are importance-weighted bounds in nats on held-out images: at their start, moved, the sum of these "
    "(two latents that know nothing of each other), and of a start with its moved image under one latent, given which "
    "transformation it was. What moves that latent is the transformation's flow or, in a VAE without flows, its best "
    "straight direction. `path error` is the mean absolute difference of pixels between transformed images and what is "
    "decoded along the same flow or direction, `agreement` how often the one that fits best is the transformation's "
    "own, `reconstruction` the error of each image's own reconstruction, `still` that of not moving. `share` is the "
    "engine's of a training step, CPU the training's."
)

Key = tuple[str, str, int]
"""Data set, variant, seed."""


class Results(NamedTuple):
    """All that a study has found so far."""

    size: str
    seeds: int
    data: dict[str, dict[str, Any]]
    """What each data set is, and the settings of its trainings."""
    found: dict[Key, dict[str, Any]]
    """What each training's measurement found."""

    def values(self, data: str, variant: str, measure: str) -> dict[int, float]:
        """A measure of a variant by seed, of the seeds that have it."""
        found = {seed: self.found.get((data, variant, seed), {}) for seed in range(self.seeds)}
        return {seed: values[measure] for seed, values in found.items() if measure in values}


def differences(results: Results, data: str, measure: str, against: str = "") -> dict[str, Estimate]:
    """Each variant's paired differences from the plain VAE, their p-values corrected for their number by Holm.

    Args:
        against: the plain VAE's measure, the same if left out.
    """
    plain = results.values(data, PLAIN, against or measure)
    found = {}
    for variant in VARIANTS:
        values = results.values(data, variant, measure)
        paired = [values[seed] - plain[seed] for seed in values if seed in plain]
        if variant != PLAIN and paired and (VARIANTS[variant].flows or against in ("", measure)):
            found[variant] = estimate(paired)
    return dict(zip(found, holm(list(found.values())), strict=True))


def write_summary(results: Results, out: Path, *, drawn: bool = False) -> Path:
    """Write results.json and table.md, with table.png where it was drawn, into a folder; return table.md's path."""
    runs = [
        {"data": data, "variant": variant, "seed": seed, **found}
        for (data, variant, seed), found in sorted(results.found.items())
    ]
    versions = {**{name: version(name) for name in ("fastflow", "torch", "numpy")}, "platform": platform.platform()}
    record = {
        "size": results.size,
        "seeds": results.seeds,
        "versions": versions,
        "data": results.data,
        "runs": runs,
    }
    write_json(out / "results.json", record)
    with replacing(out / "table.md") as file:
        file.write_text(table(results, drawn=drawn), encoding="utf-8")
    return out / "table.md"


def table(results: Results, *, drawn: bool) -> str:
    """All of it as Markdown."""
    parts = [
        f"Size `{results.size}`, seeds 0 to {results.seeds - 1}; mean and standard error over the seeds. {_LEGEND}",
        *(["![Differences from the plain VAE](table.png)"] if drawn else []),
        *(part for data in results.data for part in _of_data(results, data)),
    ]
    return "\n\n".join(parts) + "\n"


def _of_data(results: Results, data: str) -> Iterator[str]:
    about = results.data[data]
    config = about["config"]
    moves = ", ".join(config["transformations"]) or "its own transformations"
    yield (
        f"## {data}\n\nTraining: {about['train']}. Test: {about['test']}. Moved by {moves}. {config['network']} of "
        f"widths {', '.join(map(str, config['widths']))}, D = {config['latent_dim']}, batch {config['batch_size']}, "
        f"{config['steps']} steps, T = {config['path_steps']}, {config['likelihood']} likelihood."
    )
    measures = [*LIKELIHOODS, "path_error", "agreement", "reconstruction_error", "still_error", "engine_share"]
    digits = (1, 1, 1, 1, 4, 2, 4, 4, 2, 0)
    heads = [*LIKELIHOODS.values(), "path error", "agreement", "reconstruction", "still", "share", "CPU s", "seeds"]
    rows = []
    for variant, (_, what) in VARIANTS.items():
        columns = [list(results.values(data, variant, measure).values()) for measure in (*measures, "training_cpu_s")]
        if columns[0]:
            cells = [mean_cell(values, places) for values, places in zip(columns, digits, strict=True)]
            rows.append(table_row(f"`{variant}`: {what}", *cells, str(len(columns[0]))))
    yield table_rows(["", *heads], rows)
    yield f"Paired differences from `{PLAIN}`, with two-sided p-values after Holm over the rows:"
    compared = [(c.head, differences(results, data, c.measure, c.against)) for c in COMPARISONS]
    rows = [
        table_row(f"`{variant}`", *(cell for _, found in compared for cell in _difference(found.get(variant))))
        for variant in VARIANTS
        if any(variant in found for _, found in compared)
    ]
    yield table_rows(["", *(cell for head, _ in compared for cell in (head, "p"))], rows)
    yield "\n".join([*_verdicts(compared), *_ratios(results, data)])
    failures = [
        f"`{variant}` with seed {seed} failed: {found['failed']}."
        for (name, variant, seed), found in sorted(results.found.items())
        if name == data and "failed" in found
    ]
    if failures:
        yield " ".join(failures)


def _verdicts(compared: list[tuple[str, dict[str, Estimate]]]) -> Iterator[str]:
    """What the likelihoods say of the claim, in words."""
    for head, found in compared:
        if "flows" in found:
            flows = found["flows"]
            sure = flows.p < SIGNIFICANT  # not where it is NaN
            says = ("holds here" if flows.mean > 0 else "does not hold here, they lower it") if sure else "is undecided"
            yield (
                f"- That the flows raise {_spoken(head)} {says}: {flows.mean:+.1f} ± {flows.standard_error:.1f} nats "
                f"over {flows.seeds} seeds" + (f", p {_relation(flows.p)}." if flows.seeds > 1 else ".")
            )
        raising = [f"`{variant}`" for variant, e in found.items() if e.p < SIGNIFICANT and e.mean > 0]
        lowering = [f"`{variant}`" for variant, e in found.items() if e.p < SIGNIFICANT and e.mean < 0]
        yield (
            f"- {_spoken(head)} is raised, p < {SIGNIFICANT}, by {', '.join(raising) or 'none'}; lowered by "
            f"{', '.join(lowering) or 'none'}."
        )


def _spoken(head: str) -> str:
    """A column's head within a sentence, which has no columns to keep apart."""
    return head.replace("\\|", "|")


def _ratios(results: Results, data: str) -> Iterator[str]:
    """How the flows' error compares with that of a plain VAE's straight directions, in words."""
    straight = results.values(data, PLAIN, "path_error")
    for variant in ("flows", "companion"):
        flow = results.values(data, variant, "path_error")
        ratios = [flow[seed] / straight[seed] for seed in flow if seed in straight]
        if ratios:
            yield (
                f"- Along its paths `{variant}` errs {mean_cell(ratios, 3)} times as much as the plain VAE along its "
                "best straight directions."
            )


def draw(results: Results, file: Path) -> bool:
    """Every variant's difference from the plain VAE with its standard error; False without matplotlib."""
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
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)  # of all: the first variant on top, as in the table
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return True


def _difference(found: Estimate | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    error = "" if math.isnan(found.standard_error) else f" ± {found.standard_error:.1f}"
    return f"{found.mean:+.1f}{error}", p_cell(found.p)


def _relation(p: float) -> str:
    return p_cell(p) if p < 0.001 else f"= {p_cell(p)}"
