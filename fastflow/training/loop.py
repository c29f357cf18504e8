"""The training loop that every run shares: Adam, seeds, progress, metrics, checkpoints, resume."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import deterministic
from tqdm import tqdm

from fastflow.errors import InputError, TrainingError
from fastflow.files import naming, replacing
from fastflow.profiling import profiled
from fastflow.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint


class Losses(NamedTuple):
    """A step's loss, and what to log beside it: scalars without a graph."""

    loss: Tensor
    logged: dict[str, Tensor]


class Task(Protocol):
    """What the loop trains: a module holding all that is learned, and the loss of one step."""

    @property
    def module(self) -> nn.Module:
        """All that is learned."""
        ...

    def losses(self, rng: torch.Generator) -> Losses:
        """The loss on one batch, whose randomness comes from `rng` alone."""
        ...


class Schedule(Protocol):
    """The settings that the loop needs of a configuration."""

    @property
    def steps(self) -> int:
        """Training steps."""
        ...

    @property
    def learning_rate(self) -> float:
        """Adam's."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between two lines of metrics.jsonl."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        ...


def fit(task: Task, schedule: Schedule, folder: Path, *, resume: bool = False, progress: bool = True) -> None:
    """Train `task` for `schedule.steps` steps and leave metrics.jsonl and checkpoints in `folder`.

    Each step draws its randomness from the seed and the step's number alone, so a resumed run repeats, to the bit, what
    an uninterrupted one computes. SIGINT and SIGTERM take effect after the current step, which leaves a checkpoint.

    Raises:
        KeyboardInterrupt: after such a signal, unless all steps are done.
        TrainingError: the loss or a weight is no longer finite, or a step's input is refused.
    """
    parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.jsonl"
    checkpoint = latest_checkpoint(checkpoints) if resume else None
    start = 0
    if checkpoint is not None:
        load_checkpoint(checkpoint, task.module, optimizer)
        start = checkpoint.step
    _keep_up_to(metrics, start)

    sums: dict[str, Tensor] = {}
    since, clock = 0, time.perf_counter()
    bar = tqdm(total=schedule.steps, initial=start, disable=not progress, unit="step", dynamic_ncols=True)
    with _cleared_on_error(bar), _deterministic(task.module), _deferred_signals() as received:
        for step in range(start + 1, schedule.steps + 1):
            try:
                with profiled("train.losses"):
                    losses = task.losses(step_rng(schedule.seed, step))
            except InputError as error:  # latents that follow diverged potentials are refused
                _check_weights(step, task.module)
                raise TrainingError(
                    f"training stopped at step {step}: {error}; if it diverged, try a smaller learning_rate"
                ) from error
            optimizer.zero_grad(set_to_none=True)
            with profiled("train.backward"):
                losses.loss.backward(inputs=parameters)  # and not into what a generator's own networks may learn
            with profiled("train.optimizer"):
                optimizer.step()

            for name, value in {"loss": losses.loss.detach(), **losses.logged}.items():
                sums[name] = sums[name] + value if name in sums else value
            since += 1
            if step % schedule.log_every == 0 or step == schedule.steps:
                means = {name: float(value) / since for name, value in sums.items()}
                _check_finite(step, means)
                now = time.perf_counter()
                _append(metrics, {"step": step, **means, "steps_per_second": since / (now - clock)})
                bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
                sums, since, clock = {}, 0, now
            bar.update()
            stop = bool(received)  # read once: a signal that arrives from here on waits for the next step
            if stop or step == schedule.steps or step % schedule.checkpoint_every == 0:
                _check_weights(step, task.module)
                save_checkpoint(checkpoints, step, task.module, optimizer)
            if stop and step < schedule.steps:
                raise KeyboardInterrupt(f"stopped after step {step} of {schedule.steps}; resume to go on from there")


def step_rng(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """The random numbers of one step of one run; streams other than 0 are for what must differ from all training."""
    state = np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@contextmanager
def _deterministic(module: nn.Module) -> Iterator[None]:
    """On the CPU, sums in an order of their own: by default some of torch's depend on which thread comes first."""
    if torch.are_deterministic_algorithms_enabled() or next(module.parameters()).device.type != "cpu":
        yield
        return
    settings: Any = deterministic
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # costs a tenth of the time, and changes no result of ours
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        settings.fill_uninitialized_memory = fill


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a step is never torn apart; a second one acts at once.

    Only the main thread may handle signals: elsewhere they are left as they are.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _cleared_on_error(bar: tqdm) -> Iterator[None]:
    """The progress bar, which leaves the screen to the message if an error ends the training."""
    with bar:
        try:
            yield
        except BaseException:
            bar.leave = False
            raise


def _check_weights(step: int, module: nn.Module) -> None:
    _check_finite(step, {name: float(value.sum()) for name, value in module.state_dict().items()})


def _check_finite(step: int, values: dict[str, float]) -> None:
    name = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if name is not None:
        raise TrainingError(f"training stopped at step {step}: {name} is no longer finite; try a smaller learning_rate")


def _append(file: Path, record: dict[str, float]) -> None:
    size = file.stat().st_size
    try:
        with naming(file), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError:
        os.truncate(file, size)  # a full disk may have taken half a line
        raise


def _keep_up_to(file: Path, step: int) -> None:
    """Drop the metrics of steps that are about to be repeated, and a line that an interrupt cut off."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    with replacing(file) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines if _step(line) <= step), encoding="utf-8")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
