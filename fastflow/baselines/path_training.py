"""How learned baselines are trained: the task that the training loop runs, and the methods' objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.baselines.directions import pooled
from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.loop import Losses
from fastflow.training.timers import PhaseTimer

SHORTEST, LONGEST = 0.5, 6.0
"""The shortest and the longest shift in latent space that classifiers see (Voynov and Babenko, ICML 2020)."""

SHIFT_WEIGHT = 0.25
"""Weight of the shift's error beside the direction's cross-entropy (Voynov and Babenko, ICML 2020)."""

STEP = 0.1
"""h, the step of the Hessian penalty's differences (Peebles et al., ECCV 2020)."""

TEMPERATURE = 0.5
"""Temperature of the contrastive loss (Yueksel et al., ICCV 2021)."""


class Batch(NamedTuple):
    """The random numbers of a training step."""

    z: Tensor
    """Latents (B, D)."""
    path: Tensor
    """Path numbers (B,) long; each path has an equal share."""
    amount: Tensor
    """Signed shifts (B,)."""
    signs: Tensor
    """-1 or 1, (2, B, K)."""
    labels: Tensor | None
    """Classes (B,), if the generator has classes."""


Objective = Callable[["PathTraining", Batch], tuple[Tensor, dict[str, Tensor]]]
"""The loss of a batch, and the values to log."""


class PathTraining:
    """The training task of a learned baseline.

    Args:
        modules: what is trained; "paths" gives unit velocities (B, D) at latents (B, D) along paths (B,).
    """

    user_terms = ()

    def __init__(
        self,
        generator: Generator,
        config: DiscoverConfig,
        modules: dict[str, nn.Module],
        objective: Objective,
    ) -> None:
        self.generator, self.config, self.objective = generator, config, objective
        self.module = nn.ModuleDict(modules).to(generator.like)
        self.phases = PhaseTimer(generator.like.device)

    @property
    def paths(self) -> nn.Module:
        """The module of the paths."""
        return self.module["paths"]

    def draw(self, step: int) -> Batch:
        """Draw a step's batch. Every path gets an equal share of it."""
        batch, count = self.config.batch_size, self.config.num_potentials
        rng = step_rng(self.config.seed, step)
        z = self.generator.sample(batch, rng)
        index = torch.randperm(batch, generator=rng) % count
        amount = LONGEST * (2 * torch.rand(batch, generator=rng) - 1)
        amount = amount.sign() * amount.abs().clamp_min(SHORTEST)
        signs = 2.0 * torch.randint(2, (2, batch, count), generator=rng) - 1
        labels = self.generator.draw_labels(batch, rng)
        return Batch(z, index.to(z.device), amount.to(z), signs.to(z), labels)

    def losses(self, batch: Batch) -> Losses:
        """The objective on a batch."""
        self.phases.mark("generator")
        loss, logged = self.objective(self, batch)
        return Losses(loss, {name: value.detach() for name, value in logged.items()})

    def after_step(self, step: int) -> None:
        """Do nothing: a baseline has no moving average."""

    def decoded(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The images in [0, 1] of latents z (B, D)."""
        return self.generator.scaled(self.generator.conditioned(labels)(z))


def reconstruction_objective(task: PathTraining, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of Voynov and Babenko's reconstructor, which estimates the path and the shift along it."""
    shifted = batch.z + batch.amount[:, None] * task.paths(batch.z, batch.path)
    images, next_images = task.decoded(batch.z, batch.labels), task.decoded(shifted, batch.labels)
    task.phases.mark("classifier")
    estimate = task.module["judge"](images, next_images)  # (B, K + 1)
    logits, amount = estimate[:, :-1], estimate[:, -1]
    classification = functional.cross_entropy(logits, batch.path)
    shift = (amount - batch.amount).abs().mean()
    accuracy = (logits.argmax(1) == batch.path).to(batch.z.dtype).mean()
    logged = {"classifier": classification, "shift": shift, "accuracy": accuracy}
    return classification + SHIFT_WEIGHT * shift, logged


def hessian_objective(task: PathTraining, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The Hessian penalty in the directions' coordinates, from second differences along two draws of signs."""
    rows: Any = task.paths
    middle = task.decoded(batch.z, batch.labels)
    seconds = []
    for signs in batch.signs:
        step = STEP * signs @ rows.all()  # (B, D)
        around = task.decoded(batch.z + step, batch.labels) + task.decoded(batch.z - step, batch.labels)
        seconds.append((around - 2 * middle) / STEP**2)
    penalty = torch.stack(seconds).var(0).mean()
    return penalty, {"penalty": penalty}


def contrastive_objective(task: PathTraining, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The NT-Xent loss of changes of features: changes along one path are positives, along others negatives."""
    moved = batch.z + task.paths(batch.z, batch.path)
    change = task.decoded(moved, batch.labels) - task.decoded(batch.z, batch.labels)
    features = functional.normalize(pooled(change, 16).flatten(1), dim=1, eps=1e-12)
    similarity = features @ features.T / TEMPERATURE
    same = batch.path[:, None] == batch.path
    itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    # Each positive is compared with all samples of other paths; a sample is no positive of itself.
    others = similarity.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    each = torch.logaddexp(similarity, others) - similarity
    loss = each[same & ~itself].mean()
    return loss, {"contrast": loss}
