"""The sets of attributes that are known by name, with their members, and the features that are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastflow.latents.attributes.appearance import appearance, appearance_names
from fastflow.latents.attributes.shapes import shape
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.latents.predictors import Predictor
from fastflow.latents.spaces import Features

KNOWN: dict[str, tuple[Predictor, Callable[[int], Sequence[str]]]] = {
    "appearance": (appearance, appearance_names),
    "strokes": (stroke_attributes, lambda channels: STROKE_ATTRIBUTES),
}
"""Known attributes by name: their predictor, and a function from the number of channels to their names."""

FEATURES: dict[str, Features] = {"shape": shape}
"""Known features by name."""

KEPT: dict[str, tuple[str, ...]] = {"appearance": (), "strokes": ("shape",)}
"""The features that are kept where members of a set guide, unless others are named."""
