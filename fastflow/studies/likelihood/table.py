"""The table of a study: means over seeds, paired differences from the plain VAE, and verdicts in words."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fastflow.core.files import replacing, write_sealed
from fastflow.studies.jobs import are_numbers
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
"""The measures of likelihood with their heads in the table, in nats for an image or for a pair of images."""

OTHERS = ("path_error", "agreement", "reconstruction_error", "still_error", "engine_share")
"""The other measures of the table."""


class Comparison(NamedTuple):
    """A measure of a variant that is compared with a measure of the plain VAE."""

    measure: str
    """The variant's measure."""
    against: str
    """The plain VAE's measure."""
    head: str
    """The head of the column in the table."""


COMPARISONS = (
    Comparison("start", "start", LIKELIHOODS["start"]),
    Comparison("moved", "moved", LIKELIHOODS["moved"]),
    Comparison("pair", "pair", LIKELIHOODS["pair"]),
    Comparison("pair", "separate", f"{LIKELIHOODS['pair']} above plain's {LIKELIHOODS['separate']}"),
)
"""The comparisons, in the order of the table.

The last is made for variants with flows only: one latent that a flow carries, against two independent latents.
"""

_LEGEND = (
    "Likelihoods are importance-weighted bounds in nats on held-out images: of images at their start, of moved images, "
    "the sum of these two (which has two independent latents), and of a start together with its moved image under one "
    "latent, given which transformation it was. That latent is moved by the transformation's flow or, in a VAE without "
    "flows, along its best straight direction. `path error` is the mean absolute difference of pixels between "
    "transformed images and the images decoded along that flow or direction. `agreement` is how often the path that "
    "fits best is the transformation's own. `reconstruction` is the error of each image's own reconstruction, and "
    "`still` the error of not moving. `share` is the engine's share of a training step, and `CPU s` the training's CPU "
    "time."
)

Key = tuple[str, str, int]
"""A training's data set, variant and seed."""


class Results(NamedTuple):
    """Everything that a study has found so far."""

    size: str
    seeds: int
    data: dict[str, dict[str, Any]]
    """The description of each data set, and the settings of its trainings."""
    found: dict[Key, dict[str, Any]]
    """The measurements of each training."""

    def values(self, data: str, variant: str, measure: str) -> dict[int, float]:
        """The values of a variant's measure by seed, for the seeds that have it."""
        found = {seed: self.found.get((data, variant, seed), {}) for seed in range(self.seeds)}
        return {seed: values[measure] for seed, values in found.items() if measure in values}


def differences(results: Results, data: str, measure: str, against: str = "") -> dict[str, Estimate]:
    """Each variant's paired differences from the plain VAE, with p-values corrected by Holm for their number.

    Args:
        results: what the study has found.
        data: the data set.
        measure: the variant's measure.
        against: the plain VAE's measure; the same if left out.
    """
    plain = results.values(data, PLAIN, against or measure)
    found = {}
    for variant in VARIANTS:
        values = results.values(data, variant, measure)
        paired = [values[seed] - plain[seed] for seed in values if seed in plain]
        if variant != PLAIN and paired and (VARIANTS[variant].flows or against in ("", measure)):
            found[variant] = estimate(paired)
    return dict(zip(found, holm(list(found.values())), strict=True))


def is_measured(found: dict[str, Any]) -> bool:
    """Whether a JSON object holds what a job finds: the measurements of a training, or why it failed."""
    if "failed" in found:
        return isinstance(found["failed"], str)
    return set(LIKELIHOODS) <= found.keys() and are_numbers(found, (*LIKELIHOODS, *OTHERS, "training_cpu_s"))


def write_summary(results: Results, out: Path, *, drawn: bool = False) -> Path:
    """Write results.json and table.md into a folder, and return the path of table.md.

    Args:
        results: what the study has found.
        out: the folder.
        drawn: whether the folder holds table.png, which table.md then shows.
    """
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
    write_sealed(out / "results.json", record)
    with replacing(out / "table.md") as file:
        file.write_text(table(results, drawn=drawn), encoding="utf-8")
    return out / "table.md"


def table(results: Results, *, drawn: bool) -> str:
    """The whole table as Markdown."""
    parts = [
        f"Size `{results.size}`, seeds 0 to {results.seeds - 1}; mean and standard error over the seeds. {_LEGEND}",
        *(["![Differences from the plain VAE](table.png)"] if drawn else []),
        *(part for data in results.data for part in _data_section(results, data)),
    ]
    return "\n\n".join(parts) + "\n"


def _data_section(results: Results, data: str) -> Iterator[str]:
    """The paragraphs and tables of one data set."""
    about = results.data[data]
    config = about["config"]
    moves = ", ".join(config["transformations"]) or "its own transformations"
    yield (
        f"## {data}\n\nTraining: {about['train']}. Test: {about['test']}. Moved by {moves}. {config['network']} of "
        f"widths {', '.join(map(str, config['widths']))}, D = {config['latent_dim']}, batch {config['batch_size']}, "
        f"{config['steps']} steps, T = {config['path_steps']}, {config['likelihood']} likelihood."
    )
    measures = [*LIKELIHOODS, *OTHERS]
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
        table_row(f"`{variant}`", *(cell for _, found in compared for cell in _difference_cells(found.get(variant))))
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
    """Sentences on whether flows, and other variants, raise each likelihood."""
    for head, found in compared:
        if "flows" in found:
            flows = found["flows"]
            sure = flows.p < SIGNIFICANT  # False where p is NaN
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
    """A column's head as a sentence has it, without the escapes that a table needs."""
    return head.replace("\\|", "|")


def _ratios(results: Results, data: str) -> Iterator[str]:
    """Sentences that compare the flows' error along paths with the error of a plain VAE's straight directions."""
    straight = results.values(data, PLAIN, "path_error")
    for variant in ("flows", "companion"):
        flow = results.values(data, variant, "path_error")
        ratios = [flow[seed] / straight[seed] for seed in flow if seed in straight]
        if ratios:
            yield (
                f"- Along its paths `{variant}` errs {mean_cell(ratios, 3)} times as much as the plain VAE along its "
                "best straight directions."
            )


def _difference_cells(found: Estimate | None) -> tuple[str, str]:
    """A difference's cell and its p-value's; empty where there is no difference."""
    if found is None:
        return "", ""
    error = "" if math.isnan(found.standard_error) else f" ± {found.standard_error:.1f}"
    return f"{found.mean:+.1f}{error}", p_cell(found.p)


def _relation(p: float) -> str:
    """The words that follow "p" in a sentence: "= 0.031" or "< 0.001"."""
    return p_cell(p) if p < 0.001 else f"= {p_cell(p)}"
