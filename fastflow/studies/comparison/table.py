"""A comparison in numbers: means over seeds, paired differences from the flows, and a table in Markdown."""

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
    """Everything that a comparison found, and what follows from it.

    Args:
        settings: those of comparison.json. methods: what each is, by name, in the table's order.
        done: what each method with each seed was found to do.

    Returns:
        `measures` has for each measure each method's mean and standard error, whether it is best, and but for the flows
        the paired difference from theirs with its p-value, corrected by Holm over the methods; None where there is no
        number. `attributes` has for each method the largest share of a path's change that goes to each attribute, and
        with how many seeds it is covered. `left_out` tells why methods have no numbers; `runs` is all that was found.
    """
    reasons = {
        method: found["left_out"]
        for method in methods
        for seed in seeds
        if "left_out" in (found := done.get((method, seed), {}))
    }
    shown = [method for method in methods if method not in reasons]  # one that lacks a single seed is in no comparison
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
    """Of a measure, each method's estimate beside that of the flows."""
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
    """What a method's paths do to each attribute, over its seeds."""
    names = settings["attribute_names"]
    shares = [[_shares(row) for row in one["paths"]["change"]] for one in found]  # [seeds][K][A]
    return {
        "best_share": [estimate([max(row[a] for row in rows) for rows in shares]).mean for a in range(len(names))],
        "covered": [sum(name in one["covered"] for one in found) for name in names],
    }


def _shares(changes: list[float]) -> list[float]:
    total = sum(changes)
    return [change / total if total else 0.0 for change in changes]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_table(record: Record, file: Path) -> None:
    """Write the table as Markdown."""
    with replacing(file) as temporary:
        temporary.write_text(table(record), encoding="utf-8")


def table(record: Record) -> str:
    """All of it as Markdown."""
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
    """What the table is of, in words."""
    config, seeds = record["config"], record["seeds"]
    name = record["generator"]["name"] or "a generator made in Python"
    strength = "as the flows do at their own speed" if record["strength"] is None else f"by {record['strength']}"
    return (
        f"`{name}`: {config['num_potentials']} paths of {config['path_steps']} steps; {config['steps']} training steps "
        f"of batch {config['batch_size']}; seeds {seeds[0]} to {seeds[-1]}; {record['pairs']} pairs of images for the "
        f"classifiers, {record['starts']} starts for each path. Steps change the pixels {strength} in the mean. Mean "
        "and standard error over the seeds, the best in bold. p: two-sided, of the paired differences from the flows, "
        f"after Holm over the methods; ▲ better, ▼ worse than the flows with p < {SIGNIFICANT}."
    )


def _cell(found: Record | None, digits: int) -> str:
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
    covered = found["covered"][attribute]
    return f"{found['best_share'][attribute]:.2f}" + (f" ({covered}/{seeds})" if covered else "")
