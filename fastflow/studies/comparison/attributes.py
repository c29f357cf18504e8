"""The attributes of images that a comparison measures: known ones by name, or a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import import_function, names_function
from fastflow.generators import Generator
from fastflow.generators.identity import look_alike
from fastflow.latents.attributes.known import KNOWN
from fastflow.latents.predictors import Predictor, predicted
from fastflow.metrics.held_out import held_out_starts

_DESCRIBED = 16
"""How many images describe a predictor by its values for them."""


class Attributes(NamedTuple):
    """Some of the attributes that a predictor measures."""

    predictor: Predictor
    names: list[str]
    columns: list[int]
    """The columns of these attributes among the predictor's values."""

    def __call__(self, images: Tensor) -> Tensor:
        """The attributes' values (B, A) for images (B, C, H, W) in [0, 1]."""
        return predicted(self.predictor, images)[:, self.columns]


def load_predictor(spec: str | Predictor) -> Predictor:
    """The predictor of this name, or of FILE.py:FUNCTION; a function is returned as it is.

    Raises:
        InputError: there is no such predictor.
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
    """The attributes that vary over the starts that these seeds are measured from.

    Args:
        spec: the name of known attributes, FILE.py:FUNCTION, or a function.
        names: names for a user's own attributes; "attribute 0", "attribute 1", ... if None.
        generator: the generator of the images.
        samples: how many starts each seed has.
        seeds: the seeds of the starts.

    Raises:
        InputError: the predictor fails, the names don't fit, or nothing varies.
    """
    predictor = load_predictor(spec)
    varies: Tensor | None = None
    for seed in seeds:
        z0, labels = held_out_starts(generator, samples, seed)
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
    """The values (A, 16) of each attribute for some images of a generator, always the same ones.

    By these values a resumed comparison sees whether a function still measures the same: also where a file that the
    function reads or imports was changed, and not where its own file was edited without effect.
    """
    images = generator.eight_bit(generator.decode(generator.sample(_DESCRIBED)))
    return [[float(f"{value:.6g}") for value in values] for values in attributes(images).double().T.tolist()]


def measure_alike(expected: list[list[float]], found: list[list[float]]) -> bool:
    """Whether two descriptions are equal, up to the rounding of different machines."""
    if [len(values) for values in expected] != [len(values) for values in found]:
        return False
    pairs = zip(expected, found, strict=True)
    return all(look_alike(one, other, max(one) - min(one)) or one == other for one, other in pairs)
