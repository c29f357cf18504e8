"""The measures of a comparison, the same for all methods and from the same starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fastflow.generators.identity import are_pixels
from fastflow.latents.traversal import Traverses
from fastflow.metrics.distinctness import measure_distinctness
from fastflow.metrics.geometry import consistency, curvature, path_length
from fastflow.metrics.pairs import path_pairs
from fastflow.metrics.predictability import SMALL, train_and_measure
from fastflow.metrics.purity import purity
from fastflow.metrics.strength import pixel_change
from fastflow.pictures.strips import save_strip
from fastflow.studies.comparison.attributes import Attributes
from fastflow.studies.jobs import are_numbers

MOST_DRAWN = 6
"""How many paths of a method are drawn at most."""


class Measure(NamedTuple):
    """A number that is measured of each method with each seed."""

    title: str
    better: str
    """Which is better, "higher" or "lower"; empty for a number that methods aren't compared by."""
    digits: int
    """How many digits tables show after the decimal point."""
    what: str
    """What it measures, in words."""


MEASURES: dict[str, Measure] = {
    "strength": Measure("strength", "", 4, "the mean absolute change of pixels in a step, which is matched"),
    "purity": Measure(
        "purity", "higher", 3, "the share of a path's change that goes to the attribute it changes most, mean of paths"
    ),
    "monotonicity": Measure(
        "monotonicity", "higher", 3, "|rank correlation| of that attribute with the step, its signed mean over starts"
    ),
    "coverage": Measure(
        "coverage", "higher", 2, "how many attributes some path moves purely and monotonically, 0.5 or more of both"
    ),
    "distinctness": Measure(
        "told apart", "higher", 3, "accuracy of a fresh classifier that names the path from two consecutive images"
    ),
    "vp": Measure(
        "VP, fast",
        "higher",
        3,
        "the same by a network that sees a tenth of the pairs (vp_score_fast), not the published VP",
    ),
    "smoothness": Measure(
        "smoothness", "higher", 3, "1 where images move on in a straight line, 0 where they go to and fro"
    ),
    "path_length": Measure(
        "path length", "lower", 3, "root of the perceptual path length in pixels: how far images go along a path"
    ),
    "curvature": Measure("curvature", "lower", 3, "the angle between an image's consecutive changes, in radians"),
    "consistency": Measure(
        "consistency", "higher", 3, "the cosine between a path's changes of images from two starts, in pixels"
    ),
    "training_cpu_s": Measure("training, CPU s", "", 1, "of trainings that weren't interrupted"),
}
"""All measures by their names in results.json, in the order of the table."""


def measure(
    source: Traverses, path_steps: int, attributes: Attributes, *, pairs: int, starts: int, seed: int
) -> dict[str, Any]:
    """Measure a method's paths, and how much each path changes each attribute.

    Args:
        source: the method's paths.
        path_steps: the steps of each path.
        attributes: the attributes that a path may change.
        pairs: how many pairs of images each classifier has.
        starts: how many starts each path has in the other measures.
        seed: the seed of the starts and the classifiers, none of which training draws.
    """
    options: dict[str, Any] = {"path_steps": path_steps, "samples": starts, "seed": seed}
    pure = purity(source, attributes, attributes.names, **options)
    consecutive = path_pairs(source, path_steps, pairs, seed)
    assert consecutive.smoothness is not None
    with tqdm(disable=True) as silent:
        predicted = train_and_measure(consecutive, source.num_paths, SMALL, seed, silent)
    return {
        "strength": pixel_change(source, path_steps=path_steps, samples=4 * starts, seed=seed),
        "purity": pure.score,
        "monotonicity": sum(pure.monotonicity) / len(pure.monotonicity),
        "coverage": pure.coverage,
        "distinctness": measure_distinctness(consecutive, source.num_paths, seed).accuracy,
        "vp": predicted.test,
        "smoothness": float(consecutive.smoothness.mean()),
        "path_length": path_length(source, **options).score ** 0.5,
        "curvature": curvature(source, **options).score,
        "consistency": consistency(source, **options).score,
        "paths": {"change": pure.change, "top": pure.top, "purity": pure.purity, "monotonicity": pure.monotonicity},
        "covered": pure.covered,
    }


def is_measured(found: dict[str, Any], names: list[str]) -> bool:
    """Whether a JSON object holds what a job finds: the measurements of a method, or why it is left out.

    Args:
        found: the object.
        names: the attributes' names.
    """
    if "left_out" in found:
        return isinstance(found["left_out"], str)
    change = found["paths"].get("change") if isinstance(found.get("paths"), dict) else None
    return (
        "strength" in found
        and are_numbers(found, MEASURES)
        and isinstance(change, list)
        and len(change) > 0
        and all(are_pixels(row) and len(row) == len(names) for row in change)
        and all(isinstance(listed, list) for listed in (found.get("covered"), found.get("strip", [])))
        and all(isinstance(text, str) for text in [*found["covered"], *found.get("strip", [])])
    )


def draw_strip(source: Traverses, path_steps: int, paths: dict[str, Any], names: list[str], file: Path) -> list[str]:
    """Draw the purest paths, each from a start of its own; the starts are the same for all methods.

    Args:
        source: the method's paths.
        path_steps: the steps of each path.
        paths: the part "paths" of the method's measurements.
        names: the attributes' names.
        file: where the PNG goes.

    Returns:
        A label for each row: the attribute that the path changes most, and its share of the change.
    """
    order = sorted(range(source.num_paths), key=lambda k: -paths["purity"][k])[:MOST_DRAWN]
    z0 = source.generator.starts(len(order), seed=1)
    drawn = source.traverse(z0, torch.tensor(order, device=z0.device), path_steps)
    images, value_range = source.generator.drawn(drawn.images), source.generator.value_range
    save_strip(images, file, start=0, ends=drawn.ends, value_range=value_range)
    return [f"{names[paths['top'][k]]} {paths['purity'][k]:.2f}" for k in order]
