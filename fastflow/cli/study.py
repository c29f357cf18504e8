"""What the commands that study a question over several seeds take and do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from fastflow import generators
from fastflow.cli.inputs import watched
from fastflow.core.devices import find_device
from fastflow.core.errors import InputError
from fastflow.studies.comparison.study import compare
from fastflow.studies.likelihood.study import study_likelihood
from fastflow.training.config import DiscoverConfig


@dataclass(frozen=True)
class Study:
    """Answer a question by many trainings, over seeds, with a table that says how sure the answer is."""

    question: tyro.conf.Positional[Literal["likelihood"]]
    """likelihood: whether flows raise the likelihood of a VAE's held-out images."""
    out: str
    """The study's folder; the answer is OUT/table.md."""
    data: tuple[str, ...] = ("mnist=data/mnist", "mnist-few=data/mnist", "dsprites")
    """Data sets: mnist, mnist-few (300 images to train on), dsprites; NAME, or NAME=FOLDER of its files."""
    size: Literal["small", "paper"] = "small"
    """small: about an hour of two cores; paper: as long as the paper trained."""
    seeds: int = 5
    """How many seeds, from 0."""
    variants: tuple[str, ...] = ()
    """Which variants; all if left out."""
    workers: int = 1
    """Processes that train at once."""
    resume: bool = False
    """Go on with the study in OUT."""

    def run(self) -> None:
        """Do it and say where the table is."""
        named = [spec.partition("=") for spec in self.data]
        data = {name: root or None for name, _, root in named}
        if len(data) < len(named):
            raise InputError(f"--data names a data set twice: {' '.join(self.data)}")
        file = study_likelihood(
            self.out,
            data,
            seeds=self.seeds,
            size=self.size,
            variants=self.variants,
            workers=self.workers,
            resume=self.resume,
            progress=watched(),
        )
        print(f"look at {file}")


@dataclass(frozen=True)
class Compare:
    """Compare potential flows with every baseline on a generator, over seeds, at equal budgets and strength."""

    generator: str
    """Which: as for discover."""
    out: str
    """The comparison's folder; the page is OUT/compare.html, the table OUT/table.md."""
    methods: tuple[str, ...] = ()
    """Of flows, random, pca, sefa, linear, warped, hessian, latentclr; all if left out, and always flows. One with
    settings of its own is written NAME,SETTING=VALUE: flows,classifier_weight=3."""
    seeds: int = 3
    """How many seeds, from --seed on."""
    attributes: str = "appearance"
    """What a path may change: appearance, of any images; strokes, of digits; or FILE.py:FUNCTION, values (B, A) of
    images (B, C, H, W) in [0, 1]."""
    attribute_names: tuple[str, ...] | None = None
    """Names of FUNCTION's values; attribute 0, attribute 1, ... if left out."""
    strength: float | None = None
    """The mean absolute pixel change, images in [0, 1], at which all methods' steps are compared; if left out, that of
    the flows at their own speed, with each seed."""
    pairs: int = 2048
    """Pairs of images for each fresh classifier: half train it, half test it."""
    starts: int = 64
    """Starts for each path, in the other measures."""
    workers: int = 1
    """Processes at once, each a method with a seed."""
    device: str = "cpu"
    """Where to train and measure: cpu, cuda, cuda:1, ..."""
    latent_dim: int | None = None
    """The latents' width, where FUNCTION or an archive maps latents to images itself."""
    resume: bool = False
    """Go on with the comparison in OUT; --seeds and --methods may name more."""
    overwrite: bool = False
    """Replace the comparison that OUT holds."""
    settings: tyro.conf.OmitArgPrefixes[DiscoverConfig] = field(default_factory=DiscoverConfig)

    def run(self) -> None:
        """Do it and say where the page is."""
        file = compare(
            generators.load(self.generator, self.latent_dim).to(find_device(self.device)),
            self.out,
            self.settings,
            methods=self.methods,
            seeds=self.seeds,
            attributes=self.attributes,
            attribute_names=self.attribute_names,
            strength=self.strength,
            pairs=self.pairs,
            starts=self.starts,
            workers=self.workers,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=watched(),
        )
        print(f"look at {file}")
