"""The reading of a run folder for its report: what is missing or damaged becomes a note, not an error."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastflow.core.digests import unsealed
from fastflow.core.errors import InputError
from fastflow.core.files import LARGEST_JSON, check_no_links, parse_json, read_up_to
from fastflow.saved.names import names_in
from fastflow.training.checkpoint import latest_checkpoint, weights_digest
from fastflow.training.run_folder import MADE_BY_RUNS, check_unchanged

_LARGEST_LOG = 1 << 28
"""The most bytes that are read of a metrics log."""


@dataclass
class RunFiles:
    """The contents of a run folder; `notes` says in sentences, by file, what could not be read and why."""

    folder: Path
    settings: dict[str, Any]  # the whole of config.json
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    traversals: dict[str, Any] | None  # traversals/index.json
    names: dict[int, str]  # names.json; empty if no potential has a name
    attributes: dict[str, Any] | None  # attributes.json, if attributes were measured
    landscapes: dict[str, Any] | None  # traversals/landscapes.json
    notes: dict[str, list[str]] = field(default_factory=dict)


def read_run(run_folder: str | os.PathLike[str]) -> RunFiles:
    """Read the files of a run folder.

    Raises:
        InputError: the folder does not exist, holds no config.json, or holds one that is not a JSON object.
    """
    folder = Path(run_folder)
    file = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected a run folder, as `fastflow discover --out` writes it")
    if not file.is_file():
        raise InputError(
            f"{folder} is not a run: it has no config.json; give the folder that `fastflow discover --out` wrote"
        )
    check_no_links(folder, MADE_BY_RUNS)
    settings, problem = _json_object(file, None)
    if settings is None:
        raise InputError(f"{file} {problem}: expected the JSON object that a run writes; train the run again")
    check_unchanged(settings, folder)

    notes: dict[str, list[str]] = {}
    metrics = _metrics(folder / "metrics.jsonl", notes)
    optional = {}
    for name in ("evaluation.json", "traversals/index.json"):
        optional[name], problem = _json_object(folder / name)
        if problem:
            notes[name] = [f"This run folder’s {name} {problem}."]
    for name in ("names.json", "attributes.json", "traversals/landscapes.json"):  # optional: missing ones need no note
        optional[name], problem = _json_object(folder / name)
        if problem not in ("", "is missing"):
            notes.setdefault("traversals/index.json", []).append(f"This run folder’s {name} {problem}.")
    names: dict[int, str] = {}
    try:
        names = {} if optional["names.json"] is None else names_in(optional["names.json"], "names.json")
    except InputError as error:
        notes.setdefault("traversals/index.json", []).append(f"This run folder’s {error}.")
    trained = number(metrics[-1] if metrics else None, "step")
    present = _present_weights(folder)
    for name, what, section in (
        ("evaluation.json", "these numbers were measured", "evaluation.json"),
        ("attributes.json", "the attributes were measured", "traversals/index.json"),
        ("traversals/index.json", "these pictures were drawn", "traversals/index.json"),
    ):
        measured, weights = number(optional[name], "training_steps"), at(optional[name], "weights")
        if measured is not None and trained is not None and measured < trained:
            notes.setdefault(section, []).append(
                f"Training has gone on to step {trained:.0f} since {what} at step {measured:.0f}."
            )
        elif isinstance(weights, str) and present not in (None, weights):
            notes.setdefault(section, []).append(f"The run’s weights have changed since {what}.")
    return RunFiles(
        folder=folder,
        settings=settings,
        metrics=metrics,
        evaluation=optional["evaluation.json"],
        traversals=optional["traversals/index.json"],
        names=names,
        attributes=optional["attributes.json"],
        landscapes=optional["traversals/landscapes.json"],
        notes=notes,
    )


def at(tree: object, *keys: str) -> Any:
    """The value at a path of nested JSON objects, or None where the path ends early."""
    for key in keys:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def number(tree: object, *keys: str) -> float | None:
    """The number at a path: None where there is none, NaN where it is there but not finite."""
    value = at(tree, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def numbers(tree: object, *keys: str) -> list[float | None]:
    """The list of numbers at a path, each as `number` reads it; empty where there is none."""
    values = at(tree, *keys)
    return [number({"": value}, "") for value in values] if isinstance(values, list) else []


def whole(tree: object, *keys: str) -> int | None:
    """The whole number at a path, or None."""
    value = at(tree, *keys)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _present_weights(folder: Path) -> str | None:
    """The digest of the newest weights that a run has saved; None if there are none, or they can't be read."""
    try:
        newest = latest_checkpoint(folder / "checkpoints")
        return None if newest is None else weights_digest(newest)
    except InputError:
        return None


def _json_object(file: Path, without: Collection[str] | None = ()) -> tuple[dict[str, Any] | None, str]:
    """The object in a JSON file, or None and what is wrong with the file.

    Args:
        file: the file.
        without: the entries that the object's digest doesn't cover; None if the digest is checked elsewhere.
    """
    try:
        value = parse_json(read_up_to(file, LARGEST_JSON), file.name, finite=False)
    except FileNotFoundError:
        return None, "is missing"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except InputError as error:
        return None, f"is not valid JSON ({str(error).partition(': ')[2] or error})"
    if not isinstance(value, dict):
        return None, "does not hold a JSON object"
    try:
        return (value if without is None else unsealed(value, file, without)), ""
    except InputError:
        return None, "has changed since it was written"


def _metrics(file: Path, notes: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The entries of a metrics log that have a step; others are noted."""
    try:
        lines = read_up_to(file, _LARGEST_LOG).decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        notes["metrics.jsonl"] = ["This run folder has no metrics.jsonl, so there is no training to draw."]
        return []
    except OSError as error:
        notes["metrics.jsonl"] = [f"This run folder’s metrics.jsonl cannot be read ({error.strerror})."]
        return []
    except InputError as error:
        notes["metrics.jsonl"] = [f"This run folder’s metrics.jsonl cannot be read ({error})."]
        return []
    metrics, skipped = [], []
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line, "a line", finite=False)
        except InputError:
            entry = None
        step = number(entry, "step")
        if isinstance(entry, dict) and step is not None and math.isfinite(step):
            metrics.append(entry)
        else:
            skipped.append(place)
    if skipped:
        where = ", ".join(map(str, skipped[:5])) + (", …" if len(skipped) > 5 else "")
        what = "line was" if len(skipped) == 1 else "lines were"
        notes["metrics.jsonl"] = [
            f"{len(skipped)} {what} skipped in metrics.jsonl for not being a JSON object with a step ({where})."
        ]
    if not metrics:
        notes.setdefault("metrics.jsonl", []).append("metrics.jsonl holds no logged step, so there is nothing to draw.")
    return metrics
