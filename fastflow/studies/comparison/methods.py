"""The methods to traverse a latent space that a comparison knows, each made with the same budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

from fastflow import baselines
from fastflow.core.errors import InputError
from fastflow.core.files import parse_json
from fastflow.generators import Generator
from fastflow.latents.traversal import Traverses
from fastflow.runs.train import discover
from fastflow.training.config_file import from_dict
from fastflow.training.flow_config import DiscoverConfig

FLOWS = "flows"
"""The method that all others are compared with."""


class Method(NamedTuple):
    """A way to traverse a latent space."""

    what: str
    """Its description in the table."""
    make: Callable[[Generator, DiscoverConfig, Path], Traverses]
    """The function that makes its paths on a generator, from a configuration and a folder.

    A training writes checkpoints to the folder, and goes on from those that it finds there.
    """


def _flows(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return discover(generator, config, folder, resume=True, progress=False)


def _free(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return discover(generator, config, folder, resume=True, progress=False, guide=())


def _random(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.Random(generator, config.num_potentials, seed=config.seed)


def _pca(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.PCA(generator, config.num_potentials, seed=config.seed)


def _sefa(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.SeFa(generator, config.num_potentials)


def _jacobian(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.JacobianVectors(generator, config.num_potentials)


def _linear(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.LinearClassifier(generator, config.num_potentials, seed=config.seed, config=config, folder=folder)


def _warped(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.WarpedRBF(generator, config.num_potentials, seed=config.seed, config=config, folder=folder)


def _hessian(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.HessianPenalty(generator, config.num_potentials, seed=config.seed, config=config, folder=folder)


def _latentclr(generator: Generator, config: DiscoverConfig, folder: Path) -> Traverses:
    return baselines.LatentCLR(generator, config.num_potentials, seed=config.seed, config=config, folder=folder)


METHODS: dict[str, Method] = {
    FLOWS: Method("potential flows (Song et al., ICML 2023)", _flows),
    "free": Method("potential flows that nothing guides", _free),
    "random": Method("random directions", _random),
    "pca": Method("principal directions of the images (GANSpace)", _pca),
    "sefa": Method("the first layer's singular vectors (SeFa)", _sefa),
    "jacobian": Method("the Jacobian's singular vectors, followed from step to step", _jacobian),
    "linear": Method("directions that a classifier tells apart (Voynov and Babenko)", _linear),
    "warped": Method("gradients of radial sums that a classifier tells apart (WarpedGANSpace)", _warped),
    "hessian": Method("directions without interactions (Hessian penalty)", _hessian),
    "latentclr": Method("networks whose changes are alike from everywhere (LatentCLR)", _latentclr),
}
"""All methods by name, in the order of the table."""

ON_REQUEST = ("free", "jacobian")
"""The methods that are only compared where they are named.

free is the same as flows where nothing guides these, and a step of jacobian takes a pass for each latent coordinate.
"""


class Chosen(NamedTuple):
    """A method with the settings that it is compared with."""

    method: Method
    config: DiscoverConfig


def chosen(names: Sequence[str], config: DiscoverConfig) -> dict[str, Chosen]:
    """The methods of these names in the table's order, or those that aren't on request; always with the flows.

    A name may be followed by settings of its own, as in "flows,classifier_weight=3,pde=heat", for an ablation.

    Raises:
        InputError: there is no such method, or its settings don't fit.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"methods must be a list of names, got {names!r}")
    known = {FLOWS: Chosen(METHODS[FLOWS], config)}
    for name in names or (name for name in METHODS if name not in ON_REQUEST):
        base, *words = _words(name)
        if base not in METHODS:
            raise InputError(f"methods must be among {', '.join(METHODS)}, got {base!r}")
        what, make = METHODS[base]
        changes = {key: _value(text) for key, _, text in (word.partition("=") for word in words)}
        own = from_dict(DiscoverConfig, {**asdict(config), **changes}, f"method {name}") if changes else config
        if any(getattr(own, field) != getattr(config, field) for field in ("num_potentials", "path_steps", "seed")):
            raise InputError(f"method {name}: num_potentials, path_steps and seed are the same for all methods")
        what = f"{what}, {', '.join(f'{key} {value}' for key, value in changes.items())}" if changes else what
        known[name] = Chosen(Method(what, make), own)
    order = list(METHODS)
    return dict(sorted(known.items(), key=lambda item: order.index(item[0].partition(",")[0])))


def _words(name: str) -> list[str]:
    """A method's name and its settings, each NAME=VALUE; the path of a classifier may have commas."""
    known = {field.name for field in fields(DiscoverConfig)}
    words: list[str] = []
    for word in re.split(r",(?=\w+=)", name):
        if words and words[-1].startswith("classifier=") and word.partition("=")[0] not in known:
            words[-1] += f",{word}"
        else:
            words.append(word)
    return words


def _value(text: str) -> object:
    """The value of a setting: a number, true or false where the text reads as one, and otherwise the text itself."""
    try:
        return parse_json(text, "a setting", finite=False)
    except InputError:
        return text
