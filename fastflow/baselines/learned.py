"""Directions and warps that are trained with the loop, the budget and the classifier of a discovery.

They read these fields of a `DiscoverConfig`: steps, batch_size, learning_rate and its schedule, classifier, and what
the loop needs. They ignore its fields for potentials and equations.
"""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastflow.baselines.base import Baseline
from fastflow.baselines.directions import Straight
from fastflow.baselines.path_modules import Columns, Heads, OrthogonalRows, Warps
from fastflow.baselines.path_training import (
    Objective,
    PathTraining,
    contrastive_objective,
    hessian_objective,
    reconstruction_objective,
)
from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.core.files import locked_folder
from fastflow.generators import Generator
from fastflow.latents.classifiers import make_classifier
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.loop import Trainer


class Learned(Baseline):
    """A baseline whose paths are trained when it is made.

    A method gives the modules to train, under the names that its checkpoints have, and its objective.
    """

    _objective: ClassVar[Objective]

    def __init__(
        self,
        generator: Generator,
        num_directions: int,
        step_length: float = 0.1,
        seed: int = 0,
        *,
        config: DiscoverConfig | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(generator, num_directions, step_length)
        self._check_paths()
        config = replace(DiscoverConfig() if config is None else config, num_potentials=num_directions, seed=seed)
        self._check_config(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            task = PathTraining(generator, config, self._modules(config), type(self)._objective)
        with ExitStack() as held:
            place = Path(held.enter_context(tempfile.TemporaryDirectory()) if folder is None else folder)
            if folder is not None:
                held.enter_context(locked_folder(place))
            trainer = Trainer(task, config, place)
            trainer.restore()
            trainer.run(progress)
        self._take(task.paths.requires_grad_(False))

    def _check_paths(self) -> None:
        """Raise InputError unless the method can learn as many paths as are asked for."""

    def _check_config(self, config: DiscoverConfig) -> None:
        """Raise InputError unless the method can be trained with this configuration."""

    @abstractmethod
    def _modules(self, config: DiscoverConfig) -> dict[str, nn.Module]:
        """The modules to train, initialized with torch's global random numbers; "paths" is one of them."""

    @abstractmethod
    def _take(self, paths: Any) -> None:
        """Keep the trained paths."""


class LearnedDirections(Learned, Straight):
    """Trained straight directions."""

    def _take(self, paths: Columns) -> None:
        self.directions = paths.all()


class LearnedVelocities(Learned):
    """Trained unit velocities, which depend on the latent, followed in steps of equal length."""

    velocity: Callable[[Tensor, Tensor], Tensor]

    def path(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """Latents (B, steps + 1, D) from z0 (B, D); see `Baseline.path`."""
        path = [z0]
        for _ in range(steps):
            path.append(path[-1] + self.step_length * self.velocity(path[-1], index))
        return torch.stack(path, 1)

    def _take(self, paths: nn.Module) -> None:
        self.velocity = paths


class LinearClassifier(LearnedDirections):
    """Directions that a classifier tells apart (Voynov and Babenko, ICML 2020).

    The directions a_k are the columns of a matrix, scaled to length 1. A network sees g(z) and g(z + e a_k) and
    estimates k, by cross-entropy, and e, by its absolute error, which counts a quarter. Both are trained together.

    Args:
        generator, num_directions, step_length: as for `Random`.
        seed: random seed of the training.
        config: the budget and the classifier; the default configuration of a discovery if None.
        folder: a folder for checkpoints and metrics.jsonl; training continues from the checkpoints that it holds.
        progress: whether to show a progress bar.
    """

    _objective = reconstruction_objective

    def _modules(self, config: DiscoverConfig) -> dict[str, nn.Module]:
        paths = Columns(self.num_directions, self.generator.latent_dim)
        return {"paths": paths, "judge": _reconstructor(self.generator, config)}


class HessianPenalty(LearnedDirections):
    """Orthogonal directions along which the image changes without interactions (Peebles et al., ECCV 2020).

    The penalty is the variance over random signs v of the second difference [G(z + h A v) - 2 G(z) + G(z - h A v)] /
    h^2 in the directions A. The diagonal of the Hessian doesn't enter it. Its mean over pixels is minimized over
    orthogonal A. The arguments are those of `LinearClassifier`; the classifier isn't used.
    """

    _objective = hessian_objective

    def _check_paths(self) -> None:
        if self.num_directions > self.generator.latent_dim:
            raise InputError(f"num_directions must be at most {self.generator.latent_dim}, the latents' width")

    def _modules(self, config: DiscoverConfig) -> dict[str, nn.Module]:
        return {"paths": OrthogonalRows(self.num_directions, self.generator.latent_dim)}


class WarpedRBF(LearnedVelocities):
    """Gradients of sums of radial functions (WarpedGANSpace, Tzelepis et al., ICCV 2021).

    f_k(z) = sum_i b_i exp(-g_i |z - s_i|^2) over pairs of opposite weights b; a path follows grad f_k / |grad f_k|.
    It is trained as `LinearClassifier` is, and has the same arguments.

    Args:
        supports: the number of pairs for each path.
    """

    _objective = reconstruction_objective

    def __init__(
        self,
        generator: Generator,
        num_directions: int,
        step_length: float = 0.1,
        seed: int = 0,
        *,
        config: DiscoverConfig | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: bool = False,
        supports: int = 16,
    ) -> None:
        self._supports = supports
        super().__init__(
            generator, num_directions, step_length, seed, config=config, folder=folder, progress=progress
        )  # fmt: skip

    def _check_paths(self) -> None:
        check_count(self._supports, "supports")

    def _modules(self, config: DiscoverConfig) -> dict[str, nn.Module]:
        paths = Warps(self.num_directions, self.generator.latent_dim, self._supports)
        return {"paths": paths, "judge": _reconstructor(self.generator, config)}


class LatentCLR(LearnedVelocities):
    """Directions that change the image alike from every start, and unlike each other (Yueksel et al., ICCV 2021).

    Each path has a small network d_k(z), whose output is scaled to length 1. The training contrasts the changes of
    features, those of g(z + d_k) minus those of g(z): changes by one path from different starts are positives, all
    others are negatives (temperature 0.5). The features are the images, pooled to 16 x 16 at most, because not every
    generator gives access to its inner features. The arguments are those of `LinearClassifier`; the classifier isn't
    used.
    """

    _objective = contrastive_objective

    def _check_paths(self) -> None:
        if self.num_directions < 2:
            raise InputError("num_directions must be at least 2: a path is contrasted with others")

    def _check_config(self, config: DiscoverConfig) -> None:
        if config.batch_size < 2 * self.num_directions:
            raise InputError(
                f"batch_size must be at least {2 * self.num_directions}, so that every path has two starts to "
                f"compare, got {config.batch_size}"
            )

    def _modules(self, config: DiscoverConfig) -> dict[str, nn.Module]:
        return {"paths": Heads(self.num_directions, self.generator.latent_dim)}


def _reconstructor(generator: Generator, config: DiscoverConfig) -> nn.Module:
    """The configuration's classifier with one more output, the estimated shift."""
    return make_classifier(config.classifier, generator.image_shape, config.num_potentials + 1)
