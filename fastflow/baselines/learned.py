"""Directions and warps that are trained: by the loop, the budget and the classifier of a discovery.

Of a `DiscoverConfig` they take steps, batch_size, learning_rate and its schedule, classifier, and what the loop needs;
what is said of potentials and equations doesn't concern them.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.baselines.directions import Straight, pooled, unit
from fastflow.baselines.stepped import Stepped
from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.core.files import locked_folder
from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.latents.classifiers import make_classifier
from fastflow.training.config import DiscoverConfig
from fastflow.training.loop import Losses, Trainer
from fastflow.training.timers import Phases

SHORTEST, LONGEST = 0.5, 6.0
"""Of the shifts in latent space that classifiers are shown (Voynov and Babenko, ICML 2020)."""

SHIFT_WEIGHT = 0.25
"""Of estimating the shift beside telling its direction (the same)."""

STEP = 0.1
"""h, of the Hessian penalty's differences (Peebles et al., ECCV 2020)."""

TEMPERATURE = 0.5
"""Of the contrast (Yueksel et al., ICCV 2021)."""


class Draw(NamedTuple):
    """What a step of training draws."""

    z: Tensor
    """Latents (B, D)."""
    path: Tensor
    """(B,) long; all have their share."""
    amount: Tensor
    """Signed shifts (B,)."""
    signs: Tensor
    """-1 or 1, (2, B, K)."""
    labels: Tensor | None
    """Classes (B,), of a generator with such."""


class LinearClassifier(Straight):
    """Directions that a classifier tells apart (Voynov and Babenko, ICML 2020).

    The columns of a matrix are scaled to length 1 and learned together with a network that sees g(z) and g(z + e a_k)
    and estimates k, by cross-entropy, and e, by its absolute error, which counts a quarter.

    Args:
        generator, num_directions, step_length, seed: as for `Random`; the seed is of everything random.
        config: the budget and the classifier; the defaults of a discovery where None.
        folder: where checkpoints and metrics.jsonl go; training goes on from what is there.
        progress: show a progress bar.
    """

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
        config = _budget(config, num_directions, seed)

        def modules() -> dict[str, nn.Module]:
            return {"paths": Columns(num_directions, generator.latent_dim), "judge": _judge(generator, config)}

        rows: Any = _trained(generator, config, modules, _told_apart, folder, progress)
        self.directions = rows.all()


class HessianPenalty(Straight):
    """Orthogonal directions along which the image changes without interactions (Peebles et al., ECCV 2020).

    The penalty is the variance over random signs v of the second difference [G(z + h A v) - 2 G(z) + G(z - h A v)] /
    h^2 in the directions A, of which the diagonal of the Hessian is no part; its mean over pixels is minimised over
    orthogonal A. Arguments as for `LinearClassifier`; the classifier isn't used.
    """

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
        if num_directions > generator.latent_dim:
            raise InputError(f"num_directions must be at most {generator.latent_dim}, the latents' width")
        config = _budget(config, num_directions, seed)

        def modules() -> dict[str, nn.Module]:
            return {"paths": OrthogonalRows(num_directions, generator.latent_dim)}

        rows: Any = _trained(generator, config, modules, _interactions, folder, progress)
        self.directions = rows.all()


class Curved(Stepped):
    """Unit velocities that depend on the place, followed in steps of equal length."""

    velocity: Callable[[Tensor, Tensor], Tensor]

    def walk(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """See `Stepped`."""
        path = [z0]
        for _ in range(steps):
            path.append(path[-1] + self.step_length * self.velocity(path[-1], index))
        return torch.stack(path, 1)


class WarpedRBF(Curved):
    """Gradients of sums of radial functions (WarpedGANSpace, Tzelepis et al., ICCV 2021).

    f_k(z) = sum_i b_i exp(-g_i |z - s_i|^2) over pairs of opposite weights b; a path follows grad f_k / |grad f_k|.
    Trained as `LinearClassifier`, whose arguments it has.

    Args:
        supports: pairs for each path.
    """

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
        super().__init__(generator, num_directions, step_length)
        check_count(supports, "supports")
        config = _budget(config, num_directions, seed)

        def modules() -> dict[str, nn.Module]:
            return {"paths": Warps(num_directions, generator.latent_dim, supports), "judge": _judge(generator, config)}

        self.velocity = _trained(generator, config, modules, _told_apart, folder, progress)


class LatentCLR(Curved):
    """Directions that change the image alike from every start, and unlike each other (Yueksel et al., ICCV 2021).

    Each path has a small network d_k(z), scaled to length 1; features of g(z + d_k) less those of g(z) are contrasted:
    those of one path from different starts are positives, all others negatives (temperature 0.5). The features are the
    images, pooled to 16 x 16 at most: a generator's own inner ones aren't known for every generator. Arguments as for
    `LinearClassifier`; the classifier isn't used.
    """

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
        if num_directions < 2:
            raise InputError("num_directions must be at least 2: a path is contrasted with others")
        config = _budget(config, num_directions, seed)
        if config.batch_size < 2 * num_directions:
            raise InputError(
                f"batch_size must be at least {2 * num_directions}, so that every path has two starts to compare, got "
                f"{config.batch_size}"
            )

        def modules() -> dict[str, nn.Module]:
            return {"paths": Heads(num_directions, generator.latent_dim)}

        self.velocity = _trained(generator, config, modules, _contrasted, folder, progress)


class Columns(nn.Module):
    """K directions of length 1."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))

    def all(self) -> Tensor:
        """All of them, (K, D)."""
        return unit(self.weight)

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """Those of paths (B,), (B, D)."""
        return self.all()[index]


class OrthogonalRows(Columns):
    """K directions of length 1, orthogonal to each other."""

    def all(self) -> Tensor:
        """All of them, (K, D)."""
        q, r = torch.linalg.qr(self.weight.T)
        return (q * r.diagonal().sign()).T  # of one sign, so that they move as the weights do


class Warps(nn.Module):
    """Gradients of K sums of radial functions, scaled to length 1."""

    def __init__(self, count: int, dim: int, supports: int) -> None:
        super().__init__()
        centre = torch.randn(count, supports, 1, dim)  # where latents are
        offset = torch.randn(count, supports, 1, dim)
        self.support = nn.Parameter(torch.cat((centre + offset, centre - offset), 2).flatten(1, 2))  # (K, S, D)
        self.log_weight = nn.Parameter(torch.zeros(count, supports))
        # At the distance between two latents the radial function has fallen to 1 / e.
        self.log_rate = nn.Parameter(torch.full((count, 2 * supports), -math.log(2 * dim)))

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """Of paths (B,) at z (B, D), (B, D)."""
        weight = self.log_weight.exp()
        signed = torch.stack((weight, -weight), 2).flatten(1)[index]  # (B, S)
        rate = self.log_rate.exp()[index]
        away = z[:, None] - self.support[index]  # (B, S, D)
        radial = torch.exp(-rate * away.square().sum(2))
        gradient = -2 * torch.einsum("bs,bsd->bd", signed * rate * radial, away)
        return functional.normalize(gradient, dim=1, eps=1e-20)


class Heads(nn.Module):
    """K networks with one hidden layer, their outputs scaled to length 1."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(count, dim, dim) / math.sqrt(dim))
        self.outer = nn.Parameter(torch.randn(count, dim, dim) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.randn(count, dim))

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """Of paths (B,) at z (B, D), (B, D)."""
        hidden = functional.relu(torch.einsum("bd,bhd->bh", z, self.inner[index]))
        return unit(torch.einsum("bh,bdh->bd", hidden, self.outer[index]) + self.bias[index])


def _budget(config: DiscoverConfig | None, count: int, seed: int) -> DiscoverConfig:
    return replace(DiscoverConfig() if config is None else config, num_potentials=count, seed=seed)


def _judge(generator: Generator, config: DiscoverConfig) -> nn.Module:
    """The configuration's classifier, with one more output, the shift."""
    return make_classifier(config.classifier, generator.image_shape, config.num_potentials + 1)


class _Training:
    """What the loop trains: modules, and an objective of them on what a step draws."""

    foreign = ()

    def __init__(
        self,
        generator: Generator,
        config: DiscoverConfig,
        modules: dict[str, nn.Module],
        objective: Callable[[_Training, Draw], tuple[Tensor, dict[str, Tensor]]],
    ) -> None:
        self.generator, self.config, self.objective = generator, config, objective
        like = generator.sample(1)
        self.module = nn.ModuleDict(modules).to(like)
        self.phases = Phases(like.device)

    @property
    def paths(self) -> nn.Module:
        """The velocities (B, D) of paths (B,) at latents (B, D)."""
        return self.module["paths"]

    def draw(self, step: int) -> Draw:
        """A step's batch; every path gets its share of it."""
        batch, count = self.config.batch_size, self.config.num_potentials
        rng = step_rng(self.config.seed, step)
        z = self.generator.sample(batch, rng)
        index = torch.randperm(batch, generator=rng) % count
        amount = LONGEST * (2 * torch.rand(batch, generator=rng) - 1)
        amount = amount.sign() * amount.abs().clamp_min(SHORTEST)
        signs = 2.0 * torch.randint(2, (2, batch, count), generator=rng) - 1
        labels = self.generator.draw_labels(batch, rng)
        return Draw(z, index.to(z.device), amount.to(z), signs.to(z), labels)

    def losses(self, batch: Draw) -> Losses:
        """The objective on a batch."""
        self.phases.mark("generator")
        loss, logged = self.objective(self, batch)
        return Losses(loss, {name: value.detach() for name, value in logged.items()})

    def stepped(self, step: int) -> None:
        """Nothing follows a step."""

    def decoded(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Images in [0, 1]."""
        return self.generator.scaled(self.generator.conditioned(labels)(z))


def _trained(
    generator: Generator,
    config: DiscoverConfig,
    modules: Callable[[], dict[str, nn.Module]],
    objective: Callable[[_Training, Draw], tuple[Tensor, dict[str, Tensor]]],
    folder: str | os.PathLike[str] | None,
    progress: bool,
) -> nn.Module:
    """The paths after their training, frozen; in a folder, it goes on from its newest checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        task = _Training(generator, config, modules(), objective)
    with ExitStack() as held:
        place = Path(held.enter_context(tempfile.TemporaryDirectory()) if folder is None else folder)
        if folder is not None:
            held.enter_context(locked_folder(place))
        trainer = Trainer(task, config, place)
        trainer.restore()
        trainer.run(progress)
    return task.paths.requires_grad_(False)


def _told_apart(task: _Training, batch: Draw) -> tuple[Tensor, dict[str, Tensor]]:
    """Which path, and how far along it: the loss of Voynov and Babenko's reconstructor."""
    shifted = batch.z + batch.amount[:, None] * task.paths(batch.z, batch.path)
    images, next_images = task.decoded(batch.z, batch.labels), task.decoded(shifted, batch.labels)
    task.phases.mark("classifier")
    estimate = task.module["judge"](images, next_images)  # (B, K + 1)
    logits, amount = estimate[:, :-1], estimate[:, -1]
    told = functional.cross_entropy(logits, batch.path)
    measured = (amount - batch.amount).abs().mean()
    accuracy = (logits.argmax(1) == batch.path).to(batch.z.dtype).mean()
    return told + SHIFT_WEIGHT * measured, {"classifier": told, "shift": measured, "accuracy": accuracy}


def _interactions(task: _Training, batch: Draw) -> tuple[Tensor, dict[str, Tensor]]:
    """The Hessian penalty of images in the directions' coordinates, by second differences along two draws of signs."""
    rows: Any = task.paths
    middle = task.decoded(batch.z, batch.labels)
    seconds = []
    for signs in batch.signs:
        step = STEP * signs @ rows.all()  # (B, D)
        around = task.decoded(batch.z + step, batch.labels) + task.decoded(batch.z - step, batch.labels)
        seconds.append((around - 2 * middle) / STEP**2)
    penalty = torch.stack(seconds).var(0).mean()
    return penalty, {"penalty": penalty}


def _contrasted(task: _Training, batch: Draw) -> tuple[Tensor, dict[str, Tensor]]:
    """NT-Xent over changes of features: alike along one path, unlike along others."""
    moved = batch.z + task.paths(batch.z, batch.path)
    change = task.decoded(moved, batch.labels) - task.decoded(batch.z, batch.labels)
    features = functional.normalize(pooled(change, 16).flatten(1), dim=1, eps=1e-12)
    likeness = features @ features.T / TEMPERATURE
    same = batch.path[:, None] == batch.path
    itself = torch.eye(len(likeness), dtype=torch.bool, device=likeness.device)
    # Each positive against all that aren't its own path; and a sample is no company for itself.
    others = likeness.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    each = torch.logaddexp(likeness, others) - likeness
    loss = each[same & ~itself].mean()
    return loss, {"contrast": loss}
