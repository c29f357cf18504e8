"""The folder of a run: checking that it can be trained in, its config.json, and the removal of an earlier run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from fastflow.core import trust
from fastflow.core.digests import unsealed
from fastflow.core.errors import InputError
from fastflow.core.files import (
    check_no_links,
    check_place,
    left_by_system,
    locked_folder,
    read_json,
    remove_named,
    write_sealed,
)
from fastflow.core.leftovers import is_leftover, remove_leftovers
from fastflow.training.checkpoint import latest_checkpoint, remove_unfinished
from fastflow.training.config_file import from_dict
from fastflow.training.distributed import ProcessGroup
from fastflow.training.flow_config import CHANGEABLE, FlowConfig
from fastflow.training.loop import Task, Trainer
from fastflow.training.metrics_log import check_tensorboard
from fastflow.training.progress import Progress

MADE_BY_RUNS = (
    "config.json", "metrics.jsonl", "evaluation.json", "report.html", "checkpoints", "traversals", "tensorboard",
    "names.json", "attributes.json",
)  # fmt: skip
"""The names of what commands write into a run's folder. All but config.json, which is replaced, so that the folder is a
run at any time, is removed when a run is overwritten."""

_COMPARED = ("generator", "predictor", "guide", "keep")
"""The entries of config.json that its digest doesn't cover: the generator and the functions in use are compared with
them."""

Config = TypeVar("Config", bound=FlowConfig)

Record = dict[str, Any]
"""The contents of a run's config.json."""


@dataclass(frozen=True)
class RunDescription:
    """What a run's config.json holds beside its configuration."""

    kind: str
    """The command that makes such runs: discover or train-vae."""
    facts: Record
    """Further entries of config.json, such as the generator's or the data set's description."""
    check: Callable[[Record, Path], None]
    """Raises InputError unless a record, of the run in a folder, fits these entries; for resuming a run."""
    programs: tuple[trust.NamedProgram, ...] = ()
    """The user's programs that the training runs, which opening the run may run again."""


def train_in(
    folder: Path,
    task: Task,
    config: FlowConfig,
    description: RunDescription,
    group: ProcessGroup,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress,
) -> str:
    """Train a task in a folder, which becomes a new run, a resumed one, or one that replaces another.

    Returns:
        The digest of the weights' file in the last checkpoint.

    Raises:
        InputError: the folder holds another run or other files, or is in use; it is left as it was.
        TrainingError: training diverged.
        KeyboardInterrupt: a signal stopped the training, after a checkpoint was written.
    """
    group.rows(config.batch_size)  # raises an error if it can't be divided, before anything is touched
    with ExitStack() as held:
        if config.tensorboard:
            group.on_leader(check_tensorboard)

        def claim() -> None:
            held.enter_context(locked_folder(folder))
            _check_folder(folder, config, description, resume=resume, overwrite=overwrite)

        group.on_leader(claim)
        trainer = Trainer(task, config, folder, group)
        if resume:
            trainer.restore()  # before anything is written: a damaged checkpoint leaves the folder as it was
        group.on_leader(lambda: _begin_folder(folder, config, description, fresh=not resume))
        trainer.run(progress)
        return group.on_leader(lambda: trainer.saved_as)


def read_record(folder: Path) -> Record:
    """The contents of a run's config.json.

    Raises:
        InputError: the folder isn't a run, or one of a run's files is a link.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{str(folder)!r} isn't a run: expected a folder that fastflow discover or train-vae made, with a "
            "config.json"
        )
    check_no_links(folder, MADE_BY_RUNS)
    record = read_json(folder / "config.json")
    if not (
        isinstance(record, dict) and isinstance(record.get("kind"), str) and isinstance(record.get("config"), dict)
    ):
        raise no_run(folder)
    return record


def recorded_config(record: Record, kind: type[Config], folder: Path) -> Config:
    """The configuration that a run's config.json holds; raise InputError unless it is one of this kind, unchanged."""
    where = str(folder / "config.json")
    config = from_dict(kind, {**kind.before, **trust.marked(record["config"], where, record)}, where)
    check_unchanged(record, folder)
    return config


def check_unchanged(record: Record, folder: Path) -> None:
    """Raise InputError if a run's config.json has changed since it was written."""
    unsealed(record, folder / "config.json", _COMPARED)


def begin_writing(file: Path) -> None:
    """Before the work of making a file of a run: check that it can be written, and remove what killed commands left.

    Raises:
        InputError: the run's folder is read-only.
    """
    check_place(file)
    remove_leftovers(file.parent)


def no_run(folder: Path) -> InputError:
    """The error for a folder whose config.json isn't that of a run."""
    return InputError(
        f"{str(folder)!r} isn't a run: its config.json isn't one that fastflow discover or train-vae wrote"
    )


def _check_folder(
    folder: Path, config: FlowConfig, description: RunDescription, *, resume: bool, overwrite: bool
) -> None:
    """Raise InputError unless `folder` can become the run of this configuration; nothing is written."""
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other: ask for one of them")
    record = read_record(folder) if (folder / "config.json").exists() else None
    if resume and record is not None:
        _check_resumed(folder, record, config, description)
    elif record is not None and not overwrite:
        raise InputError(f"{str(folder)!r} holds a run already: resume it, overwrite it, or choose another folder")
    elif record is None and folder.exists() and not all(is_leftover(f) or left_by_system(f) for f in folder.iterdir()):
        raise InputError(f"{str(folder)!r} isn't empty and isn't a run: choose a new folder")


def _check_resumed(folder: Path, record: Record, config: FlowConfig, description: RunDescription) -> None:
    """Raise InputError unless the run that a folder holds can be resumed with this configuration."""
    if record["kind"] != description.kind:
        raise InputError(f"can't resume {str(folder)!r} by {description.kind}: it is a run of {record['kind']}")
    description.check(record, folder)
    before, now = asdict(recorded_config(record, type(config), folder)), asdict(config)
    name = next((name for name in now if name not in CHANGEABLE and before[name] != now[name]), None)
    if name is not None:
        raise InputError(
            f"can't resume {str(folder)!r}: {name} was {before[name]!r} and is now {now[name]!r}; resume with "
            "the same configuration, or start again with overwrite"
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


def _begin_folder(folder: Path, config: FlowConfig, description: RunDescription, *, fresh: bool) -> None:
    """Write config.json into a checked folder.

    Args:
        fresh: whether to remove the files of an earlier run.
    """
    if fresh:
        remove_named(folder, [name for name in MADE_BY_RUNS if name != "config.json"])
    remove_leftovers(folder)
    remove_unfinished(folder / "checkpoints")
    versions = {name: version(name) for name in ("fastflow", "torch", "numpy")}
    record = {
        "kind": description.kind,
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        **description.facts,
        "config": asdict(config),
    }
    trust.remember(record, description.programs)
    write_sealed(folder / "config.json", record, _COMPARED)


def as_folder(folder: str | Path) -> Path:
    """The folder as a path; raise InputError if it is neither text nor a path."""
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"a run's folder must be a path, got {folder!r}")
    return Path(folder)
