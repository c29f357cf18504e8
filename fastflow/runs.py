"""A run: what a training left behind in its folder, loaded and ready to traverse."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastflow import generators
from fastflow.devices import find_device
from fastflow.edits import Along, Edit, make_edit
from fastflow.errors import InputError
from fastflow.fields import DivergenceFreeField
from fastflow.files import read_json
from fastflow.generators import Generator
from fastflow.generators.identity import draws_alike, is_description
from fastflow.generators.loading import can_be_found
from fastflow.generators.vae import LikelihoodVAEGenerator
from fastflow.importing import name_of
from fastflow.metrics.attributes import AttributeCorrelation, correlate
from fastflow.metrics.evaluation import evaluate
from fastflow.metrics.strokes import STROKE_ATTRIBUTES, looks_drawn, stroke_attributes
from fastflow.names import read_names, write_name
from fastflow.pde import PDE
from fastflow.potentials import PotentialBank
from fastflow.report import write_report, write_traversals
from fastflow.training.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from fastflow.training.discover import Predictor
from fastflow.training.folder import Record, no_run, read_record, recorded_config
from fastflow.training.potentials import Potentials, untrained_potentials
from fastflow.training.settings import DiscoverConfig, FlowSettings
from fastflow.training.vae import Kept
from fastflow.training.vae_data import is_data_description
from fastflow.training.vae_models import Learned, untrained
from fastflow.training.vae_settings import VAEConfig
from fastflow.traversal import Pace, Traversal, TraversalDirection, traverse


class Run:
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

        The potential may be given by its name. See `fastflow.traversal.traverse`.
        """
        potential = self.find(potential) if isinstance(potential, str) else potential
        steps = self.path_steps if steps is None else steps
        pace = Pace(self.config.dt, self.config.method, self.step_length)
        return traverse(
            self.bank, self.generator, z0, potential, steps, pace, direction, self.companion, labels=labels
        )  # fmt: skip

    def edit(self, along: Along, steps: float, t0: float = 0.0, name: str = "") -> Edit:
        """A change of latents along potentials, which can be lengthened, saved, and applied to any latents.

        Args:
            along: a potential by number or name, or weights of several by theirs, to go along all of them at once.
            steps: of the run; a fraction's last step is shorter, and a negative number undoes as many steps.
            t0: the time at which these steps begin, walked forwards.
            name: what to call it.
        """
        return make_edit(self, along, steps, t0, name)

    @property
    def needs_generator(self) -> bool:
        """Whether its generator was made in Python and can't be found by name when the run is loaded."""
        return not can_be_found(self.generator.name)

    def evaluate(self, samples: int = 4096, seed: int = 1, progress: bool = True) -> dict[str, Any]:
        """Measure strength, distinctness and physics, write evaluation.json and return its contents.

        See `fastflow.metrics.evaluation.evaluate`.
        """
        return evaluate(self, samples, seed, progress)

    def ranking(self, samples: int = 4096, progress: bool = True) -> list[tuple[int, float]]:
        """The potentials with their scores in [0, 1], most distinct, smooth and strong ones first.

        See `fastflow.metrics.ranking.score`. Evaluates on `samples` latents where that isn't done yet.
        """
        if not self._is_current("evaluation.json"):
            self.evaluate(samples, progress=progress)
        try:
            ranking = read_json(self.folder / "evaluation.json")["ranking"]
            return [(k, ranking["scores"][k]) for k in ranking["order"]]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{str(self.folder / 'evaluation.json')!r} holds no ranking: evaluate the run again"
            ) from error

    def correlate(
        self,
        predictor: Predictor,
        attributes: Sequence[str] | None = None,
        samples: int = 64,
        seed: int = 1,
    ) -> AttributeCorrelation:
        """Correlate each potential's paths with any predictor of attributes and write attributes.json.

        See `fastflow.metrics.attributes.attribute_correlation`.
        """
        return correlate(self, predictor, attributes, samples, seed)

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

    def report(self, samples: int = 4096, progress: bool = True) -> Path:
        """Write report.html, one page of pictures, numbers and curves, and return its path.

        Evaluates on `samples` latents and draws the traversals first, where that isn't done yet or was done at another
        training step. Where nobody has correlated the paths with attributes and the images look like drawn strokes,
        their strokes are measured, so that the page can suggest names.
        """
        if not self._is_current("evaluation.json"):
            self.evaluate(samples, progress=progress)
        if not self._is_current("traversals/index.json"):
            write_traversals(self, self.folder / "traversals", overwrite=True)
        if self._needs_strokes():
            self.correlate(stroke_attributes, STROKE_ATTRIBUTES)
        return write_report(self.folder)

    def _needs_strokes(self) -> bool:
        """Whether strokes should be measured: nothing else was, or they were and are out of date."""
        file = self.folder / "attributes.json"
        if file.exists():
            try:
                record = read_json(file)
            except InputError:
                return False
            ours = isinstance(record, dict) and record.get("predictor") == name_of(stroke_attributes)
            return ours and record.get("training_steps") != self.step
        generator = self.generator
        if self.config.path_steps < 2 or generator.image_shape[0] != 1:
            return False
        with torch.no_grad():
            return looks_drawn(generator.eight_bit(generator.decode(generator.sample(64))))

    def _is_current(self, name: str) -> bool:
        """Whether a JSON file of the folder is there, can be read and is about the present weights."""
        try:
            record = read_json(self.folder / name)
        except InputError:
            return False
        return isinstance(record, dict) and record.get("training_steps") == self.step

    def __repr__(self) -> str:
        count = 0 if self._potentials is None else self.bank.num_potentials
        return f"{type(self).__name__}({str(self.folder)!r}, step={self.step}, {count} potentials)"


class VAERun(Run):
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


def load_run(folder: str | Path, generator: Generator | None = None, device: str | torch.device | None = None) -> Run:
    """Load the newest checkpoint of the run in `folder`.

    Args:
        generator: the one the run was trained on; needed only if it was made from a callable in Python, which can't be
            found again by name.
        device: where to put all of it; where the generator is if None.

    Raises:
        InputError: the folder isn't a run, has no checkpoint, is damaged, or needs another generator.
        BackendError: there is no such device here.
    """
    folder = as_folder(folder)
    record = read_record(folder)
    if record["kind"] == "train-vae":
        if generator is not None:
            raise InputError(f"run {str(folder)!r} has a generator of its own, the VAE: leave out generator")
        return _load_vae(folder, record, torch.device("cpu") if device is None else find_device(device))
    if record["kind"] != "discover" or not is_description(record.get("generator")):
        raise no_run(folder)
    return _load_discovery(folder, record, generator, device)


def recorded_settings(folder: Path) -> FlowSettings:
    """The settings that the run in `folder` was trained with.

    Raises:
        InputError: the folder isn't a run.
    """
    record = read_record(folder)
    if record["kind"] not in _KINDS:
        raise no_run(folder)
    return recorded_config(record, _KINDS[record["kind"]], folder)


_KINDS: dict[str, type[FlowSettings]] = {"discover": DiscoverConfig, "train-vae": VAEConfig}
"""The configurations by the commands that make runs of them."""


def _load_discovery(
    folder: Path, record: Record, generator: Generator | None, device: str | torch.device | None
) -> Run:
    config = recorded_config(record, DiscoverConfig, folder)
    generator = _restore_generator(record, folder) if generator is None else as_generator(generator)
    if device is not None:
        generator = generator.to(find_device(device))
    check_generator(record, generator, folder)
    checkpoint = _newest(folder)
    potentials = untrained_potentials(config, generator)
    _read_learned(checkpoint, config, potentials.modules(), ignored=("classifier.",))
    return Run(folder, potentials, generator, config, checkpoint.step)


def _load_vae(folder: Path, record: Record, device: torch.device) -> VAERun:
    if not is_data_description(record.get("data")):
        raise no_run(folder)
    config = recorded_config(record, VAEConfig, folder)
    shape = tuple(record["data"]["image_shape"])
    checkpoint = _newest(folder)
    learned = untrained(config, shape)
    kept = Kept(torch.zeros(record["data"]["kept"], *shape))
    nn.ModuleDict({**learned.modules(), "kept": kept}).to(device)
    _read_learned(checkpoint, config, learned.modules(), beside={"kept": kept})
    return VAERun(folder, learned, kept, config, checkpoint.step)


def _newest(folder: Path) -> Checkpoint:
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run {str(folder)!r} has no checkpoint yet")
    return checkpoint


def _read_learned(
    checkpoint: Checkpoint,
    config: FlowSettings,
    learned: dict[str, nn.Module],
    *,
    beside: dict[str, nn.Module] | None = None,
    ignored: tuple[str, ...] = (),
) -> None:
    """Read the weights of what a run learned for good, or their moving average where it has one, and what is beside."""
    modules = learned
    if config.ema:
        modules, ignored = {"average": nn.ModuleDict(learned)}, (*ignored, *(f"{name}." for name in learned))
    module = nn.ModuleDict({**modules, **(beside or {})})
    read_checkpoint(checkpoint, module, ignored=ignored).load(module)


def _restore_generator(record: Record, folder: Path) -> Generator:
    """The generator that a run names.

    Raises:
        InputError: it was made from a callable in Python, or is no longer where it was.
    """
    name = record["generator"].get("name")
    if not can_be_found(name):
        raise InputError(
            f"run {str(folder)!r} was trained on a generator made in Python, which can't be found by name: "
            "pass it to ff.load_run as generator=, or to the command as --generator FILE.py:FUNCTION"
        )
    return generators.load(name, record["generator"].get("latent_dim"))


def check_generator(record: Record, generator: Generator, folder: Path) -> None:
    """Raise InputError unless the generator draws what the run's own drew."""
    if not draws_alike(record["generator"], generator):
        raise InputError(f"run {str(folder)!r} was trained on another generator than {generator.name or 'this one'}")


def as_folder(folder: str | Path) -> Path:
    """The path of a run's folder; raise InputError unless it is one."""
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"a run's folder must be a path, got {folder!r}")
    return Path(folder)


def as_generator(generator: Generator) -> Generator:
    """The generator; raise InputError unless it is one."""
    if not isinstance(generator, Generator):
        raise InputError(
            f"generator must be a fastflow generator, got {type(generator).__name__}: wrap it in "
            "ff.generators.from_callable"
        )
    return generator
