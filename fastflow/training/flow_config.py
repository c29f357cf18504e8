"""The settings of a training, as its run's config.json holds them: those of every training, and a discovery's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from fastflow.core.errors import InputError
from fastflow.engine.integration import Integration
from fastflow.engine.potentials import TimeInput
from fastflow.engine.types import Method
from fastflow.latents.classifiers import check_classifier
from fastflow.training.config_file import check_settings
from fastflow.training.schedules import Schedule, factor_at

Equation = Literal[
    "wave", "damped-wave", "klein-gordon", "heat", "hamilton-jacobi", "viscous-hamilton-jacobi", "helmholtz", "poisson",
    "porous-medium",
]  # fmt: skip

CHANGEABLE = (
    "steps", "log_every", "checkpoint_every", "max_loss", "restarts", "restart_factor", "tensorboard",
)  # fmt: skip
"""The settings that a resumed run may change: no training step's computation depends on them."""

_TIMELESS = ("helmholtz", "poisson")
"""The equations without derivatives in time."""

_FORCED = ("hamilton-jacobi", "poisson")
"""The equations with a second field beside the potential: a force or a density."""


def check_widths(name: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the widths; raise InputError unless there is one, and all are 1 or above."""
    if not widths or min(widths) < 1:
        raise InputError(f"{name} must name one width or more, each at least 1, got {widths!r}")
    return widths


Widths = Annotated[tuple[int, ...], check_widths]
"""The type of a setting that names the widths of layers."""


@dataclass(frozen=True)
class FlowConfig:
    """Settings of every training of potentials: the training loop, the potentials, their paths and their equation."""

    terms: ClassVar[tuple[str, ...]] = ("pde", "initial", "jacobian")
    """The terms of the loss; each has a `<term>_weight` and a `<term>_schedule`."""

    before: ClassVar[dict[str, Any]] = {}
    """The values of settings in runs that are older than these settings, where they aren't the defaults."""

    num_potentials: Annotated[int, Gt(0)] = 8
    """K, the number of potentials."""
    steps: Annotated[int, Gt(0)] = 1000
    """Number of training steps."""
    batch_size: Annotated[int, Gt(0)] = 256
    """Number of samples in a training step, over all processes. Each has its own potential and time."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Learning rate of the optimizer, Adam."""
    learning_rate_schedule: Schedule = ()
    """Factors of the learning rate over the training, as pairs STEP FACTOR, such as 0 0.1 500 1.
    Between the pairs, the factor follows straight lines; before the first and after the last, it is constant.
    Without pairs, it is always 1."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed."""
    hidden: Widths = (64, 64)
    """Widths of the hidden layers of a potential's network."""
    activation: Literal["tanh", "sin", "gelu", "silu", "softplus"] = "tanh"
    """Activation function of the hidden layers."""
    out_activation: Literal["tanh", "identity"] = "tanh"
    """Function of the network's output: tanh, as in the paper, or identity, which leaves it as it is."""
    time: TimeInput = "sinusoidal"
    """How time enters a potential: as a sinusoidal embedding, as one more linear input, or not at all (none)."""
    companion: bool = False
    """Add a learned, divergence-free velocity to the gradient of each potential, so that paths can turn."""
    companion_affine: bool = False
    """Give each of these velocities a linear part too, which has no divergence either, and a constant."""
    pde: Equation = "wave"
    """Partial differential equation that every potential is trained to satisfy."""
    learn_pde: bool = True
    """Learn the equation's constants, separately for each potential; otherwise they keep their initial values.
    With constants that aren't learned, poisson is Laplace's equation unless force is field.
    Laplace's equation has a single term, so its normalized residual is always 1: choose residual square for it."""
    force: Literal["none", "constant", "field"] = "none"
    """Force in hamilton-jacobi: none, a learned constant for each potential, or a learned field of latent and time.
    In poisson, field makes the density a learned field; otherwise it is a learned constant for each potential."""
    laplacian: Literal["exact", "row_sum"] = "exact"
    """Laplacian in the equation: exact, or row_sum, the sums of the Hessian's rows.
    The public code of Song et al. uses row_sum. It is here for comparison, in plain PyTorch, and it is slow."""
    path_steps: Annotated[int, Gt(0)] = 10
    """T, the number of steps in a path."""
    dt: Annotated[float, Gt(0)] = 1.0
    """Time that one step of a path takes."""
    method: Method = "euler"
    """Numerical method that integrates the paths."""
    step_length: Annotated[float, Gt(0)] | None = None
    """Length in latent space that every step of a path is rescaled to. By default, steps aren't rescaled."""
    pde_weight: Annotated[float, Ge(0)] = 3.0
    """Weight of the equation's residual along the path."""
    pde_schedule: Schedule = ()
    """Factors of the residual's weight over the training, as in learning_rate_schedule."""
    residual: Literal["normalized", "square"] = "normalized"
    """Measure of the residual: square, its mean square as in the paper, or normalized.
    normalized divides the mean square, for each potential, by the mean square of the equation's terms.
    A potential can lower square, but not normalized, by becoming flat."""
    initial_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the initial condition, by which paths start at rest."""
    initial_schedule: Schedule = ()
    """Factors of the initial condition's weight over the training, as in learning_rate_schedule."""
    jacobian_weight: Annotated[float, Ge(0)] = 0.1
    """Weight of the reward for a visible change of the images."""
    jacobian_schedule: Schedule = ()
    """Factors of the reward's weight over the training, as in learning_rate_schedule."""
    jacobian: Literal["log", "square"] = "log"
    """Reward for a visible change: square, its mean square as in the paper, or log, the logarithm of that.
    The logarithm doesn't fade as potentials become small."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay of a moving average of the weights, at least 0 and below 1. The run then uses the average in their place.
    The default, 0, means no average."""
    max_loss: Annotated[float, Gt(0)] = 1e6
    """Largest loss that is allowed. Training stops as diverged when the loss, or one of its terms, exceeds it."""
    restarts: Annotated[int, Ge(0)] = 0
    """Number of times that training, when it diverges, restarts by itself from its last good checkpoint."""
    restart_factor: Annotated[float, Gt(0)] = 0.5
    """Factor that the learning rate is multiplied by at each such restart."""
    log_every: Annotated[int, Gt(0)] = 20
    """Number of steps from one line of metrics.jsonl to the next."""
    checkpoint_every: Annotated[int, Gt(0)] = 500
    """Number of steps from one checkpoint to the next."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well; needs pip install 'fastflow[logging]'."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.time == "none" and self.pde not in _TIMELESS:
            raise InputError(
                f"time must be sinusoidal or linear for pde {self.pde}, which has derivatives in time; only "
                f"{' and '.join(_TIMELESS)} have none"
            )
        if self.force != "none" and self.pde not in _FORCED:
            raise InputError(f"force must be none for pde {self.pde}; only {' and '.join(_FORCED)} have one")
        if self.pde == "poisson" and self.force != "field" and not self.learn_pde and self.residual == "normalized":
            raise InputError(
                "learn_pde must be true for pde poisson, unless residual is square or force is field: without learned "
                "constants this is Laplace's equation, which has a single term, so its normalized residual is always 1"
            )
        if self.laplacian == "row_sum" and self.pde == "porous-medium":
            raise InputError(
                "laplacian must be exact for pde porous-medium: row_sum needs a residual that is a sum over coordinates"
            )
        if self.batch_size < self.num_potentials:
            raise InputError(
                f"batch_size must be at least num_potentials, {self.num_potentials}, so that every step trains all of "
                f"them; got {self.batch_size}"
            )

    @property
    def integration(self) -> Integration:
        """How the potentials' paths are integrated."""
        return Integration(self.dt, self.method, step_length=self.step_length)

    def weight(self, term: str, step: int) -> float:
        """The weight of a term of the loss at a training step."""
        return getattr(self, f"{term}_weight") * factor_at(getattr(self, f"{term}_schedule"), step)


@dataclass(frozen=True)
class DiscoverConfig(FlowConfig):
    """Settings of a discovery. The defaults suit small image generators."""

    terms = ("pde", "initial", "jacobian", "classifier", "guidance", "hold", "shell", "keep")
    before: ClassVar[dict[str, Any]] = {"guidance_loss": "cosine"}

    classifier_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the classifier's cross-entropy."""
    classifier_schedule: Schedule = ()
    """Factors of the classifier's weight over the training, as in learning_rate_schedule."""
    classifier: str = "small"
    """Classifier that must tell the potentials apart: small, lenet, resnet18 or FILE.py:FUNCTION.
    FUNCTION is called with the images' shape (C, H, W) and K.
    It returns a module that maps two batches of images to logits (B, K)."""
    guide_rate: Annotated[float, Gt(0)] = 0.2
    """Share of its spread by which a guided potential changes its attribute in one step.
    The spread is the standard deviation over the generator's own images."""
    guidance: Literal["follow", "oppose"] = "follow"
    """Direction of the guided potentials: follow raises their attributes, oppose lowers them."""
    guidance_loss: Literal["path", "cosine"] = "path"
    """How guided potentials are judged: path, by where whole paths have led, or cosine.
    cosine is the angle between a single step and the attribute's gradient. It holds nothing still."""
    guidance_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the difference between a guided attribute's change and what is asked."""
    guidance_schedule: Schedule = ()
    """Factors of the guidance's weight over the training, as in learning_rate_schedule."""
    hold_weight: Annotated[float, Ge(0)] = 1.5
    """Weight of the other attributes' changes along guided paths."""
    hold_schedule: Schedule = ()
    """Factors of this weight over the training, as in learning_rate_schedule."""
    shell_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of leaving the distances from the prior's mean that latents have, along guided paths."""
    shell_schedule: Schedule = ()
    """Factors of this weight over the training, as in learning_rate_schedule."""
    keep_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the change of the features to keep, along guided paths."""
    keep_schedule: Schedule = ()
    """Factors of this weight over the training, as in learning_rate_schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classifier(self.classifier)
