"""The settings of a training, which live in its run's config.json: what all share, and those of a discovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fastflow.core.errors import InputError
from fastflow.engine.potentials import TimeInput
from fastflow.engine.types import Method
from fastflow.latents.classifiers import check_classifier
from fastflow.training.config_file import check_not_negative, check_positive, check_types
from fastflow.training.schedules import Knots, check_knots, factor_at

Equation = Literal[
    "wave", "damped-wave", "klein-gordon", "heat", "hamilton-jacobi", "viscous-hamilton-jacobi", "helmholtz", "poisson",
    "porous-medium",
]  # fmt: skip

CHANGEABLE = (
    "steps", "log_every", "checkpoint_every", "max_loss", "restarts", "restart_factor", "tensorboard",
)  # fmt: skip
"""What a resumed run may change: settings that no step's computation depends on."""

_TIMELESS = ("helmholtz", "poisson")
"""The equations without derivatives in time."""

_FORCED = ("hamilton-jacobi", "poisson")
"""The equations with a field beside the potential: a force, a density."""


@dataclass(frozen=True)
class FlowSettings:
    """What every training of potentials is told: the loop, the potentials, their paths and equation."""

    terms: ClassVar[tuple[str, ...]] = ("pde", "initial", "jacobian")
    """The objective's terms; each has a `<term>_weight` and a `<term>_schedule`."""

    num_potentials: int = 8
    """K, the number of potentials."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 256
    """Samples in a step, over all processes, each with a potential and a time of its own."""
    learning_rate: float = 1e-3
    """Adam's."""
    learning_rate_schedule: Knots = ()
    """Factors of it: STEP FACTOR, as many pairs as wanted; straight lines between them, constant before and after."""
    seed: int = 0
    """Of everything random."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of a potential's hidden layers."""
    activation: Literal["tanh", "sin", "gelu", "silu", "softplus"] = "tanh"
    """Of the hidden layers."""
    out_activation: Literal["tanh", "identity"] = "tanh"
    """Of the potential's value: the paper's psi, or none."""
    time: TimeInput = "sinusoidal"
    """How time enters the potentials."""
    companion: bool = False
    """Whether a learned velocity without divergence joins each potential's gradient, so that paths can turn."""
    pde: Equation = "wave"
    """The equation every potential is held to."""
    learn_pde: bool = True
    """Whether each potential learns the equation's constants; where not, they stay as they begin, and poisson is
    Laplace's equation, which needs residual square: of a single term the normalized residual, evaluation's too, is
    always 1."""
    force: Literal["none", "constant", "field"] = "none"
    """The force of hamilton-jacobi: none, a learned number for each potential, or a learned network of latent and time.
    The density of poisson is a learned number, or with "field" such a network."""
    laplacian: Literal["exact", "row_sum"] = "exact"
    """"exact"; or "row_sum", the sums of the Hessian's rows that Song et al.'s public code takes for it, for
    comparison: in plain PyTorch, and slow."""
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
    pde_schedule: Knots = ()
    """Factors of that weight over the steps, as for learning_rate_schedule."""
    residual: Literal["normalized", "square"] = "normalized"
    """"normalized", each potential's mean square over that of the equation's terms; "square", the paper's bare mean
    square, which a potential also lowers by becoming flat."""
    initial_weight: float = 1.0
    """Weight of starting at rest."""
    initial_schedule: Knots = ()
    """Factors of that weight over the steps."""
    jacobian_weight: float = 0.1
    """Weight of the reward for a visible change."""
    jacobian_schedule: Knots = ()
    """Factors of that weight over the steps."""
    jacobian: Literal["log", "square"] = "log"
    """The reward: "log" of the mean square, which doesn't fade as potentials shrink; "square", the paper's."""
    ema: float = 0.0
    """Decay of a moving average of what is learned for good, which the run then uses in its place; 0 for none."""
    max_loss: float = 1e6
    """Training stops as diverged where the loss or a term of it exceeds this."""
    restarts: int = 0
    """How often training that diverged goes on from its last good checkpoint by itself."""
    restart_factor: float = 0.5
    """Factor of the learning rate at each such restart."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too; needs the extra "logging"."""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("learning_rate_schedule", *(f"{term}_schedule" for term in self.terms)):
            object.__setattr__(self, name, check_knots(name, getattr(self, name)))
        check_positive(
            self, "steps", "batch_size", "learning_rate", "path_steps", "dt", "max_loss", "restart_factor",
            "log_every", "checkpoint_every",
        )  # fmt: skip
        check_not_negative(self, "seed", "restarts", "ema", *(f"{term}_weight" for term in self.terms))
        if self.seed >= 2**63:
            raise InputError(f"seed must be below 2^63, got {self.seed}")
        if self.ema >= 1:
            raise InputError(f"ema must be below 1, got {self.ema}")
        if self.step_length is not None:
            check_positive(self, "step_length")
        check_widths("hidden", self.hidden)
        if self.time == "none" and self.pde not in _TIMELESS:
            raise InputError(
                f"time must be sinusoidal or linear for pde {self.pde}, which has derivatives in time; only "
                f"{' and '.join(_TIMELESS)} have none"
            )
        if self.force != "none" and self.pde not in _FORCED:
            raise InputError(f"force must be none for pde {self.pde}; only {' and '.join(_FORCED)} have one")
        if self.pde == "poisson" and self.force != "field" and not self.learn_pde and self.residual == "normalized":
            raise InputError(
                "learn_pde must be true for pde poisson, unless residual is square or force is field: the Laplacian "
                "alone is all there is of Laplace's equation, and its normalized residual is always 1"
            )
        if self.laplacian == "row_sum" and self.pde == "porous-medium":
            raise InputError("laplacian must be exact for pde porous-medium, which is no sum over coordinates")
        if self.batch_size < self.num_potentials:
            raise InputError(
                f"batch_size must be at least num_potentials, {self.num_potentials}, so that every step trains all of "
                f"them; got {self.batch_size}"
            )

    def weight(self, term: str, step: int) -> float:
        """A term's weight at a step."""
        return getattr(self, f"{term}_weight") * factor_at(getattr(self, f"{term}_schedule"), step)


@dataclass(frozen=True)
class DiscoverConfig(FlowSettings):
    """Settings of a discovery; the defaults suit small image generators."""

    terms = ("pde", "initial", "jacobian", "classifier", "guidance")

    classifier_weight: float = 1.0
    """Weight of the classifier's cross-entropy."""
    classifier_schedule: Knots = ()
    """Factors of that weight over the steps."""
    classifier: str = "small"
    """Who must tell the potentials apart: small, lenet, resnet18, or FILE.py:FUNCTION, called with the images' shape
    (C, H, W) and K, which returns a module of two image batches with logits (B, K)."""
    guidance_weight: float = 1.0
    """Weight of following a property predictor's gradient, where there is a predictor."""
    guidance_schedule: Knots = ()
    """Factors of that weight over the steps."""
    guidance: Literal["follow", "oppose"] = "follow"
    """Whether the guided potentials raise the predicted property or lower it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_potentials")
        check_classifier(self.classifier)


def check_widths(name: str, widths: tuple[int, ...]) -> None:
    """Raise InputError unless there is a layer, and none without width."""
    if not widths or min(widths) < 1:
        raise InputError(f"{name} must name one width or more, each at least 1, got {widths!r}")
