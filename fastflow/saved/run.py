"""A saved run: trained potentials with their generator and configuration, ready to traverse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from fastflow.core.digests import state_digest
from fastflow.core.errors import InputError
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.pde import PDE
from fastflow.engine.potentials import PotentialBank
from fastflow.generators import Generator
from fastflow.generators.loading import spec_of
from fastflow.generators.vae import LikelihoodVAEGenerator
from fastflow.latents.predictors import Predictor
from fastflow.latents.spaces import Features
from fastflow.latents.traversal import Traversal, TraversalDirection, traverse
from fastflow.saved.names import find_name, read_names, write_name
from fastflow.training.flow_config import FlowConfig
from fastflow.training.potentials import Potentials
from fastflow.training.run_folder import read_record
from fastflow.training.vae import HeldOutImages
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_models import VAEModels


class SavedRun:
    """Trained potentials with their generator and configuration.

    Attributes:
        folder: the run's folder. step: the training steps done when its weights were saved.
        bank, pde, companion: the potentials, their equation, and the divergence-free velocity that is added to their
            gradients if the configuration asked for one; together `potentials`.
        step_length: the length in latent space of the steps that `traverse` takes, or None for the flow's own speed;
            initially the configuration's.

    Args:
        saved_as: the SHA-256 of the weights' file in the checkpoint that holds these weights.
    """

    usual_direction: TraversalDirection = "both"
    """The direction in which traversals are drawn if nothing else is asked for."""
    usually_even: bool = True
    """Whether each step of a traversal makes the same visible change if nothing else is asked for."""

    def __init__(
        self,
        folder: Path,
        potentials: Potentials | None,
        generator: Generator,
        config: FlowConfig,
        step: int,
        *,
        saved_as: str,
    ) -> None:
        self.folder = folder
        self._potentials = potentials
        self._saved_as = saved_as
        self._as_saved = self._in_memory()
        self.generator = generator
        self.config = config
        self.step = step
        self.step_length = config.step_length

    @property
    def weights(self) -> str:
        """The digest by which figures name the weights that they were measured on.

        It is the SHA-256 of weights.safetensors in the checkpoint, as `sha256sum` prints it. If the weights were
        changed in memory since, it is a digest of these.
        """
        found = self._in_memory()
        return self._saved_as if found == self._as_saved else found

    def _modules(self) -> list[nn.Module]:
        """The modules that were learned."""
        return [] if self._potentials is None else list(self._potentials.modules().values())

    def _in_memory(self) -> str:
        """A digest of the weights as they are in memory."""
        return state_digest(module.state_dict() for module in self._modules())

    @property
    def potentials(self) -> Potentials:
        """The potentials; raise InputError if there are none, as in a plain VAE's run."""
        if self._potentials is None:
            assert isinstance(self.config, VAEConfig)
            raise InputError(
                f"run {str(self.folder)!r} has no potentials: its VAE was trained with {self.config.without_flows}"
            )
        return self._potentials

    @property
    def bank(self) -> PotentialBank:
        """The bank of potentials."""
        return self.potentials.bank

    @property
    def pde(self) -> PDE:
        """The potentials' equation."""
        return self.potentials.pde

    @property
    def companion(self) -> DivergenceFreeField | None:
        """The divergence-free velocity that is added to the potentials' gradients, if there is one."""
        return self.potentials.companion

    @property
    def num_paths(self) -> int:
        """K, the number of potentials."""
        return self.bank.num_potentials

    @property
    def path_steps(self) -> int:
        """The number of steps of the paths in training."""
        return self.config.path_steps

    def traverse(
        self,
        z0: Tensor,
        potential: int | str | Tensor,
        steps: int | None = None,
        direction: TraversalDirection = "forward",
        *,
        labels: Tensor | None = None,
        even: bool | None = None,
        features: Features | None = None,
        hold: Sequence[str | Predictor] = (),
    ) -> Traversal:
        """Let latents z0 (B, D) flow along a potential, given by its number or name, for `steps` steps.

        The default is `path_steps` steps, and for `even` what `is_even` says. With even=False, columns are the flow's
        own steps, which an edit counts. `hold` names attributes that the path leaves as they are, such as ["slant"] or
        ["strokes"]; the one that the potential was guided by goes on changing. See
        `fastflow.latents.traversal.traverse`.
        """
        potential = self.find(potential) if isinstance(potential, str) else potential
        steps = self.path_steps if steps is None else steps
        integration = self.config.integration._replace(step_length=self.step_length)
        return traverse(
            self.bank,
            self.generator,
            z0,
            potential,
            steps,
            integration=integration,
            direction=direction,
            companion=self.companion,
            labels=labels,
            even=self.is_even(potential) if even is None else even,
            features=features,
            hold=hold,
            guided=self.guided if hold else (),
        )

    @property
    def guided(self) -> tuple[str, ...]:
        """The names of the attributes that guided the first potentials in training, one each."""
        found = read_record(self.folder).get("guided", [])
        return tuple(found) if isinstance(found, list) and all(isinstance(name, str) for name in found) else ()

    def is_even(self, potential: int | Tensor) -> bool:
        """Whether a traversal along a potential, or one for each latent, is even if nothing else is asked for."""
        return self.usually_even

    @property
    def needs_generator(self) -> bool:
        """Whether `ff.load_run` needs the generator, because it was made in Python and can't be found by name."""
        return spec_of(self.generator) is None

    @property
    def names(self) -> dict[int, str]:
        """The names of potentials that have one, by number."""
        return read_names(self.folder, self.bank.num_potentials)

    def name(self, potential: int, name: str | None) -> None:
        """Name a potential, in the run's names.json. None removes the name.

        Raises:
            InputError: there is no such potential, or the name can't be used.
        """
        write_name(self.folder, self.bank.num_potentials, potential, name)

    def find(self, name: str) -> int:
        """The number of the potential with this name.

        Raises:
            InputError: no potential has this name.
        """
        return find_name(self.folder, self.names, name)

    def __repr__(self) -> str:
        count = 0 if self._potentials is None else self.bank.num_potentials
        return f"{type(self).__name__}({str(self.folder)!r}, step={self.step}, {count} potentials)"


class SavedVAE(SavedRun):
    """A VAE that was trained from scratch, with the potentials that transported its latents, if any.

    Attributes:
        vae: the VAE, as `ff.metrics.log_likelihood` takes it. generator: the VAE's decoder, which gives mean images.
        learned: all learned models, with the inference of transformations and the diffusion prior if there are any.
        transition: how the latents of a sequence follow each other. It has noise if the training gave it some.
        transformations: the names of the data's transformations; with full supervision, potential k learned number k.
    """

    config: VAEConfig
    usual_direction: TraversalDirection = "forward"
    """Forward: starts are held-out images where the transformations begin, before which the data have nothing."""
    usually_even: bool = False
    """Not even: a step of a path is one step of the data's transformation, which is a unit already."""

    def __init__(
        self,
        folder: Path,
        learned: VAEModels,
        held_out: HeldOutImages,
        config: VAEConfig,
        step: int,
        *,
        saved_as: str,
    ) -> None:
        for module in (*learned.modules().values(), held_out):
            module.requires_grad_(False)
        self.learned, self.vae, self.transition = learned, learned.vae, learned.transition
        generator = LikelihoodVAEGenerator(learned.vae, held_out.images)
        super().__init__(folder, learned.potentials, generator, config, step, saved_as=saved_as)
        self.transformations = config.transformations

    def _modules(self) -> list[nn.Module]:
        return list(self.learned.modules().values())

    @property
    def needs_generator(self) -> bool:
        """False: the VAE is the generator."""
        return False
