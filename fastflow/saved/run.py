"""A saved run: trained potentials with their generator and configuration, ready to traverse."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.pde import PDE
from fastflow.engine.potentials import PotentialBank
from fastflow.generators import Generator
from fastflow.generators.loading import can_be_found
from fastflow.generators.vae import LikelihoodVAEGenerator
from fastflow.latents.traversal import Pace, Traversal, TraversalDirection, traverse
from fastflow.saved.names import read_names, write_name
from fastflow.training.config import FlowSettings
from fastflow.training.potentials import Potentials
from fastflow.training.vae import Kept
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_models import Learned


class SavedRun:
    """Trained potentials with their generator and configuration.

    Attributes:
        folder: the run's folder. step: the training steps behind its weights.
        bank, pde, companion: the potentials, their equation, and the velocity without divergence that joins their
            gradients where the configuration asked for one; together `potentials`.
        step_length: of the steps in latent space that `traverse` takes, or None for the flow's own speed; the
            configuration's, until it is changed.
    """

    def __init__(
        self, folder: Path, potentials: Potentials | None, generator: Generator, config: FlowSettings, step: int
    ) -> None:
        self.folder = folder
        self._potentials = potentials
        self.generator = generator
        self.config = config
        self.step = step
        self.step_length = config.step_length

    @property
    def potentials(self) -> Potentials:
        """The potentials; raise InputError where training had none, as a plain VAE's."""
        if self._potentials is None:
            raise InputError(f"run {str(self.folder)!r} has no potentials: its VAE was trained with flow_weight 0")
        return self._potentials

    @property
    def bank(self) -> PotentialBank:
        """The bank of potentials."""
        return self.potentials.bank

    @property
    def pde(self) -> PDE:
        """Their equation."""
        return self.potentials.pde

    @property
    def companion(self) -> DivergenceFreeField | None:
        """The velocity beside their gradients, where there is one."""
        return self.potentials.companion

    @property
    def num_paths(self) -> int:
        """K, the number of potentials."""
        return self.bank.num_potentials

    @property
    def path_steps(self) -> int:
        """The steps of the paths that the potentials were trained on."""
        return self.config.path_steps

    def traverse(
        self,
        z0: Tensor,
        potential: int | str | Tensor,
        steps: int | None = None,
        direction: TraversalDirection = "forward",
        *,
        labels: Tensor | None = None,
    ) -> Traversal:
        """Let latents z0 (B, D) flow along a potential for `steps` steps, path_steps if left out.

        The potential may be given by its name. See `fastflow.latents.traversal.traverse`.
        """
        potential = self.find(potential) if isinstance(potential, str) else potential
        steps = self.path_steps if steps is None else steps
        pace = Pace(self.config.dt, self.config.method, self.step_length)
        return traverse(
            self.bank, self.generator, z0, potential, steps, pace, direction, self.companion, labels=labels
        )  # fmt: skip

    @property
    def needs_generator(self) -> bool:
        """Whether its generator was made in Python and can't be found by name when the run is loaded."""
        return not can_be_found(self.generator.name)

    @property
    def names(self) -> dict[int, str]:
        """The potentials' names, of those that have one."""
        return read_names(self.folder, self.bank.num_potentials)

    def name(self, potential: int, name: str | None) -> None:
        """Name a potential, for good: it stands in the run's names.json. None takes the name away.

        Raises:
            InputError: there is no such potential, or the name can't be used.
        """
        write_name(self.folder, self.bank.num_potentials, potential, name)

    def find(self, name: str) -> int:
        """The potential of this name.

        Raises:
            InputError: none has it.
        """
        names = self.names
        for potential, known in names.items():
            if known == name:
                return potential
        raise InputError(
            f"no potential of {str(self.folder)!r} is called {name!r}; {', '.join(names.values()) or 'none'} "
            f"{'is' if len(names) < 2 else 'are'} named"
        )

    def __repr__(self) -> str:
        count = 0 if self._potentials is None else self.bank.num_potentials
        return f"{type(self).__name__}({str(self.folder)!r}, step={self.step}, {count} potentials)"


class SavedVAE(SavedRun):
    """A VAE that was trained from scratch, with the potentials that carried its latents, if any.

    Attributes:
        vae: what `ff.metrics.log_likelihood` measures. generator: its mean images.
        learned: all of it, with the inference of transformations and the diffusion prior where there are such.
        transformations: the names of the data's; potential k moves as number k does, where supervision was full.
    """

    config: VAEConfig

    def __init__(self, folder: Path, learned: Learned, kept: Kept, config: VAEConfig, step: int) -> None:
        for module in (*learned.modules().values(), kept):
            module.requires_grad_(False)
        super().__init__(folder, learned.potentials, LikelihoodVAEGenerator(learned.vae, kept.images), config, step)
        self.learned, self.vae = learned, learned.vae
        self.transformations = config.transformations

    @property
    def needs_generator(self) -> bool:
        """Never: the VAE is the run's own."""
        return False
