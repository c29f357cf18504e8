"""A run: what a training left behind in its folder, loaded and ready to traverse."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastflow import generators
from fastflow.devices import find_device
from fastflow.errors import InputError
from fastflow.files import is_leftover, locked_folder, read_json, write_json
from fastflow.generators import Generator
from fastflow.generators.loading import can_be_found
from fastflow.metrics.attributes import AttributeCorrelation, correlate
from fastflow.metrics.evaluation import evaluate
from fastflow.names import read_names, write_name
from fastflow.report import write_report, write_traversals
from fastflow.training.checkpoint import latest_checkpoint, read_checkpoint
from fastflow.training.configuration import from_dict
from fastflow.training.discover import Discovery, Potentials, Predictor, check_task, untrained_potentials
from fastflow.training.distributed import team
from fastflow.training.journal import check_tensorboard
from fastflow.training.loop import Trainer
from fastflow.training.settings import CHANGEABLE, DiscoverConfig
from fastflow.traversal import Traversal, TraversalDirection, traverse

# Beside config.json, which is replaced, so that the folder never ceases to be a run.
_MADE_BY_RUNS = (
    "metrics.jsonl", "evaluation.json", "report.html", "checkpoints", "traversals", "tensorboard",
    "names.json", "attributes.json",
)  # fmt: skip


class Run:
    """Trained potentials with their generator and configuration.

    Attributes:
        folder: the run's folder. step: the training steps behind its weights.
        bank, pde, companion: the potentials, their equation, and the velocity without divergence that joins their
            gradients where the configuration asked for one; together `potentials`.
    """

    def __init__(
        self, folder: Path, potentials: Potentials, generator: Generator, config: DiscoverConfig, step: int
    ) -> None:
        self.folder = folder
        self.potentials = potentials
        self.bank, self.pde, self.companion = potentials
        self.generator = generator
        self.config = config
        self.step = step

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
        steps = self.config.path_steps if steps is None else steps
        return traverse(
            self.bank, self.generator, z0, potential, steps, self.config, direction, self.companion, labels=labels
        )  # fmt: skip

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
        training step.
        """
        if not self._is_current("evaluation.json"):
            self.evaluate(samples, progress=progress)
        if not self._is_current("traversals/index.json"):
            write_traversals(self, self.folder / "traversals", overwrite=True)
        return write_report(self.folder)

    def _is_current(self, name: str) -> bool:
        """Whether a JSON file of the folder is there, can be read and is about the present weights."""
        try:
            record = read_json(self.folder / name)
        except InputError:
            return False
        return isinstance(record, dict) and record.get("training_steps") == self.step

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, step={self.step}, {self.bank.num_potentials} potentials)"


def discover(
    generator: Generator,
    config: DiscoverConfig | None = None,
    out: str | Path = "runs/discover",
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    classifier: nn.Module | None = None,
    predictor: Predictor | None = None,
) -> Run:
    """Train potentials on a pretrained generator (Song et al., ICML 2023) and return the run.

    Args:
        generator: frozen; see `fastflow.generators`.
        config: the settings, with sensible defaults.
        out: the run's folder: config.json, metrics.jsonl, checkpoints/.
        resume: go on from the newest checkpoint in `out`, or start if there is none.
        overwrite: replace the run in `out`.
        progress: show a progress bar.
        classifier: a module of your own that tells the potentials apart, in place of the configuration's: two batches
            of images (B, C, H, W) in [0, 1] to logits (B, K). It is trained as well, and restarted by resume.
        predictor: a differentiable function of images (B, C, H, W) in [0, 1], whose values (B,) or (B, P) the first
            potentials learn to raise, one property each, or to lower; see `guidance` in the configuration.

    In processes that torchrun started, all train together, each on its part of every batch, and the first one writes.

    Raises:
        InputError: `out` holds another run or foreign files or is in use, the settings don't fit, or no gradient passes
            through the generator.
        TrainingError: training diverged; the message names the step, the term and the last good checkpoint.
        KeyboardInterrupt: stopped by a signal, after writing a checkpoint.
    """
    generator = _as_generator(generator)
    config = DiscoverConfig() if config is None else config
    if not isinstance(config, DiscoverConfig):
        raise InputError(
            f"config must be a DiscoverConfig, got {type(config).__name__}: use DiscoverConfig(**settings)"
        )
    folder = _as_folder(out)
    with team(generator.sample(1).device) as group, ExitStack() as held:
        task = Discovery(config, generator, classifier=classifier, predictor=predictor, team=group)
        check_task(task)
        if config.tensorboard:
            group.led(check_tensorboard)

        def claim() -> None:
            held.enter_context(locked_folder(folder))
            check_folder(folder, config, generator, resume=resume, overwrite=overwrite, guided=predictor is not None)

        group.led(claim)
        trainer = Trainer(task, config, folder, group)
        if resume:
            trainer.restore()  # before anything is written: a damaged checkpoint leaves the folder as it was
        group.led(lambda: begin_folder(folder, config, generator, fresh=not resume, guided=predictor is not None))
        trainer.run(progress)
    task.module.requires_grad_(False)
    return Run(folder, task.average or task.potentials, generator, config, config.steps)


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
    folder = _as_folder(folder)
    record = read_record(folder)
    config = recorded_config(record, folder)
    generator = restore_generator(record, folder) if generator is None else _as_generator(generator)
    if device is not None:
        generator = generator.to(find_device(device))
    check_generator(record, generator, folder)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run {str(folder)!r} has no checkpoint yet")
    potentials = untrained_potentials(config, generator)
    module, ignored = nn.ModuleDict(potentials.modules()), ("classifier.", "average.")
    if config.ema:
        module, ignored = nn.ModuleDict({"average": module}), ("classifier.", *(f"{name}." for name in module))
    read_checkpoint(checkpoint, module, ignored=ignored).load(module)
    return Run(folder, potentials, generator, config, checkpoint.step)


def check_folder(
    folder: Path,
    config: DiscoverConfig,
    generator: Generator,
    *,
    resume: bool = False,
    overwrite: bool = False,
    guided: bool = False,
) -> None:
    """Raise InputError unless `folder` can become this configuration's run: new, resumed, or in another's place.

    Nothing is written. `guided` says whether there is a predictor.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other")
    record = read_record(folder) if (folder / "config.json").exists() else None
    if resume and record is not None:
        check_generator(record, generator, folder)
        before = asdict(recorded_config(record, folder))
        settings = {**asdict(config), "predictor": guided}
        before["predictor"] = record.get("predictor", False)
        name = next((name for name in settings if name not in CHANGEABLE and before[name] != settings[name]), None)
        if name is not None:
            raise InputError(
                f"can't resume {str(folder)!r}: {name} was {before[name]!r} and is now {settings[name]!r}; resume with "
                "the same settings, or start again with overwrite"
            )
        if config.max_loss < before["max_loss"]:  # a checkpoint that leads beyond max_loss is removed
            raise InputError(
                f"can't resume {str(folder)!r}: max_loss was {before['max_loss']:g} and may only be raised, it is now "
                f"{config.max_loss:g}"
            )
        checkpoint = latest_checkpoint(folder / "checkpoints")
        if checkpoint is not None and checkpoint.step > config.steps:
            raise InputError(
                f"can't resume {str(folder)!r}: it is {checkpoint.step} steps long already, steps is {config.steps}"
            )
    elif record is not None and not overwrite:
        raise InputError(f"{str(folder)!r} holds a run already: resume it, overwrite it, or choose another folder")
    elif record is None and folder.exists() and any(not is_leftover(path) for path in folder.iterdir()):
        raise InputError(f"{str(folder)!r} isn't empty and isn't a run: choose a new folder")


def begin_folder(
    folder: Path, config: DiscoverConfig, generator: Generator, *, fresh: bool = True, guided: bool = False
) -> None:
    """Write config.json into a folder that was checked; `fresh` removes what another run made there before."""
    for leftover in filter(is_leftover, folder.iterdir()):
        leftover.unlink()
    if fresh:
        for name in _MADE_BY_RUNS:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_json(folder / "config.json", _record(config, generator, guided))


def recorded_config(record: dict[str, Any], folder: Path) -> DiscoverConfig:
    """The configuration that a run's config.json holds; raise InputError unless it is one."""
    return from_dict(DiscoverConfig, record["config"], str(folder / "config.json"))


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of a run's config.json.

    Raises:
        InputError: the folder isn't a run.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{str(folder)!r} isn't a run: expected a folder that fastflow discover made, with a config.json"
        )
    record = read_json(folder / "config.json")
    if not (
        isinstance(record, dict)
        and record.get("kind") == "discover"
        and isinstance(record.get("config"), dict)
        and isinstance(record.get("generator"), dict)
        and isinstance(record["generator"].get("name"), str | None)
        and isinstance(record["generator"].get("latent_dim"), int)
        and isinstance(record["generator"].get("pixels"), list)
        and all(isinstance(pixel, float) for pixel in record["generator"]["pixels"])
    ):
        raise InputError(f"{str(folder)!r} isn't a run: its config.json isn't one that fastflow discover wrote")
    return record


def restore_generator(record: dict[str, Any], folder: Path) -> Generator:
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


def check_generator(record: dict[str, Any], generator: Generator, folder: Path) -> None:
    """Raise InputError unless the generator draws what the run's own drew."""
    expected, found = record["generator"], _describe(generator)
    same = all(expected.get(key) == found[key] for key in ("latent_dim", "image_shape", "value_range"))
    if same:
        # Another machine's rounding may differ; another generator's images do.
        low, high = generator.value_range
        pixels, expected_pixels = np.array(found["pixels"]), np.array(expected["pixels"])
        same = pixels.shape == expected_pixels.shape and bool(
            (abs(pixels - expected_pixels) < 1e-3 * (high - low)).all()
        )
    if not same:
        raise InputError(f"run {str(folder)!r} was trained on another generator than {generator.name or 'this one'}")


def _as_folder(folder: str | Path) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"a run's folder must be a path, got {folder!r}")
    return Path(folder)


def _as_generator(generator: Generator) -> Generator:
    if not isinstance(generator, Generator):
        raise InputError(
            f"generator must be a fastflow generator, got {type(generator).__name__}: wrap it in "
            "ff.generators.from_callable"
        )
    return generator


def _record(config: DiscoverConfig, generator: Generator, guided: bool) -> dict[str, Any]:
    versions = {name: version(name) for name in ("fastflow", "torch", "numpy")}
    return {
        "kind": "discover",
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        "generator": _describe(generator),
        "predictor": guided,
        "config": asdict(config),
    }


@torch.no_grad()
def _describe(generator: Generator) -> dict[str, Any]:
    """What tells a generator from another: besides its shapes, some pixels of some images."""
    pixels = generator.decode(generator.sample(4)).flatten()
    chosen = torch.linspace(0, len(pixels) - 1, 64).long().to(pixels.device)
    return {
        "name": generator.name,
        "latent_dim": generator.latent_dim,
        "image_shape": list(generator.image_shape),
        "value_range": list(generator.value_range),
        "pixels": [round(pixel, 6) for pixel in pixels[chosen].tolist()],
    }
