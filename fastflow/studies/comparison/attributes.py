"""The attributes of images that a comparison looks at: known ones by name, or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.baselines import Random
from fastflow.core.errors import InputError
from fastflow.core.plugins import import_function, names_function
from fastflow.generators import Generator
from fastflow.generators.identity import look_alike
from fastflow.latents.predictors import Predictor, predicted
from fastflow.metrics.appearance import appearance, appearance_names
from fastflow.metrics.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.metrics.walks import starts

KNOWN: dict[str, tuple[Predictor, Callable[[int], Sequence[str]]]] = {
    "appearance": (appearance, appearance_names),
    "strokes": (stroke_attributes, lambda channels: STROKE_ATTRIBUTES),
}
"""By name: what measures them, and what they are called in images of some channels."""


_DESCRIBED = 16
"""Images whose values tell a predictor from another."""


class Attributes(NamedTuple):
    """Some of what a predictor measures."""

    predictor: Predictor
    names: list[str]
    columns: list[int]
    """Which of the predictor's values they are."""

    def __call__(self, images: Tensor) -> Tensor:
        """Their values (B, A) in images (B, C, H, W) in [0, 1]."""
        return predicted(self.predictor, images)[:, self.columns]


def load_predictor(spec: str | Predictor) -> Predictor:
    """What measures the attributes of this name, or FILE.py:FUNCTION, or a function itself.

    Raises:
        InputError: there is no such thing.
    """
    if not isinstance(spec, str):
        return spec
    if spec in KNOWN:
        return KNOWN[spec][0]
    if not names_function(spec):
        raise InputError(f"attributes must be {', '.join(KNOWN)} or FILE.py:FUNCTION, got {spec!r}")
    return import_function(spec, "attributes")


@torch.no_grad()
def varying(
    spec: str | Predictor, names: Sequence[str] | None, generator: Generator, samples: int, seeds: Sequence[int]
) -> Attributes:
    """The attributes that aren't the same at all `samples` starts that these seeds are measured from.

    Args:
        names: of a user's own attributes; attribute 0, attribute 1, ... if None.

    Raises:
        InputError: the predictor fails, the names don't fit, or nothing varies.
    """
    predictor = load_predictor(spec)
    varies: Tensor | None = None
    for seed in seeds:
        z0, labels = starts(Random(generator, 1), samples, seed)
        images = generator.eight_bit(generator.decode(z0, labels))
        values = predicted(predictor, images).double()
        if not bool(values.isfinite().all()):
            raise InputError("the attributes must be finite, got NaN or infinity")
        spread = values.std(0) > 0
        varies = spread if varies is None else varies & spread
    assert varies is not None
    count = len(varies)
    if isinstance(spec, str) and spec in KNOWN:
        if names is not None:
            raise InputError(f"attributes {spec} have names already: leave out attribute_names")
        names = KNOWN[spec][1](generator.image_shape[0])
    names = [f"attribute {a}" for a in range(count)] if names is None else list(names)
    if len(names) != count or len(set(names)) != count or not all(isinstance(name, str) for name in names):
        raise InputError(f"attribute_names must be {count} different names, as many as there are, got {names}")
    columns = varies.nonzero().flatten().tolist()
    if len(columns) < 2:
        raise InputError(
            f"of {count} attributes {len(columns)} {'varies' if len(columns) == 1 else 'vary'} over {samples} starts, "
            "expected two or more: with one alone every path is pure"
        )
    return Attributes(predictor, [names[a] for a in columns], columns)


@torch.no_grad()
def describe_attributes(attributes: Attributes, generator: Generator) -> list[list[float]]:
    """The values of each attribute in some images of a generator, (A, 16), always the same ones.

    They tell whether a function is what it was: an edit of its file that changes nothing leaves them as they are, and
    one of what it reads or imports doesn't.
    """
    images = generator.eight_bit(generator.decode(generator.sample(_DESCRIBED)))
    return [[float(f"{value:.6g}") for value in values] for values in attributes(images).double().T.tolist()]


def measure_alike(expected: list[list[float]], found: list[list[float]]) -> bool:
    """Whether these are the same attributes' values: another machine's rounding may differ."""
    if [len(values) for values in expected] != [len(values) for values in found]:
        return False
    pairs = zip(expected, found, strict=True)
    return all(look_alike(one, other, max(one) - min(one)) or one == other for one, other in pairs)
