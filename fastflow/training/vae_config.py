"""The settings of a VAE's training, as its run's config.json holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import Likelihood
from fastflow.training.config import FlowConfig, Widths
from fastflow.training.schedules import Schedule

FLOW_TERMS = ("transport", "matching", "assignment", "pde", "initial", "jacobian")
"""The terms of the loss that come from the potentials; `flow_weight` multiplies all of them."""


@dataclass(frozen=True)
class VAEConfig(FlowConfig):
    """Settings of a VAE trained from scratch, with potential flows or without. The defaults suit small images."""

    terms: ClassVar[tuple[str, ...]] = ("start", "moved", *FLOW_TERMS)

    data: str = "digits"
    """Data set to train on: digits, mnist, dsprites, images, shapes3d, falcor3d or isaac3d."""
    transformations: tuple[str, ...] = ()
    """Transformations that move the images, such as rotation scale. Each has its own potential.
    By default, they are those that the data set names."""
    num_potentials: Annotated[int, Ge(0)] = 0
    """K, the number of potentials. The default, 0, means one for each transformation.
    Another number needs supervision weak."""
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
    """Temperature of the Gumbel-softmax that draws the inferred transformation."""
    prior: Literal["normal", "diffusion"] = "normal"
    """Prior of the moved images' latents: N(0, I), or what diffusion turns it into by time t, N(0, (1 + 2 D t) I)."""
    diffusion: Annotated[float, Gt(0)] = 0.05
    """D, the coefficient of the diffusion prior. If it is learned, this is its initial value."""
    learn_diffusion: bool = True
    """Learn the coefficient of the diffusion prior."""
    flow_weight: Annotated[float, Ge(0)] = 1.0
    """Factor of all terms of the loss that come from the potentials.
    With 0 there are no potentials, and a plain VAE is trained."""
    flow_schedule: Schedule = ()
    """Factors of flow_weight over the training, as in learning_rate_schedule."""
    start_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the negative evidence lower bound of the images where the paths start."""
    start_schedule: Schedule = ()
    """Factors of start_weight over the training, as in learning_rate_schedule."""
    moved_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the negative evidence lower bound of the moved images. Each is encoded by itself."""
    moved_schedule: Schedule = ()
    """Factors of moved_weight over the training, as in learning_rate_schedule."""
    transport_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the negative log-likelihood of a moved image given the first image's latent, moved by its potential."""
    transport_schedule: Schedule = ()
    """Factors of transport_weight over the training, as in learning_rate_schedule."""
    matching_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the squared distance from the moved latent to the moved image's own latent."""
    matching_schedule: Schedule = ()
    """Factors of matching_weight over the training, as in learning_rate_schedule."""
    assignment_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the Kullback-Leibler divergence of the inferred transformations from a uniform prior."""
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

    @property
    def flows(self) -> bool:
        """Whether there are potentials."""
        return self.flow_weight > 0

    def weight(self, term: str, step: int) -> float:
        """A term's weight at a step, `flow_weight` and its schedule included."""
        weight = super().weight(term, step)
        return weight * super().weight("flow", step) if term in FLOW_TERMS else weight
