"""The table of a comparison: means over seeds, paired differences from the flows, and all of it as Markdown."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastflow.core.files import replacing
from fastflow.studies.comparison.measures import MEASURES
from fastflow.studies.comparison.methods import FLOWS
from fastflow.studies.jobs import Found
from fastflow.studies.statistics import SIGNIFICANT, Estimate, estimate, holm, p_cell, table_row, table_rows

Record = dict[str, Any]
"""The contents of results.json."""


def summarise(
    settings: Record, methods: Mapping[str, str], seeds: list[int], done: Mapping[tuple[str, int], Found]
) -> Record:
    """Everything that a comparison found, and the statistics that follow from it.

    Args:
        settings: the contents of comparison.json.
        methods: the description of each method by name, in the table's order.
        seeds: the seeds.
        done: the results of each method with each seed.

    Returns:
        The contents of results.json. "measures" has for each measure each method's mean and standard error and whether
        it is the best; for all methods but the flows also the paired difference from the flows, with its p-value
        corrected by Holm over the methods. A number that doesn't exist is None. "attributes" has for each method the
        largest share of a path's change that goes to each attribute, and with how many seeds the attribute is covered.
        "left_out" says why methods have no numbers. "runs" has all results.
    """
    reasons = {
        method: found["left_out"]
        for method in methods
        for seed in seeds
        if "left_out" in (found := done.get((method, seed), {}))
    }
    shown = [method for method in methods if method not in reasons]  # a method that lacks even one seed is left out
    values = {
        (name, method): {seed: done[method, seed][name] for seed in seeds if name in done.get((method, seed), {})}
        for name in MEASURES
        for method in shown
    }
    versions = {name: version(name) for name in ("fastflow", "torch", "numpy")}
    return {
        **settings,
        "seeds": seeds,
        "methods": dict(methods),
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        "measures": {
            name: {**what._asdict(), "methods": _compared({m: values[name, m] for m in shown}, what.better)}
            for name, what in MEASURES.items()
            if any(values[name, method] for method in shown)
        },
        "attributes": {
            method: _attributes([done[key] for key in ((method, seed) for seed in seeds) if key in done], settings)
            for method in shown
        },
        "left_out": reasons,
        "runs": [{"method": method, "seed": seed, **found} for (method, seed), found in sorted(done.items())],
    }


def _compared(values: dict[str, dict[int, float]], better: str) -> Record:
    """Each method's mean of a measure, and its paired difference from the flows'."""
    means = {method: estimate(list(found.values())) for method, found in values.items() if found}
    paired = {
        method: [values[method][seed] - values[FLOWS][seed] for seed in values[method] if seed in values[FLOWS]]
        for method in means
        if method != FLOWS and better
    }
    tested = {method: estimate(differences) for method, differences in paired.items() if differences}
    tested = dict(zip(tested, holm(list(tested.values())), strict=True))
    bests = [e.mean if better == "higher" else -e.mean for e in means.values()]
    return {
        method: {
            "mean": found.mean,
            "standard_error": _number(found.standard_error),
            "best": bool(better)
            and (found.mean if better == "higher" else -found.mean) == max(bests)
            and min(bests) < max(bests),
            **_difference(tested.get(method), better),
        }
        for method, found in means.items()
    }


def _difference(found: Estimate | None, better: str) -> Record:
    """The entries of a paired difference from the flows; none for the flows themselves."""
    if found is None:
        return {}
    sure = not math.isnan(found.p) and found.p < SIGNIFICANT
    ahead = (found.mean > 0) == (better == "higher")
    return {
        "difference": found.mean,
        "difference_error": _number(found.standard_error),
        "p": _number(found.p),
        "verdict": ("better" if ahead else "worse") if sure else "undecided",
    }


def _attributes(found: list[Found], settings: Record) -> Record:
    """How purely a method's paths change each attribute, over its seeds."""
    names = settings["attribute_names"]
    shares = [[_shares(row) for row in one["paths"]["change"]] for one in found]  # [seeds][K][A]
    return {
        "best_share": [estimate([max(row[a] for row in rows) for rows in shares]).mean for a in range(len(names))],
        "covered": [sum(name in one["covered"] for one in found) for name in names],
    }


def _shares(changes: list[float]) -> list[float]:
    """The share of each change in their sum."""
    total = sum(changes)
    return [change / total if total else 0.0 for change in changes]


def _number(value: float) -> float | None:
    """The value, or None for NaN, which JSON doesn't have."""
    return None if math.isnan(value) else value


def write_table(record: Record, file: Path) -> None:
    """Write the table as Markdown."""
    with replacing(file) as temporary:
        temporary.write_text(table(record), encoding="utf-8")


def table(record: Record) -> str:
    """The whole table as Markdown."""
    methods = [method for method in record["methods"] if method not in record["left_out"]]
    parts = ["# Potential flows beside other methods", about(record)]
    rows = []
    for measure in record["measures"].values():
        cells = [_cell(measure["methods"].get(method), measure["digits"]) for method in methods]
        arrow = {"higher": " ↑", "lower": " ↓", "": ""}[measure["better"]]
        rows.append(table_row(measure["title"] + arrow, *cells))
    parts.append(table_rows(["", *(f"`{method}`" for method in methods)], rows))
    rows = [
        table_row(name, *(_share(record["attributes"][method], a, len(record["seeds"])) for method in methods))
        for a, name in enumerate(record["attribute_names"])
    ]
    parts.append(
        "The largest share of a path's change that goes to each attribute, and with how many seeds it is covered:"
    )
    parts.append(table_rows(["", *(f"`{method}`" for method in methods)], rows))
    parts += [f"`{method}` is left out: {reason}." for method, reason in record["left_out"].items()]
    measures = "; ".join(f"{measure['title']}: {measure['what']}" for measure in record["measures"].values())
    parts.append(f"{measures}.")
    parts.append("; ".join(f"`{method}`: {what}" for method, what in record["methods"].items()) + ".")
    return "\n\n".join(parts) + "\n"


def about(record: Record) -> str:
    """A paragraph on what was compared, and how to read the table."""
    config, seeds = record["config"], record["seeds"]
    name = record["generator"]["name"] or "a generator made in Python"
    strength = "as the flows do at their own speed" if record["strength"] is None else f"by {record['strength']}"
    return (
        f"`{name}`: {config['num_potentials']} paths of {config['path_steps']} steps; {config['steps']} training steps "
        f"of batch {config['batch_size']}; seeds {seeds[0]} to {seeds[-1]}; {record['pairs']} pairs of images for the "
        f"classifiers, {record['starts']} starts for each path. Steps change the pixels {strength} in the mean. The "
        "table shows the mean and the standard error over the seeds, the best mean in bold. p is that of the paired "
        "difference from the flows, two-sided, corrected by Holm's method for the number of methods; ▲ is better, ▼ is "
        f"worse than the flows with p < {SIGNIFICANT}."
    )


def _cell(found: Record | None, digits: int) -> str:
    """A method's cell: mean, standard error, and the p-value of its difference from the flows."""
    if found is None:
        return ""
    text = f"{found['mean']:.{digits}f}"
    text = f"**{text}**" if found["best"] else text
    if found["standard_error"] is not None:
        text += f" ± {found['standard_error']:.{digits}f}"
    if found.get("p") is not None:
        mark = {"better": "▲ ", "worse": "▼ ", "undecided": ""}[found["verdict"]]
        p = p_cell(found["p"])
        text += f"<br>{mark}p {p if p.startswith('<') else f'= {p}'}"
    return text


def _share(found: Record, attribute: int, seeds: int) -> str:
    """A method's cell of an attribute: the largest share, and how many seeds cover it."""
    covered = found["covered"][attribute]
    return f"{found['best_share'][attribute]:.2f}" + (f" ({covered}/{seeds})" if covered else "")
