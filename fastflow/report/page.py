"""A run as one self-contained page: `write_report` turns a run folder into report.html."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

from fastflow.report.potential_cards import potential_cards
from fastflow.report.potential_numbers import ranked
from fastflow.report.rendering import settings_rows, text_of, write_page
from fastflow.report.run_files import RunFiles, at, numbers, read_run, whole
from fastflow.report.targets import cards, verdict
from fastflow.report.training_charts import logged_values, training_charts


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a run folder: pictures, numbers, curves and settings in one file without a network.

    It reads config.json, and metrics.jsonl, evaluation.json and traversals/ as far as they are there. The page notes
    what is missing or damaged.

    Args:
        run_folder: the folder that a run was written to.

    Returns:
        The path of the page, which appears whole or not at all.

    Raises:
        InputError: the folder is not a run: it does not exist, or has no readable config.json. It is a ValueError.
        OSError: the page cannot be written.
    """
    run = read_run(run_folder)
    return write_page("report.html", _view(run), run.folder / "report.html")


def _view(run: RunFiles) -> dict[str, Any]:
    """Everything that the template shows, as text or as markup made here."""
    name = run.folder.resolve().name
    potentials = potential_cards(run)
    outcome, sentence = verdict(run)
    generator = at(run.settings, "generator", "name")
    return {
        "name": name,
        "kind": text_of(at(run.settings, "kind") or "run"),
        "generator": generator if isinstance(generator, str) else None,
        "outcome": outcome,
        "verdict": sentence,
        "cards": cards(run),
        "samples": whole(run.evaluation, "samples"),
        "path_steps": whole(run.evaluation, "path_steps"),
        "potentials": potentials,
        "ranked": [potentials[k] for k in ranked(run, len(potentials))],
        "frames": max((len(p.landscape.times) for p in potentials if p.landscape), default=0),
        "both_ways": any(potential.start for potential in potentials),
        "even": any(potential.even for potential in potentials),
        "has_traversals": run.traversals is not None,
        "confusion": _confusion(run),
        "charts": training_charts(run),
        "logged": logged_values(run),
        "notes": run.notes,
        "settings": settings_rows(at(run.settings, "config")),
        "generator_rows": settings_rows(at(run.settings, "generator"), leave_out="spec"),
        "data_rows": settings_rows(at(run.settings, "data")),
        "versions": settings_rows(at(run.settings, "versions")),
        "evaluated_on": _evaluated_on(run),
        "code": _code(run, name),
    }


def _confusion(run: RunFiles) -> list[dict[str, Any]] | None:
    """The rows of the confusion matrix, with each cell's share of its row; None if the matrix is missing or damaged."""
    matrix = at(run.evaluation, "distinctness", "confusion")
    rows = [numbers({"": row}, "") for row in matrix] if isinstance(matrix, list) else []
    sound = all(len(row) == len(rows) and all(n is not None and 0 <= n < math.inf for n in row) for row in rows)
    if not rows or not sound:
        return None
    table = []
    for row in rows:
        counts = [int(count or 0) for count in row]
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        cells = [
            # With the square root, even one pair in a hundred tints its cell. Dark cells have light text.
            {"count": count, "shade": f"{100 * share**0.5:.0f}", "strong": share > 0.7}
            for count, share in zip(counts, shares, strict=True)
        ]
        table.append({"cells": cells, "total": total})
    return table


def _evaluated_on(run: RunFiles) -> list[tuple[str, str]]:
    """How the run was evaluated, as rows of a table."""
    labels = {
        "machine": "machine",
        "seconds": "seconds",
        "samples": "samples",
        "path_steps": "steps of a path",
        "seed": "seed",
        "training_steps": "training steps before",
        "weights": "SHA-256 of the weights",
    }
    found = ((label, at(run.evaluation, key)) for key, label in labels.items())
    return [(label, text_of(value)) for label, value in found if value is not None]


def _code(run: RunFiles, name: str) -> dict[str, str]:
    """The lines that use the run and train it again; names are quoted for their language."""
    generator, kind = at(run.settings, "generator", "name"), at(run.settings, "kind")
    # A generator made in Python has no name that finds it again; a VAE's run is its own generator.
    named = isinstance(generator, str) or kind == "train-vae"
    load = f"run = ff.load_run({name!r})" if named else f"run = ff.load_run({name!r}, generator)"
    use = [
        "import fastflow as ff",
        "",
        load,
        "z0 = run.generator.starts(6)" if kind == "train-vae" else "z0 = run.generator.sample(6)",
        "path = run.traverse(z0, potential=0, steps=10)",
        "path.latents, path.images  # (6, 11, D) and (6, 11, C, H, W)",
    ]
    train = []
    again, quoted = f"{name}-again", shlex.quote(name)
    if kind == "train-vae":
        root = at(run.settings, "data", "root")
        train = ["import fastflow as ff", "", load, f"ff.train_vae(run.config, data_root={root!r}, out={again!r})"]
    elif kind == "discover":
        train = ["import fastflow as ff", "", load, f"ff.discover(run.generator, run.config, out={again!r})"]
    option = "" if named else " --generator FILE.py:FUNCTION"
    shell = [f"fastflow report {quoted}{option}  # write this page again"]
    if generator == "digits-vae":
        seed = whole(run.settings, "config", "seed") or 0
        shell.append(
            f"fastflow demo --out {shlex.quote(again)} --seed {seed}  # the whole line on the bundled generator"
        )
    return {"use": "\n".join(use), "train": "\n".join(train), "shell": "\n".join(shell)}
