"""The trainings that make runs: a discovery on a pretrained generator, and a VAE from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fastflow import datasets
from fastflow.core.devices import find_device, torch_as_usual
from fastflow.core.errors import InputError
from fastflow.core.files import write_json
from fastflow.core.plugins import import_function, name_of, names_function
from fastflow.core.trust import NamedProgram
from fastflow.datasets import Sequences
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.generators.identity import describe, is_description
from fastflow.latents.attributes.known import FEATURES
from fastflow.latents.classifiers import classifier_program
from fastflow.latents.guidance import guide_by, is_ours, keep_by, usual_guide, usually_kept
from fastflow.latents.predictors import Predictor
from fastflow.latents.spaces import Features
from fastflow.runs.loading import check_generator
from fastflow.runs.run import Run, VAERun
from fastflow.saved.names import names_in
from fastflow.training.discover import Discovery, check_task
from fastflow.training.distributed import process_group
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.progress import Progress
from fastflow.training.run_folder import Config, Record, RunDescription, as_folder, no_run, read_record, train_in
from fastflow.training.sequence import task_kind
from fastflow.training.vae import resolved, some_images
from fastflow.training.vae_config import CHANGED_DEFAULTS, VAEConfig
from fastflow.training.vae_data import describe_data, is_data_description, same_data


@torch_as_usual()
def discover(
    generator: Generator,
    config: DiscoverConfig | None = None,
    out: str | Path = "runs/discover",
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = True,
    classifier: nn.Module | None = None,
    guide: Sequence[str | Predictor] | None = None,
    keep: Sequence[str | Features] | None = None,
    predictor: Predictor | str | None = None,
    trust: bool = False,
) -> Run:
    """Train potentials on a pretrained generator (Song et al., ICML 2023) and return the run.

    Args:
        generator: the frozen generator; see `fastflow.generators`.
        config: the configuration; the default suits small image generators.
        out: the run's folder, which will hold config.json, metrics.jsonl and checkpoints/.
        resume: whether to continue from the newest checkpoint in `out`, if there is one.
        overwrite: whether to replace a run in `out`.
        progress: whether to show a progress bar; "lines" writes a line to stderr now and then, for a log.
        classifier: a module of your own that replaces the configuration's classifier: from two batches of images
            (B, C, H, W) in [0, 1] to logits (B, K). It is trained too, and resume restores its weights.
        guide: attributes that the first potentials learn to change, one each, while the others stay as they are: sets
            of ours, "strokes" or "appearance"; members of them, such as "thickness"; or differentiable functions from
            images (B, C, H, W) in [0, 1] to values (B,) or (B, P), or their FILE.py:FUNCTION. Potentials are named
            after them. See `guidance` and `guide_rate` in the configuration. If None, the members of "strokes" where
            the generator's images look like bright strokes on black, as many as there are potentials, unless a
            classifier is given; otherwise nothing, as with [], so that all potentials are free.
        keep: features that guided paths should leave as they are: "shape", that of strokes wherever they lie and
            however large and slanted they are; or differentiable functions from images to features (B, ...), such as an
            embedding of identity, or their FILE.py:FUNCTION. "shape" if None and strokes guide, otherwise nothing.
        predictor: one function, as in `guide`, of whose values only the first ones guide potentials if there are more
            of them. A resumed run must have the same predictor, guide and keep, as far as names show.
        trust: whether to run the classifier's FILE.py:FUNCTION if the configuration was read from a file, such as a run
            of somebody else's. A classifier that you name yourself needs no trust, nor does that of your own run.

    Processes that torchrun started train together: each takes its part of every batch, and the first one writes.

    Raises:
        InputError: `out` holds another run or other files or is in use, the configuration doesn't fit, or no gradient
            passes through the generator.
        TrainingError: training diverged; the message names the step, the term and the last good checkpoint.
        KeyboardInterrupt: a signal stopped the training, after a checkpoint was written.
    """
    generator = as_generator(generator)
    config = DiscoverConfig() if config is None else config
    if not isinstance(config, DiscoverConfig):
        raise InputError(f"config must be a DiscoverConfig, got {type(config).__name__}: use DiscoverConfig(**options)")
    if trust:
        config = replace(config, classifier=str(config.classifier))
    folder = as_folder(out)
    if resume:
        config = _as_recorded(config, folder)
    if guide and predictor is not None:
        raise InputError("guide and predictor were both given: name the predictor in guide")
    if guide is None and predictor is None and classifier is None:
        guide = _usual_guide(generator, config, folder if resume else None)
    guide = None if isinstance(guide, Sequence) and not guide else guide
    if keep is None:
        keep = _usually_kept(guide, config, folder if resume else None)
    if keep and guide is None and predictor is None:
        raise InputError("keep has no effect without guide: name what potentials should change")
    if keep and config.guidance_loss == "cosine":
        raise InputError("keep has no effect with guidance_loss cosine, which holds nothing still: choose path")
    functions: dict[str, str | bool | list[str | bool]] = {"predictor": _name(predictor)}
    if guide is not None or keep:  # runs without them are described as before they came
        functions |= {"guide": [*map(_name, guide or ())], "keep": [*map(_name, keep)]}
    if isinstance(predictor, str):
        predictor = import_function(predictor, "predictor")
    found = None if guide is None else guide_by(guide, generator)
    if predictor is not None:
        found = guide_by([predictor], generator).first(config.num_potentials)
    with process_group(generator.like.device) as group:
        task = Discovery(config, generator, classifier=classifier, guide=found, keep=keep_by(keep), group=group)
        check_task(task)
        programs = _programs(generator, config.classifier if classifier is None else "")
        description = _describe_discovery(generator, functions, programs, () if found is None else found.names)
        digest = train_in(
            folder, task, config, description, group, resume=resume, overwrite=overwrite, progress=progress
        )  # fmt: skip
        if found is not None:
            group.on_leader(lambda: _name_potentials(folder, found.names))
    task.module.requires_grad_(False)
    return Run(folder, task.average or task.potentials, generator, config, config.steps, saved_as=digest)


@torch_as_usual()
def train_vae(
    config: VAEConfig | None = None,
    data_root: str | Path | None = None,
    out: str | Path = "runs/vae",
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = True,
    device: str | torch.device = "cpu",
    data: Sequences | None = None,
    held_out: Sequences | None = None,
) -> VAERun:
    """Train a VAE on moving images, with potential flows as an inductive bias or without them, and return the run.

    Args:
        config: the configuration; with `flow_weight` 0, or transition "independent", a plain VAE is trained.
        data_root: the folder of the data set's files, if it has any.
        out, resume, overwrite, progress: as for `discover`.
        device: the device to train on.
        data: a data set of your own that replaces the one named by the configuration.
        held_out: with `data`, the data set to start traversals from; `data` itself if None.

    Processes that torchrun started train together: each takes its part of every batch, and the first one writes.

    Raises:
        InputError: `out` holds another run or other files or is in use, or the data can't be read or don't fit.
        BackendError: there is no such device here.
        TrainingError: training diverged; the message names the step, the term and the last good checkpoint.
        KeyboardInterrupt: a signal stopped the training, after a checkpoint was written.
    """
    config = VAEConfig() if config is None else config
    if not isinstance(config, VAEConfig):
        raise InputError(f"config must be a VAEConfig, got {type(config).__name__}: use VAEConfig(**options)")
    folder, where = as_folder(out), find_device(device)
    if resume:
        config = _as_recorded(config, folder)
    if data is None:
        names = config.transformations or None
        data = datasets.load(config.data, data_root, "train", names)
        held_out = datasets.load(config.data, data_root, "test", names)
    data_description = describe_data(data)
    config = resolved(config, data)
    images = some_images(data if held_out is None else held_out)
    description = _describe_vae({**data_description, "root": _absolute(data_root), "kept": len(images)})
    with process_group(where) as group:
        task = task_kind(config)(config, data, images, where, group)
        digest = train_in(
            folder, task, config, description, group, resume=resume, overwrite=overwrite, progress=progress
        )  # fmt: skip
        if config.flows and config.supervision == "full":
            group.on_leader(lambda: _name_potentials(folder, config.transformations))
    return VAERun(folder, task.average or task.learned, task.held_out, config, config.steps, saved_as=digest)


def _programs(generator: Generator, classifier: str) -> tuple[NamedProgram, ...]:
    """The programs that a generator and a classifier of this name are from."""
    found: list[NamedProgram] = []
    spec = generator.spec  # nothing that has only the name of a file was loaded from it
    if spec is not None and spec.name == generator.name and spec.program is not None:
        found.append(spec.program)
    if names_function(classifier):
        found.append(classifier_program(classifier))
    return tuple(found)


def _name(function: object) -> str | bool:
    """The name by which a run's record knows a user's function: True if it has none, False if there is no function."""
    if function is None or isinstance(function, str):
        return function or False
    return (name_of(function) if callable(function) else None) or True


def _describe_discovery(
    generator: Generator,
    functions: dict[str, str | bool | list[str | bool]],
    programs: tuple[NamedProgram, ...],
    guided: tuple[str, ...],
) -> RunDescription:
    """The description of a discovery.

    Args:
        generator: the generator.
        functions: the names, as `_name` gives them, of what is in `discover`'s arguments.
        programs: the user's programs that are run.
        guided: the names of the attributes that guide potentials.
    """

    def check(record: Record, folder: Path) -> None:
        if not is_description(record.get("generator")):
            raise no_run(folder)
        check_generator(record, generator, folder)
        for argument in ("predictor", "guide", "keep"):
            before, now = record.get(argument, False), functions.get(argument, False)
            if not _may_be_same(before, now):
                raise InputError(
                    f"can't resume {str(folder)!r}: {argument} was {_in_words(before)} and is now {_in_words(now)}; "
                    "resume with the same one, or start again with overwrite"
                )

    facts: Record = {"generator": describe(generator), **functions, **({"guided": list(guided)} if guided else {})}
    return RunDescription("discover", facts, check, programs)


def _may_be_same(before: object, now: object) -> bool:
    """Whether functions may be the same as far as their names show: those without a name may be any."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_may_be_same, before, now))
    if isinstance(before, str) and isinstance(now, str):
        return before == now
    return bool(before) == bool(now)


def _in_words(function: object) -> str:
    if isinstance(function, list) and function:
        return ", ".join(map(_in_words, function))
    return repr(function) if isinstance(function, str) else "one without a name" if function else "none"


def _describe_vae(data: Record) -> RunDescription:
    """The description of a VAE's training on the data of this description."""

    def check(record: Record, folder: Path) -> None:
        if not is_data_description(record.get("data")):
            raise no_run(folder)
        if not same_data(record["data"], data):
            raise InputError(
                f"run {str(folder)!r} was trained on other data than {data['name']}: resume with the data that it was "
                "trained on"
            )

    return RunDescription("train-vae", {"data": data}, check)


def _as_recorded(config: Config, folder: Path) -> Config:
    """The configuration with which a run goes on; one that is older than some settings keeps what it was trained by."""
    if not (folder / "config.json").exists():
        return config
    recorded, usual = read_record(folder)["config"], type(config)()
    absent = {name: value for name, value in config.before.items() if name not in recorded}
    changed = CHANGED_DEFAULTS if "objective" in absent else ()
    unnamed = [name for name in changed if getattr(config, name) == getattr(usual, name) and name in recorded]
    return replace(config, **absent, **{name: recorded[name] for name in unnamed})


def _usual_guide(generator: Generator, config: DiscoverConfig, resumed: Path | None) -> Sequence[str | Predictor]:
    """The attributes that guide a discovery if nothing is said: those that guided its run in a folder."""
    if resumed is not None and (resumed / "config.json").exists():
        recorded = read_record(resumed).get("guide")
        return [item for item in recorded if is_ours(item)] if isinstance(recorded, list) else ()
    return usual_guide(generator, config.num_potentials) if config.guidance_loss == "path" else ()


def _usually_kept(
    guide: Sequence[str | Predictor] | None, config: DiscoverConfig, resumed: Path | None
) -> tuple[str, ...]:
    """The names of the features that a discovery keeps if nothing is said: those that its run in a folder had."""
    if resumed is not None and (resumed / "config.json").exists():
        recorded = read_record(resumed).get("keep")
        return tuple(name for name in recorded if name in FEATURES) if isinstance(recorded, list) else ()
    return usually_kept(guide) if guide and config.guidance_loss == "path" else ()


def _absolute(root: str | Path | None) -> str | None:
    return None if root is None else str(Path(root).resolve())


def _name_potentials(folder: Path, learned: tuple[str, ...]) -> None:
    """Name the potentials after what they learned, unless they have names."""
    if not (folder / "names.json").exists():
        names = {str(k): name for k, name in enumerate(learned)}
        with suppress(InputError):  # names that aren't ours may break the rules of potentials' names
            names_in(names, "names.json")
            write_json(folder / "names.json", names)
