"""The settings of a VAE's training, which live in its run's config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import Likelihood
from fastflow.training.config import FlowSettings, check_widths
from fastflow.training.config_file import check_not_negative, check_positive
from fastflow.training.schedules import Knots, check_knots

FLOW_TERMS = ("transport", "matching", "assignment", "pde", "initial", "jacobian")
"""The objective's terms that the potentials bring; all have the factor `flow_weight`."""


@dataclass(frozen=True)
class VAEConfig(FlowSettings):
    """Settings of a VAE that is trained from scratch, with potential flows or without; they suit small images."""

    terms: ClassVar[tuple[str, ...]] = ("start", "moved", *FLOW_TERMS)

    data: str = "digits"
    """What to train on: digits, mnist, dsprites, or another data set's name."""
    transformations: tuple[str, ...] = ()
    """How the images move, such as rotation scale; the data set's own if left out. There is a potential for each."""
    num_potentials: int = 0
    """K, the number of potentials: that of the transformations, which is what 0 means, unless supervision is weak."""
    steps: int = 3000
    """Training steps."""
    batch_size: int = 128
    """Samples in a step, over all processes, each with an image, a transformation and a time of its own."""
    network: Literal["mlp", "conv"] = "mlp"
    """Encoder and decoder: fully connected, or convolutions each of which halves the images' side."""
    widths: tuple[int, ...] = (256, 256)
    """Widths of the encoder's layers, or their channels; the decoder mirrors them."""
    latent_dim: int = 16
    """D, the width of the latents."""
    likelihood: Likelihood = "bernoulli"
    """Of an image given its latent; gaussian and discretized-logistic learn one standard deviation of all pixels."""
    beta: float = 1.0
    """Factor of the divergence from the prior: a beta-VAE's."""
    supervision: Literal["full", "weak"] = "full"
    """Whether a sample's transformation is known, or inferred from its first and last image."""
    temperature: float = 1.0
    """Of the gumbel-softmax that draws the inferred transformation."""
    prior: Literal["normal", "diffusion"] = "normal"
    """Of moved images' latents: N(0, I), or what it has become by diffusion, N(0, (1 + 2 D t) I)."""
    diffusion: float = 0.05
    """D, the diffusion prior's coefficient, or where learning it begins."""
    learn_diffusion: bool = True
    """Whether the diffusion prior's coefficient is learned."""
    flow_weight: float = 1.0
    """Factor of all terms that the potentials bring; with 0 there are none, and a plain VAE is trained."""
    flow_schedule: Knots = ()
    """Factors of that factor over the steps, as for learning_rate_schedule."""
    start_weight: float = 1.0
    """Weight of the negative evidence lower bound of the images at the paths' start."""
    start_schedule: Knots = ()
    """Factors of that weight over the steps."""
    moved_weight: float = 1.0
    """Weight of the same of moved images, each through its own posterior."""
    moved_schedule: Knots = ()
    """Factors of that weight over the steps."""
    transport_weight: float = 1.0
    """Weight of the negative log-likelihood of moved images given the start's latent, moved by its potential."""
    transport_schedule: Knots = ()
    """Factors of that weight over the steps."""
    matching_weight: float = 1.0
    """Weight of the squared distance between the moved latent and the moved image's own."""
    matching_schedule: Knots = ()
    """Factors of that weight over the steps."""
    assignment_weight: float = 1.0
    """Weight of the inferred transformations' divergence from a uniform prior."""
    assignment_schedule: Knots = ()
    """Factors of that weight over the steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("transformations", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "flow_schedule", check_knots("flow_schedule", self.flow_schedule))
        check_widths("widths", self.widths)
        check_positive(self, "latent_dim", "temperature", "diffusion")
        check_not_negative(self, "num_potentials", "flow_weight", "beta")
        if self.prior == "diffusion" and self.step_length is not None:
            raise InputError("prior must be normal with a step_length: a rescaled flow's density isn't followed")
        if self.prior == "diffusion" and self.laplacian != "exact":
            raise InputError(f"prior must be normal with laplacian {self.laplacian}: a density follows the exact one")

    @property
    def flows(self) -> bool:
        """Whether there are potentials."""
        return self.flow_weight > 0

    def weight(self, term: str, step: int) -> float:
        """A term's weight at a step, `flow_weight` and its schedule included."""
        weight = super().weight(term, step)
        return weight * super().weight("flow", step) if term in FLOW_TERMS else weight
