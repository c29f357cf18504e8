"""The commands that train many times, with several seeds: compare and study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from fastflow import generators
from fastflow.cli.inputs import shows_progress
from fastflow.core.devices import find_device
from fastflow.core.errors import InputError
from fastflow.core.files import printable
from fastflow.studies.comparison.study import compare
from fastflow.studies.likelihood.study import study_likelihood
from fastflow.training.flow_config import DiscoverConfig


@dataclass(frozen=True)
class Compare:
    """Compare potential flows with all baselines on a generator: several seeds, equal budgets, equal strength."""

    generator: str
    """Generator of images, named as for fastflow discover."""
    out: str
    """Folder of the comparison. The page is OUT/compare.html, the table OUT/table.md."""
    methods: tuple[str, ...] = ()
    """Methods to compare: flows, random, pca, sefa, linear, warped, hessian and latentclr, by default all of them.
    jacobian, which is slow, and free, flows that nothing guides, take part only if they are named.
    flows always takes part. Where images look drawn, its potentials are guided by strokes, as in discover.
    NAME,SETTING=VALUE gives a method settings, as in flows,pde=heat."""
    seeds: int = 3
    """Number of seeds, counted from --seed."""
    attributes: str = "appearance"
    """Attributes that a path may change: appearance (any images), strokes (digits) or FILE.py:FUNCTION.
    FUNCTION returns values (B, A) of images (B, C, H, W) in [0, 1]."""
    attribute_names: tuple[str, ...] | None = None
    """Names of the values that FUNCTION returns. By default, they are attribute 0, attribute 1 and so on."""
    strength: float | None = None
    """Strength that the steps of all methods are scaled to: their mean absolute pixel change, images in [0, 1].
    By default, it is the strength of the flows with the same seed."""
    pairs: int = 2048
    """Number of image pairs for each new classifier. One half trains it, the other half tests it."""
    starts: int = 64
    """Number of starting latents for each path in the other measurements."""
    workers: int = 1
    """Number of processes at the same time. Each handles one method with one seed."""
    device: str = "cpu"
    """Device to train and measure on, such as cpu, cuda or cuda:1."""
    latent_dim: int | None = None
    """Width of the latents, needed if FUNCTION or the archive of --generator maps latents to images itself."""
    resume: bool = False
    """Continue the comparison in OUT. --seeds and --methods may add to it."""
    overwrite: bool = False
    """Replace the comparison in OUT, if there is one."""
    settings: tyro.conf.OmitArgPrefixes[DiscoverConfig] = field(default_factory=DiscoverConfig)

    def run(self) -> None:
        """Compare, and print where the page is."""
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
            progress=shows_progress(),
        )
        print(printable(f"look at {file}"))


@dataclass(frozen=True)
class Study:
    """Answer a question by many trainings with several seeds. A table says how certain the answer is."""

    question: tyro.conf.Positional[Annotated[Literal["likelihood"], tyro.conf.arg(metavar="QUESTION")]]
    """Question to answer. The only one, likelihood, asks what flows add to a VAE of moving images, and to rivals."""
    out: str
    """Folder of the study. The answer is OUT/table.md."""
    data: tuple[str, ...] = ("mnist=data/mnist", "dsprites")
    """Data sets, as NAME or NAME=FOLDER with the folder of its files. The names are mnist and dsprites."""
    size: Literal["small", "paper"] = "small"
    """Size of the study: small takes some hours on two cores, paper trains as long as the paper did."""
    seeds: int = 5
    """Number of seeds, counted from 0."""
    variants: tuple[str, ...] = ()
    """Variants of the training to study, by default all. plain and companion, the default, always take part.
    The others are beta, walk, ar1, straight, affine, flow and no-physics."""
    groups: tuple[Literal["paths", "pairs", "parts"], ...] = ("paths", "pairs", "parts")
    """What to train on: whole paths, pairs of a start and a later image, or parts of the data, to measure the rest."""
    workers: int = 1
    """Number of trainings at the same time, each in its own process."""
    resume: bool = False
    """Continue the study in OUT."""

    def run(self) -> None:
        """Train and measure, and print where the table is."""
        named = [spec.partition("=") for spec in self.data]
        data = {name: root or None for name, _, root in named}
        if len(data) < len(named):
            raise InputError(f"--data must name each data set once, got {' '.join(self.data)}")
        file = study_likelihood(
            self.out,
            data,
            seeds=self.seeds,
            size=self.size,
            variants=self.variants,
            groups=self.groups,
            workers=self.workers,
            resume=self.resume,
            progress=shows_progress(),
        )
        print(printable(f"look at {file}"))
