"""Discovery: learn K potentials whose flows move a pretrained generator's images in K distinct ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastflow.errors import InputError
from fastflow.flows import flow, rollout_loss
from fastflow.generators import Generator
from fastflow.generators.base import first_line
from fastflow.objectives import classifier_loss, generator_change, initial_loss, jacobian_loss
from fastflow.ops.types import Method
from fastflow.pde import EQUATIONS, normalized_residuals
from fastflow.potentials import PotentialBank, TimeInput
from fastflow.profiling import profiled
from fastflow.training.classifier import PairClassifier
from fastflow.training.configuration import check_not_negative, check_positive, check_types
from fastflow.training.loop import Losses

Equation = Literal[
    "wave", "damped-wave", "klein-gordon", "heat", "hamilton-jacobi", "viscous-hamilton-jacobi", "helmholtz", "poisson",
    "porous-medium",
]  # fmt: skip

_TIMELESS = ("helmholtz", "poisson")
"""The equations without derivatives in time."""


@dataclass(frozen=True)
class DiscoverConfig:
    """Settings of a discovery; the defaults suit small image generators."""

    num_potentials: int = 8
    """K, the number of potentials."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 256
    """Samples in a step, each with a potential and a time of its own."""
    learning_rate: float = 1e-3
    """Adam's."""
    seed: int = 0
    """Of everything random."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of a potential's hidden layers."""
    activation: Literal["tanh", "sin", "gelu", "silu", "softplus"] = "tanh"
    """Of the hidden layers."""
    out_activation: Literal["tanh", "identity"] = "tanh"
    """Of the potential's value."""
    time: TimeInput = "sinusoidal"
    """How time enters the potentials."""
    pde: Equation = "wave"
    """The equation every potential is held to."""
    learn_pde: bool = True
    """Whether each potential learns the equation's constants."""
    path_steps: int = 10
    """T, the steps of a path."""
    dt: float = 1.0
    """A step's share of time."""
    method: Method = "euler"
    """The integrator."""
    step_length: float | None = None
    """Rescale every step to this length in latent space."""
    pde_weight: float = 3.0
    """Weight of the equation's residual along the path."""
    residual: Literal["normalized", "square"] = "normalized"
    """"normalized", each potential's mean square over that of the equation's terms; "square", the paper's bare mean
    square, which a potential also lowers by becoming flat."""
    initial_weight: float = 1.0
    """Weight of starting at rest."""
    jacobian_weight: float = 0.1
    """Weight of the reward for a visible change."""
    jacobian: Literal["log", "square"] = "log"
    """The reward: "log" of the mean square, which doesn't fade as potentials shrink; "square", the paper's."""
    classifier_weight: float = 1.0
    """Weight of the classifier's cross-entropy."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_positive(
            self, "num_potentials", "steps", "batch_size", "learning_rate", "path_steps", "dt", "log_every",
            "checkpoint_every",
        )  # fmt: skip
        check_not_negative(
            self, "seed", "pde_weight", "initial_weight", "jacobian_weight", "classifier_weight"
        )  # fmt: skip
        if self.seed >= 2**63:
            raise InputError(f"seed must be below 2^63, got {self.seed}")
        if self.step_length is not None:
            check_positive(self, "step_length")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden must name one width or more, each at least 1, got {self.hidden!r}")
        if self.time == "none" and self.pde not in _TIMELESS:
            raise InputError(
                f"time must be sinusoidal or linear for pde {self.pde}, which has derivatives in time; only "
                f"{' and '.join(_TIMELESS)} have none"
            )
        if self.batch_size < self.num_potentials:
            raise InputError(
                f"batch_size must be at least num_potentials, {self.num_potentials}, so that every step trains all of "
                f"them; got {self.batch_size}"
            )


class Discovery:
    """The task of a discovery: its module holds the bank, the equation and the classifier."""

    def __init__(self, config: DiscoverConfig, generator: Generator) -> None:
        self.config, self.generator = config, generator
        like = generator.sample(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.bank = PotentialBank(
                config.num_potentials,
                generator.latent_dim,
                config.hidden,
                config.activation,
                config.out_activation,
                config.time,
            )
            if config.pde == "porous-medium":  # has no constants to learn
                self.pde = EQUATIONS[config.pde]()
            else:
                self.pde = EQUATIONS[config.pde](num_potentials=config.num_potentials, learnable=config.learn_pde)
            classifier = PairClassifier(generator.image_shape, config.num_potentials)
        self.module = nn.ModuleDict({"bank": self.bank, "pde": self.pde, "classifier": classifier}).to(like)
        self.classifier = classifier

    def losses(self, rng: torch.Generator) -> Losses:
        """The objective on one batch; every sample has its own start, potential and time."""
        config, batch = self.config, self.config.batch_size
        z0 = self.generator.sample(batch, rng)
        # Every potential gets its share of every batch: drawn freely, some would starve in small ones.
        index = (torch.randperm(batch, generator=rng) % config.num_potentials).to(z0.device)
        place = torch.randint(config.path_steps, (batch,), generator=rng).to(z0.device)

        with profiled("train.engine"):
            pde_term, path = self._residual(z0, index)
            initial_term = initial_loss(self.bank, z0, index)
        samples = torch.arange(batch, device=z0.device)
        z, z_next = path[samples, place], path[samples, place + 1]
        with profiled("train.generator"):
            images, change = generator_change(self.generator.decode, z, z_next - z)
            next_images = self.generator.decode(z_next)
            jacobian_term = jacobian_loss(change, config.jacobian)
        low, high = self.generator.value_range
        with profiled("train.classifier"):
            logits = self.classifier((images - low) / (high - low), (next_images - low) / (high - low))
            classifier_term = classifier_loss(logits, index)

        loss = (
            config.pde_weight * pde_term
            + config.initial_weight * initial_term
            + config.jacobian_weight * jacobian_term
            + config.classifier_weight * classifier_term
        )
        with torch.no_grad():
            logged = {
                "pde": pde_term.detach(),
                "initial": initial_term.detach(),
                "jacobian": jacobian_term.detach(),
                "classifier": classifier_term.detach(),
                "accuracy": (logits.argmax(1) == index).to(z.dtype).mean(),
                "strength": (next_images - images).abs().mean() / (high - low),
            }
        return Losses(loss, logged)

    def _residual(self, z0: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The equation's term of the objective along paths from z0 (B, D), and the paths (B, T + 1, D)."""
        config = self.config
        steps = config.path_steps
        options = {"dt": config.dt, "method": config.method, "step_length": config.step_length}
        if config.residual == "square":
            return rollout_loss(self.bank, z0, index, steps, self.pde, **options)
        path = flow(self.bank, z0, index, steps, **options)
        visited = path[:, :-1].flatten(0, 1)  # (B * T, D), path by path
        each = index.repeat_interleave(steps)
        times = config.dt * torch.arange(steps, device=z0.device, dtype=z0.dtype)
        place = torch.arange(steps, device=z0.device).repeat(len(z0))
        jet = self.bank.jet(visited, (times, place), each)
        normalized, _ = normalized_residuals(self.pde, jet, visited, times[place], each, config.num_potentials)
        return normalized.mean(), path


def check_differentiable(generator: Generator) -> None:
    """Raise InputError unless gradients pass through the generator, forwards and backwards."""
    z = generator.sample(2).requires_grad_()
    try:
        images, change = generator_change(generator.decode, z, torch.ones_like(z))
    except Exception as error:
        reason = f"forward-mode differentiation failed: {first_line(error)}"
    else:
        if not images.requires_grad:
            reason = "its images carry no gradient; leave out torch.no_grad, detach and NumPy"
        elif not bool(change.detach().abs().max() > 0):
            reason = "its images don't change with the latents"
        else:
            return
    raise InputError(f"the generator can't be learned on: {reason}")
