"""The settings of a VAE's training, as its run's config.json holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import Likelihood
from fastflow.latents.transitions import TransitionKind
from fastflow.training.flow_config import FlowConfig, Widths
from fastflow.training.schedules import Schedule

FLOW_TERMS = ("transport", "matching", "assignment", "pde", "initial", "jacobian")
"""The paper's terms that come from the potentials; `flow_weight` multiplies all of them."""

CHANGED_DEFAULTS = ("companion",)
"""The settings that had another default before there was the objective "sequence"."""

REGULARIZERS = ("pde", "initial", "jacobian")
"""The terms that come from the potentials and aren't part of a bound of the likelihood."""

PAPER_ONLY = {
    "prior": "normal",
    **{f"{term}_weight": 1.0 for term in ("start", "moved", "transport", "matching")},
    **{f"{term}_schedule": () for term in ("start", "moved", "transport", "matching")},
}
"""The settings that the objective "sequence" doesn't have, with their defaults."""

SEQUENCE_ONLY = {"transition": "flow", "later_latents": "inferred", "start_posterior": "first", "frame_steps": 1}
"""The settings that the objective "paper" doesn't have, with their defaults."""


@dataclass(frozen=True)
class VAEConfig(FlowConfig):
    """Settings of a VAE trained from scratch, with potential flows or without. The defaults suit small images."""

    terms: ClassVar[tuple[str, ...]] = ("start", "moved", *FLOW_TERMS)

    before: ClassVar[dict[str, Any]] = {"objective": "paper", "companion_affine": False}

    objective: Literal["sequence", "paper"] = "sequence"
    """What is trained: sequence, the evidence lower bound of sequences of images, or paper, a weighted sum of terms.
    In sequence, a sequence's latents follow each other by a transition, and no term of the bound has a weight.
    paper is the objective of Song et al., with the moved images' own bounds."""
    transition: TransitionKind = "flow"
    """How a latent follows the one before it, in objective sequence. All but flow do without potentials.
    flow: along the gradient of a potential. independent: from N(0, I) by itself, as in a plain VAE.
    walk: near the one before it. ar1: near a times the one before it, with variance 1 - a^2.
    straight: near the one before it plus a learned displacement.
    affine: near a learned affine map of the one before it."""
    frames: Literal["path", "pairs"] = "path"
    """Images of a sample in objective sequence: its whole path (path), or its start and one later image (pairs).
    The objective paper always has pairs."""
    frame_steps: Annotated[int, Gt(0)] = 1
    """Number of steps of the flow from one image of a path to the next, in objective sequence.
    path_steps must be a multiple of it."""
    later_latents: Literal["inferred", "moved"] = "inferred"
    """Latents of the images after the first, in objective sequence: inferred or moved.
    inferred: each has a posterior of its own, and the transition has learned noise.
    moved: the transition moves the first latent without noise, so that one latent explains all images."""
    start_posterior: Literal["first", "all"] = "first"
    """Images from which the first latent is inferred, in objective sequence: the first, or all of the sample.
    With all, half of the samples still use the first one alone, so that single images can be encoded too."""
    data: str = "digits"
    """Data set to train on: digits, mnist, dsprites, images, shapes3d, falcor3d or isaac3d."""
    transformations: tuple[str, ...] = ()
    """Transformations that move the images, such as rotation scale. Each has its own potential.
    By default, they are those that the data set names."""
    num_potentials: Annotated[int, Ge(0)] = 0
    """K, the number of potentials. The default, 0, means one for each transformation.
    Another number needs supervision weak."""
    companion: bool = True
    """Add a learned, divergence-free velocity to the gradient of each potential, so that paths can turn."""
    companion_affine: bool = True
    """Give each of these velocities a linear part too, which has no divergence either, and a constant."""
    steps: Annotated[int, Gt(0)] = 3000
    """Number of training steps."""
    batch_size: Annotated[int, Gt(0)] = 128
    """Number of samples in a training step, over all processes. Each has its own image, transformation and time."""
    network: Literal["mlp", "conv"] = "mlp"
    """Encoder and decoder: fully connected (mlp) or convolutional (conv). Each convolution halves the images' sides."""
    widths: Widths = (256, 256)
    """Widths of the encoder's layers, or their numbers of channels in network conv. The decoder mirrors them."""
    latent_dim: Annotated[int, Gt(0)] = 16
    """D, the width of the latents."""
    likelihood: Likelihood = "bernoulli"
    """Likelihood of an image given its latent.
    gaussian and discretized-logistic learn one standard deviation for all pixels."""
    beta: Annotated[float, Ge(0)] = 1.0
    """Factor of the Kullback-Leibler divergence from the prior, as in a beta-VAE."""
    supervision: Literal["full", "weak"] = "full"
    """Knowledge of a sample's transformation: given (full), or inferred from its first and last image (weak)."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Temperature of the Gumbel-softmax that draws the inferred transformation in objective paper.
    The objective sequence takes the mean over all transformations."""
    prior: Literal["normal", "diffusion"] = "normal"
    """Prior of the moved images' latents: N(0, I), or what diffusion turns it into by time t, N(0, (1 + 2 D t) I).
    The objective sequence has no such prior."""
    diffusion: Annotated[float, Gt(0)] = 0.05
    """D, the coefficient of the diffusion prior. If it is learned, this is its initial value."""
    learn_diffusion: bool = True
    """Learn the coefficient of the diffusion prior."""
    flow_weight: Annotated[float, Ge(0)] = 1.0
    """Factor of all terms of the loss that come from the potentials; in objective sequence, of those beside the bound.
    With 0 there are no potentials, and a plain VAE is trained."""
    flow_schedule: Schedule = ()
    """Factors of flow_weight over the training, as in learning_rate_schedule."""
    start_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the negative evidence lower bound of the images where the paths start.
    Only in objective paper."""
    start_schedule: Schedule = ()
    """Factors of start_weight over the training, as in learning_rate_schedule."""
    moved_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the negative evidence lower bound of the moved images. Each is encoded by itself.
    Only in objective paper."""
    moved_schedule: Schedule = ()
    """Factors of moved_weight over the training, as in learning_rate_schedule."""
    transport_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the negative log-likelihood of a moved image given the first image's latent, moved by its potential.
    Only in objective paper."""
    transport_schedule: Schedule = ()
    """Factors of transport_weight over the training, as in learning_rate_schedule."""
    matching_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the squared distance from the moved latent to the moved image's own latent.
    Only in objective paper."""
    matching_schedule: Schedule = ()
    """Factors of matching_weight over the training, as in learning_rate_schedule."""
    assignment_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the Kullback-Leibler divergence of the inferred transformations from a uniform prior.
    In objective sequence, it is the temperature of these, above 0; only 1 gives a bound of the likelihood."""
    assignment_schedule: Schedule = ()
    """Factors of assignment_weight over the training, as in learning_rate_schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior == "diffusion" and self.step_length is not None:
            raise InputError(
                "prior must be normal with a step_length: the density of a flow whose steps are rescaled isn't computed"
            )
        if self.prior == "diffusion" and self.laplacian != "exact":
            raise InputError(
                f"prior must be normal with laplacian {self.laplacian}: the density of a flow needs the exact Laplacian"
            )
        others, other = (PAPER_ONLY, "paper") if self.objective == "sequence" else (SEQUENCE_ONLY, "sequence")
        for name, default in others.items():
            if getattr(self, name) != default:
                raise InputError(
                    f"{name} must be left out with objective {self.objective}, which doesn't have it; it needs "
                    f"objective {other}"
                )
        least = min((self.assignment_weight, *(factor for _, factor in self.assignment_schedule)))
        if self.objective == "sequence" and least == 0:
            raise InputError(
                "assignment_weight and the factors of assignment_schedule must be above 0 with objective sequence: "
                "they are the temperature of the inferred transformations"
            )
        if self.companion and self.flows and self.latent_dim < 2:
            raise InputError("companion must be off with latent_dim 1: on a line only constants have no divergence")
        if self.path_steps % self.frame_steps:
            raise InputError(f"path_steps must be a multiple of frame_steps, {self.frame_steps}, got {self.path_steps}")
        if self.later_latents == "moved" and self.law in ("independent", "ar1"):
            raise InputError(
                f"later_latents must be inferred with {self.without_flows}: without noise there would be nothing left "
                "of such a transition"
            )

    @property
    def flows(self) -> bool:
        """Whether there are potentials."""
        return self.law == "flow"

    @property
    def law(self) -> TransitionKind:
        """How latents follow each other: `transition`, unless a `flow_weight` of 0 makes them independent."""
        return self.transition if self.flow_weight > 0 else "independent"

    @property
    def without_flows(self) -> str:
        """The setting by which there are no potentials, in words."""
        return f"transition {self.transition}" if self.flow_weight > 0 else "flow_weight 0"

    @property
    def path_frames(self) -> int:
        """The number of images that follow the first one on a path."""
        return self.path_steps // self.frame_steps

    def weight(self, term: str, step: int) -> float:
        """A term's weight at a step, `flow_weight` and its schedule included."""
        weight = super().weight(term, step)
        scaled = REGULARIZERS if self.objective == "sequence" else FLOW_TERMS
        return weight * super().weight("flow", step) if term in scaled else weight
