"""A comparison as one self-contained page: `write_comparison` writes compare.html into its folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastflow.core.errors import InputError
from fastflow.core.files import read_sealed, read_up_to
from fastflow.core.plugins import first_line
from fastflow.generators.loading import may_need_width
from fastflow.report.rendering import LARGEST_PICTURE, data_uri, picture_size, settings_rows, write_page
from fastflow.training.flow_config import DiscoverConfig

Record = Mapping[str, Any]
"""The contents of a comparison's results.json."""

_MARKS = {"better": "▲ better", "worse": "▼ worse", "undecided": ""}


def write_comparison(folder: Path) -> Path:
    """Write `compare.html` into a comparison's folder, from its results.json and strips/, and return its path.

    The page is one file and needs no network.

    Raises:
        InputError: there is no results.json, or it isn't one that a comparison wrote.
    """
    file = folder / "results.json"
    record = read_sealed(file)
    try:
        view = _view(record, folder)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{str(file)!r} isn't one that a comparison wrote: {type(error).__name__}: {first_line(error)}; resume the "
            "comparison to write it again"
        ) from error
    return write_page("comparison.html", view, folder / "compare.html")


def _view(record: Record, folder: Path) -> dict[str, Any]:
    """Everything that the template shows."""
    methods = [method for method in record["methods"] if method not in record["left_out"]]
    return {
        "name": folder.resolve().name,
        "generator": record["generator"]["name"] or "a generator made in Python",
        "verdict": _verdict(record),
        "seeds": len(record["seeds"]),
        "paths": record["config"]["num_potentials"],
        "path_steps": record["config"]["path_steps"],
        "steps": record["config"]["steps"],
        "batch_size": record["config"]["batch_size"],
        "strength": record["strength"],
        "pairs": record["pairs"],
        "starts": record["starts"],
        "methods": [(method, record["methods"][method]) for method in methods],
        "measures": [_row(measure, methods) for measure in record["measures"].values()],
        "attributes": _attributes(record, methods),
        "strips": [strip for method in methods if (strip := _strip(record, folder, method)) is not None],
        "left_out": list(record["left_out"].items()),
        "settings": settings_rows(record["config"]),
        "generator_rows": settings_rows(record["generator"], leave_out="spec"),
        "versions": settings_rows(record["versions"]),
        "shell": _shell(record, folder.resolve().name),
    }


def _verdict(record: Record) -> str:
    """A sentence that says in how many comparisons the flows are better or worse, and which paths are purest."""
    verdicts = [
        found["verdict"]
        for measure in record["measures"].values()
        for found in measure["methods"].values()
        if "verdict" in found
    ]
    if not verdicts:
        return "Nothing to compare the flows with was measured."
    better, worse = verdicts.count("worse"), verdicts.count("better")
    purity = record["measures"].get("purity", {}).get("methods", {})
    best = next((name for name, found in purity.items() if found["best"]), None)
    seeds = len(record["seeds"])
    return (
        f"In {len(verdicts)} comparisons of a measure with another method over {seeds} seed{'s'[: seeds > 1]}, the "
        f"flows are better in {better} and worse in {worse}, as far as the seeds can tell (p < 0.05); "
        f"{len(verdicts) - better - worse} stay undecided."
        + (f" The purest paths are those of {best}." if best is not None else "")
    )


def _row(measure: Record, methods: list[str]) -> dict[str, Any]:
    """A measure's row of the table, with a cell for each method."""
    digits, cells = measure["digits"], []
    for method in methods:
        found = measure["methods"].get(method)
        if found is None:
            cells.append({"mean": "", "error": "", "best": False, "p": "", "mark": "", "verdict": ""})
            continue
        error, p = found["standard_error"], found.get("p")
        cells.append(
            {
                "mean": f"{found['mean']:.{digits}f}",
                "error": "" if error is None else f"± {error:.{digits}f}",
                "best": found["best"],
                "p": "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}",
                "mark": _MARKS[found.get("verdict", "undecided")],
                "verdict": found.get("verdict", ""),
            }
        )
    return {"title": measure["title"], "better": measure["better"], "what": measure["what"], "cells": cells}


def _attributes(record: Record, methods: list[str]) -> list[dict[str, Any]]:
    """A row for each attribute, with the share of each method's purest path; the share tints its cell."""
    rows = []
    for place, name in enumerate(record["attribute_names"]):
        cells = []
        for method in methods:
            found = record["attributes"][method]
            share = found["best_share"][place]
            cells.append(
                {
                    "share": f"{share:.2f}",
                    "covered": found["covered"][place],
                    "shade": f"{100 * share:.0f}",
                    "strong": share > 0.7,
                }
            )
        rows.append({"name": name, "cells": cells})
    return rows


def _strip(record: Record, folder: Path, method: str) -> dict[str, Any] | None:
    """The strip of a method's paths with the labels of its rows; None if it wasn't drawn."""
    rows = next((run["strip"] for run in record["runs"] if run["method"] == method and "strip" in run), None)
    file = folder / "strips" / f"{method}.png"
    if rows is None or not file.is_file():
        return None
    data = read_up_to(file, LARGEST_PICTURE)
    try:
        width, height = picture_size(data, "PNG")
    except InputError as error:
        raise InputError(f"{str(file)!r} {error}: remove it") from error
    return {
        "method": method,
        "what": record["methods"][method],
        "rows": rows,
        "uri": data_uri(data, "PNG"),
        "width": width,
        "height": height,
    }


def _shell(record: Record, name: str) -> str:
    """The command that makes the comparison again, with every setting that differs from the default."""
    named = "FILE.py:FUNCTION"  # stands for what was made in Python, which has no name on the command line
    generator, attributes = record["generator"]["name"] or named, record["attributes_from"] or named
    words = ["fastflow", "compare", "--generator", generator]
    words += ["--latent-dim", str(record["generator"]["latent_dim"])] if may_need_width(generator) else []
    words += [] if record["device"] == "cpu" else ["--device", record["device"]]
    words += ["--out", f"{name}-again", "--seeds", str(len(record["seeds"]))]
    words += ["--methods", *record["methods"]]
    words += ["--attributes", attributes]
    words += [] if record["names_given"] is None else ["--attribute-names", *record["names_given"]]
    words += ["--pairs", str(record["pairs"])]
    words += ["--starts", str(record["starts"])]
    words += [] if record["strength"] is None else ["--strength", str(record["strength"])]
    for field in fields(DiscoverConfig):
        value = record["config"][field.name]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if value != default and value is not None:
            words += _option(field.name, value)
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    """A setting as an option of the command line."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    flat = value if isinstance(value, list) else [value]
    flat = [number for item in flat for number in (item if isinstance(item, list) else [item])]
    return [f"--{option}", *map(str, flat)]
