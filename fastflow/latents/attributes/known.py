"""The sets of attributes that are known by name, and their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastflow.latents.attributes.appearance import appearance, appearance_names
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.latents.predictors import Predictor

KNOWN: dict[str, tuple[Predictor, Callable[[int], Sequence[str]]]] = {
    "appearance": (appearance, appearance_names),
    "strokes": (stroke_attributes, lambda channels: STROKE_ATTRIBUTES),
}
"""Known attributes by name: their predictor, and a function from the number of channels to their names."""
