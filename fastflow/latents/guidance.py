"""Guidance: attributes that potentials learn to change, one each, in their own unit, with the rest held still.

A guided potential is judged by where its path has led after n steps, from every start: its own attribute has changed
by n times a stated share of its spread, the other attributes and the features that the user wants kept have stayed,
and the latent lies as far from the prior's mean as the generator's own latents do. Nothing of this is needed when the
potential is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining, import_function, name_of, names_function
from fastflow.generators import Generator
from fastflow.latents.attributes.known import FEATURES, KEPT, KNOWN
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, looks_drawn, stroke_attributes
from fastflow.latents.predictors import Predictor, check_predictor, predicted
from fastflow.latents.spaces import Features

_SAMPLES = 512
"""How many of the generator's images spreads are measured on."""

_CHUNK = 64

_LOOKED_AT = 64
"""How many images tell whether a generator's images look drawn."""

_MOST_WANTED = ("thickness", "slant", "width", "height", "area", "x", "y")
"""The attributes of strokes in the order in which a few potentials are guided by them."""


class Guide(NamedTuple):
    """What potentials are guided by: attributes that predictors measure, of which each guided potential has its own."""

    predictors: tuple[Predictor, ...]
    names: tuple[str, ...]
    """The names of the attributes that are guided, potential 0's first."""
    columns: tuple[int, ...]
    """Their columns among the values of all predictors."""
    every: tuple[str, ...]
    """The names of all values of the predictors, by their columns."""

    def first(self, count: int) -> Guide:
        """The same attributes, of which only the first `count` are guided."""
        return self._replace(names=self.names[:count], columns=self.columns[:count])

    def __call__(self, images: Tensor) -> Tensor:
        """The values (B, A) of all attributes of images (B, C, H, W) in [0, 1], the guided and the others."""
        return torch.cat([predicted(predictor, images) for predictor in self.predictors], 1).to(images.dtype)


def guide_by(guide: Sequence[str | Predictor], generator: Generator, what: str = "guide") -> Guide:
    """Find the attributes that these words and functions name.

    A set of ours, "strokes" or "appearance", guides a potential by each of its members. A member, such as "thickness",
    guides one, and the others of its set are held still. So does a function for each of its values, or the function
    that FILE.py:FUNCTION names. `what` is the argument's name in messages.

    Raises:
        InputError: nothing has this name, or a function fails on the generator's images or has no gradient there.
    """
    if isinstance(guide, str) or not isinstance(guide, Sequence) or not guide:
        raise InputError(f"{what} must be a list of names or functions, got {guide!r}")
    channels = generator.image_shape[0]
    with torch.no_grad():
        images = generator.scaled(generator.decode(generator.sample(3)))
    predictors: dict[str | Predictor, tuple[Predictor, list[str], int]] = {}
    width = 0
    chosen: list[tuple[str, int]] = []
    for item in guide:
        key, members = _set_of(item, channels, what)
        if key not in predictors:
            predictor = _predictor(key, what)
            with torch.enable_grad():  # a traversal has switched it off
                check_predictor(predictor, images.clone())
            count = predicted(predictor, images).shape[1]
            names = list(KNOWN[key][1](channels)) if isinstance(key, str) and key in KNOWN else _names(key, count)
            predictors[key] = predictor, names, width
            width += count
        _, names, first = predictors[key]
        chosen += [(name, first + names.index(name)) for name in (names if members is None else members)]
    names, columns = [name for name, _ in chosen], [column for _, column in chosen]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{what} names {name!r} twice: name each attribute once")
    every = tuple(name for _, names, _ in predictors.values() for name in names)
    return Guide(tuple(predictor for predictor, _, _ in predictors.values()), tuple(names), tuple(columns), every)


def keep_by(keep: Sequence[str | Features]) -> tuple[Features, ...]:
    """The functions of features that these names and functions, or FILE.py:FUNCTION, mean.

    Raises:
        InputError: `keep` isn't a list, or something in it isn't a name of features or a function.
    """
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        raise InputError(f"keep must be a list of names or functions, got {keep!r}")
    return tuple(_features_of(item) for item in keep)


@torch.no_grad()
def usual_guide(generator: Generator, most: int) -> tuple[str, ...]:
    """The attributes that guide if nothing is said, `most` at most: those of strokes, where images look drawn.

    Such images are all that our formulas know how to measure well. Potentials on other images are free.
    """
    if generator.image_shape[0] != 1:
        return ()
    z, labels = generator.sample(_LOOKED_AT, 0), generator.draw_labels(_LOOKED_AT, torch.Generator().manual_seed(0))
    try:
        images = generator.scaled(generator.decode(z, labels))
        spread = dict(zip(STROKE_ATTRIBUTES, stroke_attributes(images).std(0).tolist(), strict=True))
    except Exception:  # a user's function fails, which the training then tells, or its images have another range
        return ()
    if not looks_drawn(images):
        return ()
    return tuple(name for name in _MOST_WANTED if spread[name] > 0)[:most]


def is_ours(item: object) -> bool:
    """Whether something that guides is a set of ours or a member of one, by its name."""
    return bool(_sets_with(item))


def usually_kept(guide: Sequence[str | Predictor]) -> tuple[str, ...]:
    """The names of the features that are kept where these guide, if nothing else is asked for."""
    return tuple(dict.fromkeys(name for item in guide for key in _sets_with(item) for name in KEPT[key]))


def _sets_with(item: object) -> list[str]:
    """The names of our sets of attributes that have this name or a member with it, in images of any kind."""
    if not isinstance(item, str):
        return []
    return [key for key, (_, names) in KNOWN.items() if item == key or item in names(3)]


def check_features(function: Features, images: Tensor) -> None:
    """Raise InputError unless a gradient passes through features of these images (B, C, H, W)."""
    features = _features(function, images.requires_grad_())
    if features.requires_grad and torch.autograd.grad(features.sum(), images, allow_unused=True)[0] is not None:
        return
    raise InputError("features to keep carry no gradient; leave out torch.no_grad, detach, argmax and comparisons")


class PathTerms(NamedTuple):
    """What is wrong with each of B guided paths, without units, (B,)."""

    guidance: Tensor
    """The difference of its own attribute's change from what is asked, relative to that, squared; beyond 1 linear.

    To it is added what all attributes' changes together lack of what is asked.
    """
    hold: Tensor
    """The other attributes' share of the change, each measured in its spread: 1 minus the purity of this path.

    Above 1, up to 2, where the attribute itself changes the wrong way.
    """


class Bounds(NamedTuple):
    """How far each of B paths, guided or free, has left what it began with, without units, (B,)."""

    shell: Tensor
    """How far the latent lies outside the distances from their mean that the generator's own latents have, squared, in
    half widths of these distances."""
    keep: Tensor
    """The features' squared change relative to that between two images of the generator."""


class Guidance:
    """Judges where guided paths have led.

    Args:
        generator: the generator, whose spreads are measured on 512 images of its own, always the same ones.
        guide: the attributes, of which potential k has number k.
        keep: functions whose features should stay.
        rate: the share of its spread by which a potential changes its attribute in one step; negative to lower it.

    Raises:
        InputError: a function fails or carries no gradient, or what it gives is the same for all images.
    """

    def __init__(self, generator: Generator, guide: Guide, keep: Sequence[Features] = (), rate: float = 0.25) -> None:
        self.guide, self.features, self.rate = guide, tuple(keep), rate
        z = generator.sample(_SAMPLES, 0)
        labels = generator.draw_labels(_SAMPLES, torch.Generator().manual_seed(0))
        parts: list[list[Tensor]] = [[] for _ in range(1 + len(self.features))]
        with torch.no_grad():
            for rows in torch.arange(_SAMPLES, device=z.device).split(_CHUNK):
                images = generator.scaled(generator.decode(z[rows], None if labels is None else labels[rows]))
                parts[0].append(self.guide(images))
                for part, function in zip(parts[1:], self.features, strict=True):
                    part.append(_features(function, images))
        values, *features = (torch.cat(part) for part in parts)
        self.spread = values.std(0)
        """(A,)"""
        for name, column in zip(guide.names, guide.columns, strict=True):
            if not float(self.spread[column]) > 0:
                raise InputError(f"attribute {name!r} is the same for {_SAMPLES} images: no potential can change it")
        self.distances = [2 * part.var(0).sum() for part in features]
        """For each function of features the mean squared distance of two images."""
        if not all(float(distance) > 0 for distance in self.distances):
            raise InputError(f"what to keep must differ between images; it is the same for all {_SAMPLES}")
        self.columns = torch.tensor(guide.columns, device=z.device)
        self.shell = generator.spread
        self.middle = self.shell.mean.to(z)

    def __len__(self) -> int:
        """How many potentials are guided."""
        return len(self.guide.columns)

    def terms(self, before: Tensor, after: Tensor, potential: Tensor, steps: Tensor) -> PathTerms:
        """What is wrong with guided paths.

        Args:
            before, after: the images (B, C, H, W) in [0, 1] at the paths' starts and after `steps` (B,) steps.
            potential: the potentials (B,), all guided.
        """
        with torch.no_grad():
            start = self.guide(before)
        # A constant attribute that is only held has no scale, and can't change.
        change = (self.guide(after) - start) / torch.where(self.spread > 0, self.spread, 1)
        column = self.columns[potential, None]
        asked = self.rate * steps.to(change)
        own = change.gather(1, column)[:, 0] / asked
        others = change.scatter(1, column, 0.0).abs().sum(1) / asked.abs()
        total = own.abs() + others
        missed = 2 * functional.huber_loss(own, torch.ones_like(own), reduction="none")
        return PathTerms(
            # Where a potential doesn't know its way yet, standing still would miss the least: it has to move at least.
            guidance=missed + (1 - total).clamp_min(0),
            # A share, which a smaller step doesn't lower: what holds the others still leaves the calibration alone, and
            # a potential that hardly moves yet learns its way as well as any other.
            hold=1 - own / total.clamp_min(1e-6),
        )

    def bounds(self, before: Tensor, after: Tensor, z: Tensor) -> Bounds:
        """How far paths have left what they began with; images as for `terms`, and the latents z (B, D) of the latter.

        They hold for free potentials too: beside bounded ones, these would win every reward by the larger change.
        """
        with torch.no_grad():
            features = [_features(function, before) for function in self.features]
        kept = z.new_zeros(len(z))
        for function, old, distance in zip(self.features, features, self.distances, strict=True):
            kept = kept + (_features(function, after) - old).square().sum(1) / distance
        shell = self.shell
        distance = (z - self.middle).norm(dim=1)
        outside = torch.maximum(distance - shell.farthest, shell.nearest - distance).clamp_min(0)
        return Bounds((2 * outside / (shell.farthest - shell.nearest)).square(), kept)


def _set_of(item: str | Predictor, channels: int, what: str) -> tuple[str | Predictor, list[str] | None]:
    """What measures an attribute: a set's name, FILE.py:FUNCTION or a function; and which of its values are meant."""
    if not isinstance(item, str):
        if not callable(item):
            raise InputError(f"{what} must list names or functions, got {item!r} in it")
        return item, None
    if item in KNOWN or names_function(item):
        return item, None
    for key, (_, names) in KNOWN.items():
        if item in names(channels):
            return key, [item]
    members = ", ".join(name for _, names in KNOWN.values() for name in names(channels))
    raise InputError(f"{what} must name {', '.join(KNOWN)}, one of {members}, or FILE.py:FUNCTION; got {item!r}")


def _predictor(key: str | Predictor, what: str) -> Predictor:
    if not isinstance(key, str):
        return key
    return KNOWN[key][0] if key in KNOWN else import_function(key, what)


def _features_of(item: str | Features) -> Features:
    if not isinstance(item, str):
        return item
    if item not in FEATURES and not names_function(item):
        raise InputError(f"keep must name {', '.join(FEATURES)} or FILE.py:FUNCTION, got {item!r}")
    return FEATURES[item] if item in FEATURES else import_function(item, "keep")


def _names(key: str | Predictor, count: int) -> list[str]:
    """Names for a function's values: its own name, with a number if there are several."""
    own = key.rpartition(":")[2] if isinstance(key, str) else (name_of(key) or "attribute").rpartition(":")[2]
    own = own.rpartition(".")[2]
    return [own] if count == 1 else [f"{own} {place}" for place in range(count)]


def _features(function: Features, images: Tensor) -> Tensor:
    """Features (B, F) of images."""
    with explaining("the function of features to keep"):
        features = function(images)
    if not isinstance(features, Tensor) or features.ndim < 1 or len(features) != len(images):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"what to keep must be features ({len(images)}, ...) for {len(images)} images, got {got}")
    return features.flatten(1).to(images.dtype) if features.ndim > 1 else features[:, None].to(images.dtype)
