"""The folder of a run: who may train in it, what its config.json says, and what of an earlier run goes."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from fastflow.core.errors import InputError
from fastflow.core.files import is_leftover, locked_folder, read_json, write_json
from fastflow.training.checkpoint import latest_checkpoint, remove_leftovers
from fastflow.training.config import CHANGEABLE, FlowSettings
from fastflow.training.config_file import from_dict
from fastflow.training.distributed import Team
from fastflow.training.loop import Task, Trainer
from fastflow.training.metrics_log import check_tensorboard

# Beside config.json, which is replaced, so that the folder never ceases to be a run.
_MADE_BY_RUNS = (
    "metrics.jsonl", "evaluation.json", "report.html", "checkpoints", "traversals", "tensorboard",
    "names.json", "attributes.json",
)  # fmt: skip

Config = TypeVar("Config", bound=FlowSettings)

Record = dict[str, Any]
"""The contents of a run's config.json."""


@dataclass(frozen=True)
class About:
    """What a run is about, beside its settings."""

    kind: str
    """The command that makes such runs: discover, train-vae."""
    facts: Record
    """What config.json says of it."""
    check: Callable[[Record, Path], None]
    """Raise InputError unless a record of this kind, of the run in a folder, is about the same."""


def train_in(
    folder: Path,
    task: Task,
    config: FlowSettings,
    about: About,
    team: Team,
    *,
    resume: bool,
    overwrite: bool,
    progress: bool,
) -> None:
    """Train a task in a folder that becomes its run: new, resumed, or in another's place.

    Raises:
        InputError: the folder holds another run or foreign files, or is in use; it is left as it was.
        TrainingError: training diverged.
        KeyboardInterrupt: stopped by a signal, after writing a checkpoint.
    """
    team.share(config.batch_size)  # an error where it can't be divided, before anything is touched
    with ExitStack() as held:
        if config.tensorboard:
            team.led(check_tensorboard)

        def claim() -> None:
            held.enter_context(locked_folder(folder))
            _check_folder(folder, config, about, resume=resume, overwrite=overwrite)

        team.led(claim)
        trainer = Trainer(task, config, folder, team)
        if resume:
            trainer.restore()  # before anything is written: a damaged checkpoint leaves the folder as it was
        team.led(lambda: _begin_folder(folder, config, about, fresh=not resume))
        trainer.run(progress)


def read_record(folder: Path) -> Record:
    """The contents of a run's config.json.

    Raises:
        InputError: the folder isn't a run.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{str(folder)!r} isn't a run: expected a folder that fastflow discover or train-vae made, with a "
            "config.json"
        )
    record = read_json(folder / "config.json")
    if not (
        isinstance(record, dict) and isinstance(record.get("kind"), str) and isinstance(record.get("config"), dict)
    ):
        raise no_run(folder)
    return record


def recorded_config(record: Record, kind: type[Config], folder: Path) -> Config:
    """The configuration that a run's config.json holds; raise InputError unless it is one of this kind."""
    return from_dict(kind, record["config"], str(folder / "config.json"))


def no_run(folder: Path) -> InputError:
    """The error that a folder's config.json isn't a run's."""
    return InputError(
        f"{str(folder)!r} isn't a run: its config.json isn't one that fastflow discover or train-vae wrote"
    )


def _check_folder(folder: Path, config: FlowSettings, about: About, *, resume: bool, overwrite: bool) -> None:
    """Raise InputError unless `folder` can become this configuration's run; nothing is written."""
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other")
    record = read_record(folder) if (folder / "config.json").exists() else None
    if resume and record is not None:
        _check_resumed(folder, record, config, about)
    elif record is not None and not overwrite:
        raise InputError(f"{str(folder)!r} holds a run already: resume it, overwrite it, or choose another folder")
    elif record is None and folder.exists() and any(not is_leftover(path) for path in folder.iterdir()):
        raise InputError(f"{str(folder)!r} isn't empty and isn't a run: choose a new folder")


def _check_resumed(folder: Path, record: Record, config: FlowSettings, about: About) -> None:
    if record["kind"] != about.kind:
        raise InputError(f"can't resume {str(folder)!r} by {about.kind}: it is a run of {record['kind']}")
    about.check(record, folder)
    before = asdict(recorded_config(record, type(config), folder))
    settings = asdict(config)
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


def _begin_folder(folder: Path, config: FlowSettings, about: About, *, fresh: bool) -> None:
    """Write config.json into a folder that was checked; `fresh` removes what another run made there before."""
    for leftover in filter(is_leftover, folder.iterdir()):
        leftover.unlink()
    remove_leftovers(folder / "checkpoints")
    if fresh:
        for name in _MADE_BY_RUNS:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    versions = {name: version(name) for name in ("fastflow", "torch", "numpy")}
    record = {
        "kind": about.kind,
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        **about.facts,
        "config": asdict(config),
    }
    write_json(folder / "config.json", record)


def as_folder(folder: str | Path) -> Path:
    """The path of a run's folder; raise InputError unless it is one."""
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"a run's folder must be a path, got {folder!r}")
    return Path(folder)
