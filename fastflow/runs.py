"""A run: what a training left behind in its folder, loaded and ready to traverse."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastflow import generators
from fastflow.errors import InputError
from fastflow.files import read_json, write_json
from fastflow.generators import Generator
from fastflow.pde import PDE
from fastflow.potentials import PotentialBank
from fastflow.training.checkpoint import latest_checkpoint, load_checkpoint
from fastflow.training.configuration import from_dict
from fastflow.training.discover import DiscoverConfig, Discovery
from fastflow.traversal import Traversal, TraversalDirection, traverse

_MADE_BY_RUNS = ("config.json", "metrics.jsonl", "evaluation.json", "report.html", "checkpoints", "traversals")


class Run:
    """A trained bank with its generator, equation and configuration.

    Attributes:
        folder: the run's folder. step: the training steps behind its weights.
    """

    def __init__(
        self, folder: Path, bank: PotentialBank, pde: PDE, generator: Generator, config: DiscoverConfig, step: int
    ) -> None:
        self.folder, self.bank, self.pde, self.generator, self.config, self.step = (
            folder, bank, pde, generator, config, step,
        )  # fmt: skip

    def traverse(
        self,
        z0: Tensor,
        potential: int | Tensor,
        steps: int | None = None,
        direction: TraversalDirection = "forward",
    ) -> Traversal:
        """Let latents z0 (B, D) flow along a potential; see `fastflow.traversal.traverse`. `steps` defaults to path_steps."""
        steps = self.config.path_steps if steps is None else steps
        return traverse(self.bank, self.generator, z0, potential, steps, self.config, direction)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, step={self.step}, {self.bank.num_potentials} potentials)"


def load_run(folder: str | Path, generator: Generator | None = None, device: str = "cpu") -> Run:
    """Load the newest checkpoint of the run in `folder`.

    Args:
        generator: the one the run was trained on; needed only if it was made from a callable in Python, which can't be
            found again by name.

    Raises:
        InputError: the folder isn't a run, has no checkpoint, is damaged, or needs another generator.
    """
    folder = Path(folder)
    record = read_record(folder)
    config = from_dict(DiscoverConfig, record["config"], str(folder / "config.json"))
    generator = (restore_generator(record, folder) if generator is None else generator).to(device)
    check_generator(record, generator, folder)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run {str(folder)!r} has no checkpoint yet")
    task = Discovery(config, generator)
    load_checkpoint(checkpoint, task.module)
    task.module.requires_grad_(False)
    return Run(folder, task.bank, task.pde, generator, config, checkpoint.step)


def open_folder(
    folder: Path, config: DiscoverConfig, generator: Generator, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Make `folder` the run of this configuration: new, resumed, or in another run's place.

    Raises:
        InputError: it holds another run or foreign files, or there is nothing there to resume.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file, expected a folder for the run")
    holds_run = (folder / "config.json").exists()
    if resume and holds_run:
        record = read_record(folder)
        check_generator(record, generator, folder)
        before, now = record["config"], _plain(asdict(config))
        changed = [name for name in now if name not in ("steps", "log_every", "checkpoint_every") if before.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise InputError(
                f"can't resume {str(folder)!r}: {name} was {before.get(name)!r} and is now {now[name]!r}; resume with the "
                "same settings, or start again with overwrite"
            )
    elif holds_run and not overwrite:
        raise InputError(f"{str(folder)!r} holds a run already: resume it, overwrite it, or choose another folder")
    elif folder.exists() and not holds_run and any(folder.iterdir()):
        raise InputError(f"{str(folder)!r} isn't empty and isn't a run: choose a new folder")
    elif overwrite and holds_run:
        for name in _MADE_BY_RUNS:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", _record(config, generator))


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of a run's config.json.

    Raises:
        InputError: the folder isn't a run.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{str(folder)!r} isn't a run: expected a folder that fastflow discover made, with a config.json")
    record = read_json(folder / "config.json")
    if not isinstance(record, dict) or record.get("kind") != "discover" or not isinstance(record.get("config"), dict):
        raise InputError(f"{str(folder / 'config.json')!r} isn't a run's configuration")
    return record


def restore_generator(record: dict[str, Any], folder: Path) -> Generator:
    """The generator that a run names.

    Raises:
        InputError: it was made from a callable and has no name.
    """
    described = record.get("generator") or {}
    if not described.get("name"):
        raise InputError(f"run {str(folder)!r} was trained on a generator without a name: pass it as generator=")
    return generators.load(described["name"], described.get("latent_dim"))


def check_generator(record: dict[str, Any], generator: Generator, folder: Path) -> None:
    """Raise InputError unless the generator draws what the run's own drew."""
    expected, found = record.get("generator") or {}, _describe(generator)
    same = all(expected.get(key) == found[key] for key in ("latent_dim", "image_shape"))
    # Another machine's rounding may differ; another generator's images do.
    same = same and abs(expected.get("fingerprint", 0.0) - found["fingerprint"]) <= 1e-3 * abs(found["fingerprint"]) + 1e-6
    if not same:
        raise InputError(f"run {str(folder)!r} was trained on another generator than {generator.name or 'this one'}")


def _record(config: DiscoverConfig, generator: Generator) -> dict[str, Any]:
    versions = {name: version(name) for name in ("fastflow", "torch", "numpy")}
    return {
        "kind": "discover",
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        "generator": _describe(generator),
        "config": _plain(asdict(config)),
    }


@torch.no_grad()
def _describe(generator: Generator) -> dict[str, Any]:
    images = generator.decode(generator.sample(4))
    return {
        "name": generator.name,
        "latent_dim": generator.latent_dim,
        "image_shape": list(generator.image_shape),
        "fingerprint": float(images.double().square().mean()),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
