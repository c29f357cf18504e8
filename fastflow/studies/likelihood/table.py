"""The table of a study: means over seeds, paired differences between variants, and verdicts in words."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fastflow.core.files import replacing, write_sealed
from fastflow.studies.jobs import are_numbers
from fastflow.studies.likelihood.measures import (
    COMPOSED,
    LONGER,
    MOVED,
    START,
    UNKNOWN,
    UNSEEN,
    pair,
    sequence,
)
from fastflow.studies.likelihood.parts import REACH
from fastflow.studies.likelihood.variants import GROUPS, OURS, PLAIN, VARIANTS, Group
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

OTHERS = {
    "path_error": ("path error", 4),
    "agreement": ("agreement", 2),
    "reconstruction_error": ("reconstruction", 4),
    "still_error": ("still", 4),
    "start_effective": ("samples of x_0", 2),
    "published": ("as published", 1),
    "engine_share": ("share", 2),
    "training_cpu_s": ("CPU s", 0),
}
"""The measures beside the likelihoods, with their heads in the table and their digits."""

_OPTIONAL = {"training_cpu_s"}
"""Those that a training lacks which was only measured again."""

_LEGEND = (
    "Likelihoods are estimates from below by importance sampling, in nats: `log p(x_0)` of a single image, `x_n given "
    "k` of one image after n steps of transformation k, `x_0, x_n` of a start together with that image, and `x_0..x_T` "
    "of all images of T steps. Each has one chain of latents, given the transformation but for `k unknown`. The chain "
    f"of `{PLAIN}` has independent latents, so that its `x_0..x_T` is the sum of T + 1 likelihoods of single images."
)
_LEGEND_PARTS = (
    f"Trainings have seen {REACH} of the transformations' way only, and never saw one kind of images (of a digit, or "
    "of a shape) move by the first transformation. They are measured where they have seen it all, and beyond: on the "
    "images that follow on a path, given those before; on one transformation for half of the steps and another one "
    "for the rest; and on that kind of images moved by that transformation."
)
_LEGEND_OTHERS = (
    "`path error` is the mean absolute difference of pixels between transformed images and those decoded along the "
    "transition's means, or along the best straight directions if latents are independent. `agreement` is how often "
    "the path that fits best is the transformation's own. `reconstruction` is the error of each image's own "
    "reconstruction, and `still` the error of not moving. `samples` is the median effective sample size as a share of "
    "the samples. `share` is the engine's share of a step, and `CPU s` the training's CPU time. `as published` "
    "is no likelihood: it is the figure that a published program prints as one, on training images (see "
    "`fastflow.metrics.published_figure`)."
)

Key = tuple[str, Group, str, int]
"""A training's data set, group, variant and seed."""


class Results(NamedTuple):
    """Everything that a study has found so far."""

    size: str
    seeds: int
    lengths: tuple[int, ...]
    """The numbers of steps of the pairs and sequences."""
    data: dict[str, dict[str, Any]]
    """The description of each data set, and the settings of its trainings."""
    found: dict[Key, dict[str, Any]]
    """The measurements of each training."""

    def values(self, data: str, group: Group, variant: str, measure: str) -> dict[int, float]:
        """The values of a variant's measure by seed, for the seeds that have it."""
        found = {seed: self.found.get((data, group, variant, seed), {}) for seed in range(self.seeds)}
        return {seed: values[measure] for seed, values in found.items() if measure in values}

    def likelihoods(self, group: Group) -> dict[str, str]:
        """The measures of likelihood of a group, with their heads in the table."""
        last = max(self.lengths)
        if group == "parts":
            whole = f"x_0..x_{last}"
            after = f"x_{last + 1}..x_{int(last / REACH)}" if int(last / REACH) > last + 1 else f"x_{last + 1}"
            return {
                START: "log p(x_0)",
                sequence(last): whole,
                LONGER: f"{after} after {whole}",
                COMPOSED: f"{whole}, two in turn",
                UNSEEN: f"{whole}, unseen kind",
            }
        heads = {START: "log p(x_0)", MOVED: f"x_{last} given k"}
        heads |= {pair(n): f"x_0, x_{n}" for n in self.lengths}
        if group == "paths":
            longer = [length for length in self.lengths if length > 1]  # a path of one step is a pair
            heads |= {sequence(length): f"x_0..x_{length}" for length in longer}
            heads[UNKNOWN] = f"x_0..x_{last}, k unknown"
        return heads


def differences(results: Results, data: str, group: Group, measure: str, base: str) -> dict[str, Estimate]:
    """How far each other variant lies above `base`, paired by seeds, with p-values after Holm for all of them."""
    against = results.values(data, group, base, measure)
    found = {}
    for variant in VARIANTS:
        values = results.values(data, group, variant, measure)
        paired = [values[seed] - against[seed] for seed in values if seed in against]
        if variant != base and paired:
            found[variant] = estimate(paired)
    return dict(zip(found, holm(list(found.values())), strict=True))


def is_measured(found: dict[str, Any]) -> bool:
    """Whether a JSON object holds what a job finds: the measurements of a training, or why it failed."""
    if "failed" in found:
        return isinstance(found["failed"], str)
    known = (START, MOVED, UNKNOWN, LONGER, COMPOSED, UNSEEN)
    nats = [name for name in found if name in known or name.startswith(("pair-", "sequence-"))]
    others = [name for name in OTHERS if name in found]
    return {START, *OTHERS} - _OPTIONAL <= found.keys() and are_numbers(found, (*nats, *others))


def write_summary(results: Results, out: Path, *, drawn: bool = False) -> Path:
    """Write results.json and table.md into a folder, and return the path of table.md.

    Args:
        results: what the study has found.
        out: the folder.
        drawn: whether the folder holds table.png, which table.md then shows.
    """
    runs = [
        {"data": data, "group": group, "variant": variant, "seed": seed, **found}
        for (data, group, variant, seed), found in sorted(results.found.items())
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
        *(["![Nats above the plain VAE](table.png)"] if drawn else []),
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
        f"widths {', '.join(map(str, config['widths']))}, D = {config['latent_dim']}, {config['steps']} steps of "
        f"{config['batch_size']} paths, T = {config['path_steps']}, {config['likelihood']} likelihood."
    )
    yield "\n".join(_verdicts(results, data))
    for group, head in GROUPS.items():
        if any(name == data and of == group for name, of, _, _ in results.found):
            yield from _group_section(results, data, group, head)
    failures = [
        f"`{variant}` with seed {seed} failed: {found['failed']}."
        for (name, _, variant, seed), found in sorted(results.found.items())
        if name == data and "failed" in found
    ]
    if failures:
        yield " ".join(failures)


def _group_section(results: Results, data: str, group: Group, head: str) -> Iterator[str]:
    """The tables of one group of a data set."""
    nats = results.likelihoods(group)
    yield f"### {data}: {head.lower()}"
    if group == "parts":
        yield _LEGEND_PARTS
    yield table_rows(["nats", *nats.values(), "seeds"], list(_mean_rows(results, data, group, dict.fromkeys(nats, 1))))
    yield f"Above `{PLAIN}`, with two-sided p-values after Holm over the rows:"
    yield _difference_table(results, data, group, PLAIN, 1)
    yield f"`{OURS}` above each other variant, with p-values after Holm over the rows:"
    yield _difference_table(results, data, group, OURS, -1)
    digits = {name: places for name, (_, places) in OTHERS.items()}
    heads = [head for head, _ in OTHERS.values()]
    if group != "pairs":
        last = max(results.lengths)
        digits[f"{sequence(last)}_effective"] = 3
        heads.append(f"samples of x_0..x_{last}")
    yield _LEGEND_OTHERS
    yield table_rows(["", *heads, "seeds"], list(_mean_rows(results, data, group, digits)))


def _mean_rows(results: Results, data: str, group: Group, digits: dict[str, int]) -> Iterator[str]:
    """A row for each variant with the means of measures, each with so many digits."""
    for variant, about in VARIANTS.items():
        columns = [list(results.values(data, group, variant, measure).values()) for measure in digits]
        if columns[0]:
            cells = [mean_cell(values, places) for values, places in zip(columns, digits.values(), strict=True)]
            yield table_row(f"`{variant}`: {about.what}", *cells, str(len(columns[0])))


def _difference_table(results: Results, data: str, group: Group, base: str, sign: int) -> str:
    """A table of the differences from `base`, or with sign -1 of those of `base` from the others."""
    nats = results.likelihoods(group)
    columns = [differences(results, data, group, measure, base) for measure in nats]
    rows = [
        table_row(f"`{variant}`", *(_difference_cell(found.get(variant), sign) for found in columns))
        for variant in VARIANTS
        if any(variant in found for found in columns)
    ]
    return table_rows(["nats", *nats.values()], rows)


def _verdicts(results: Results, data: str) -> Iterator[str]:
    """A sentence for single images, for pairs and for sequences: how far ours lies above each rival."""
    last = max(results.lengths)
    asked: list[tuple[str, Group, str]] = [
        ("Single images, trained on pairs", "pairs", START),
        ("Single images, trained on whole paths", "paths", START),
        (f"Pairs (x_0, x_{last}), trained on pairs", "pairs", pair(last)),
        (f"Sequences x_0..x_{last}, trained on whole paths", "paths", sequence(last)),
        (f"Longer than in training, {results.likelihoods('parts')[LONGER]}", "parts", LONGER),
        ("One transformation after another, each of which was trained alone", "parts", COMPOSED),
        ("A transformation of images of a kind that never moved by it", "parts", UNSEEN),
    ]
    for what, group, measure in asked:
        found = differences(results, data, group, measure, OURS)
        rivals = [f"`{name}` {_spoken(found[name])}" for name in VARIANTS if name in found and not VARIANTS[name].ours]
        if rivals:
            yield f"- {what}: `{OURS}` has, in nats above {', '.join(rivals)}."
    for group in GROUPS:
        straight = results.values(data, group, PLAIN, "path_error")
        for variant in ("flow", OURS):
            flow = results.values(data, group, variant, "path_error")
            ratios = [flow[seed] / straight[seed] for seed in flow if seed in straight]
            if ratios:
                yield (
                    f"- {GROUPS[group]}, `{variant}` errs along its paths {mean_cell(ratios, 3)} times as much as "
                    f"`{PLAIN}` along its best straight directions."
                )


def _spoken(found: Estimate) -> str:
    """How far ours lies above a variant, from that variant's difference: "+8.1 ± 0.2 (p < 0.001)"."""
    if math.isnan(found.p):
        return _signed(found, -1)
    sure = "" if found.p < SIGNIFICANT else ", undecided"
    return f"{_signed(found, -1)} (p {'' if found.p < 0.001 else '= '}{p_cell(found.p)}{sure})"


def _difference_cell(found: Estimate | None, sign: int) -> str:
    """A difference's cell with its p-value; empty where there is no difference."""
    if found is None:
        return ""
    p = p_cell(found.p)
    return _signed(found, sign) + (f", p {'' if p.startswith('<') else '= '}{p}" if p else "")


def _signed(found: Estimate, sign: int) -> str:
    error = "" if math.isnan(found.standard_error) else f" ± {found.standard_error:.1f}"
    return f"{round(sign * found.mean, 1) + 0.0:+.1f}{error}"  # no "-0.0"
