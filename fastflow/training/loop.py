"""The training loop that every run shares: Adam, seeds, progress, metrics, checkpoints, resume, many processes."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import deterministic
from tqdm import tqdm

from fastflow.core.errors import InputError, TrainingError
from fastflow.core.files import remove_folder
from fastflow.core.nvtx import profiled
from fastflow.core.rng import step_seed
from fastflow.training.checkpoint import Saved, latest_checkpoint, read_checkpoint, save_checkpoint
from fastflow.training.distributed import ALONE, Team
from fastflow.training.metrics_log import Journal
from fastflow.training.schedules import Knots, factor_at
from fastflow.training.signals import deferred_signals
from fastflow.training.timers import Phases


class Losses(NamedTuple):
    """A step's loss, and what to log beside it: scalars without a graph, the loss's terms first."""

    loss: Tensor
    logged: dict[str, Tensor]


class Task(Protocol):
    """What the loop trains: a module holding all that is learned, and the loss of one step."""

    @property
    def module(self) -> nn.Module:
        """All that is learned, and what is saved with it."""
        ...

    @property
    def phases(self) -> Phases:
        """The clock that the loss marks its phases on."""
        ...

    @property
    def foreign(self) -> tuple[str, ...]:
        """Logged terms that a function of the user's own makes: where one fails first, the weights aren't to blame."""
        ...

    def draw(self, step: int) -> Any:
        """This process's part of a step's batch: tensors that depend on the seed and the step alone."""
        ...

    def losses(self, batch: Any) -> Losses:
        """The loss on a batch, a mean over its samples; it draws nothing and waits for no device."""
        ...

    def stepped(self, step: int) -> None:
        """What follows a step of the optimizer, for example a moving average."""
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
    def learning_rate_schedule(self) -> Knots:
        """Factors of it."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...

    @property
    def max_loss(self) -> float:
        """Training has diverged where the loss or a logged value exceeds this."""
        ...

    @property
    def restarts(self) -> int:
        """How often to go on by itself from the last good checkpoint."""
        ...

    @property
    def restart_factor(self) -> float:
        """Factor of the learning rate at each restart."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between two lines of metrics.jsonl."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        ...

    @property
    def tensorboard(self) -> bool:
        """Whether to write the metrics for TensorBoard too."""
        ...


class Diverged(Exception):
    """A value that is no longer finite, or too large: the step, what it is, and the logged term that it is, if any."""

    def __init__(self, step: int, what: str, term: str | None = None) -> None:
        super().__init__(f"training stopped at step {step}: {what}")
        self.step, self.term = step, term


class Trainer:
    """Trains a task for `schedule.steps` steps and leaves metrics.jsonl and checkpoints in `folder`.

    Each step draws its randomness from the seed and the step's number alone, so a resumed run repeats, to the bit, what
    an uninterrupted one computes. Of several processes the leader alone reads and writes the folder.

    Attributes:
        step: the steps done. restarts: how often training diverged on the way here and went on with a smaller rate.
    """

    def __init__(self, task: Task, schedule: Schedule, folder: Path, team: Team = ALONE) -> None:
        self.task, self.schedule, self.folder, self.team = task, schedule, folder, team
        self.step, self.restarts, self.rate_factor = 0, 0, 1.0
        self._parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
        self._optimizer = self._fresh_optimizer()
        self._objective: nn.Module = _Objective(task)
        if team.size > 1:
            # Gradients are averaged over the processes; static_graph allows for parameters that a loss doesn't use.
            self._objective = DistributedDataParallel(self._objective, static_graph=True)
        # To restart from, should training diverge before its first checkpoint.
        self._start = copy.deepcopy(task.module.state_dict()) if schedule.restarts else None
        self._rows: list[Tensor] = []
        self._names: list[str] = []

    def restore(self) -> None:
        """Go back to the newest checkpoint, if there is one.

        Raises:
            InputError: it is damaged, or of another model; nothing is changed then.
        """
        newest = latest_checkpoint(self.folder / "checkpoints") if self.team.leads else None

        def read() -> Saved | None:
            return None if newest is None else read_checkpoint(newest, self.task.module, self._optimizer)

        saved = self.team.led(read)
        if saved is not None:
            saved.load(self.task.module, self._optimizer)
            self.step = saved.step
            self.restarts = int(saved.facts.get("restarts", 0))
            self.rate_factor = float(saved.facts.get("rate_factor", 1.0))

    def run(self, progress: bool = True) -> None:
        """Train from `step` on to the end.

        SIGINT and SIGTERM take effect after the current step, which leaves a checkpoint; where several processes train,
        after the next step that is logged.

        Raises:
            KeyboardInterrupt: after such a signal, unless all steps are done.
            TrainingError: training diverged, and no restart is left; the message names the step, the term and the last
                good checkpoint.
        """
        with deferred_signals() as received, _deterministic(self.task.module), torch.random.fork_rng(self._devices()):
            while True:
                try:
                    return self._train(received, progress and self.team.leads)
                except Diverged as reason:
                    if reason.term not in self.task.foreign:
                        self._drop_checkpoints(reason.step - 1)
                    # Where one process alone refused its latents, the others wait for it in this step's sums.
                    alone = self.team.size > 1 and isinstance(reason.__context__, InputError)
                    if alone or self.restarts >= self.schedule.restarts:
                        raise TrainingError(f"{reason}; {self._advice(reason)}") from reason
                    self._restart(reason)

    def _train(self, received: list[int], progress: bool) -> None:
        schedule, phases, team = self.schedule, self.task.phases, self.team
        journal = Journal(self.folder, self.step, schedule.tensorboard) if team.leads else None
        bar = tqdm(total=schedule.steps, initial=self.step, disable=not progress, unit="step", dynamic_ncols=True)
        since, clock = self.step, time.perf_counter()
        with _cleared_on_error(bar), nullcontext() if journal is None else closing(journal):
            for step in range(self.step + 1, schedule.steps + 1):
                phases.mark("other")
                self._take_step(step)
                phases.mark("other")
                last = step == schedule.steps
                stop = bool(received)  # read once: a signal that arrives from here on waits for the next step
                if step % schedule.log_every == 0 or last:
                    means, stop = self._means(), self._any(stop)
                    bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
                    now = time.perf_counter()
                    means["learning_rate"] = self._rate(step)
                    means["steps_per_second"] = (step - since) / (now - clock)
                    means.update({f"share_{phase}": share for phase, share in phases.shares().items()})
                    if journal is not None:
                        journal.write(step, means)
                    since, clock = step, now
                elif team.size > 1:
                    stop = False  # the processes agree on where to stop when they log
                bar.update()
                if stop or last or step % schedule.checkpoint_every == 0:
                    self._save()
                if stop and not last:
                    raise KeyboardInterrupt(
                        f"stopped after step {step} of {schedule.steps}; resume to go on from there"
                    )

    def _take_step(self, step: int) -> None:
        task, schedule = self.task, self.schedule
        batch = task.draw(step)
        # What a classifier of the user's own draws, for example for dropout, depends on the step alone too.
        torch.manual_seed(step_seed(schedule.seed, step, stream=2))
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        try:
            with profiled("train.losses"):
                losses: Losses = self._objective(batch)
        except InputError as error:  # latents that follow diverged potentials are refused
            self._check(self._stacked_rows())  # of this process: the others may not have come here
            self._check_weights()
            raise Diverged(step, f"the latents on the paths: {error}") from error
        self._optimizer.zero_grad(set_to_none=True)
        with profiled("train.backward"):
            losses.loss.backward(inputs=self._parameters)  # and not into what a generator's own networks may learn
        task.phases.mark("optimizer")
        with profiled("train.optimizer"):
            self._optimizer.step()
            task.stepped(step)
        self._names = [*losses.logged, "loss"]
        self._rows.append(torch.stack([*losses.logged.values(), losses.loss.detach()]))
        self.step = step

    def _devices(self) -> list[torch.device]:
        """The GPU whose random numbers training draws, if it is on one."""
        device = self._parameters[0].device
        return [device] if device.type == "cuda" else []

    def _rate(self, step: int) -> float:
        schedule = self.schedule
        return schedule.learning_rate * factor_at(schedule.learning_rate_schedule, step) * self.rate_factor

    def _stacked_rows(self) -> Tensor:
        """What was logged at each step since the last line, (N, names); several processes have one each."""
        return torch.stack(self._rows) if self._rows else torch.zeros(0, len(self._names))

    def _means(self) -> dict[str, float]:
        """The means of what was logged since the last line, over the steps and all processes; a new line begins."""
        rows = self._check(self.team.mean(self._stacked_rows()))
        self._rows = []
        return dict(zip(self._names, rows.double().mean(0).tolist(), strict=True))

    def _any(self, flag: bool) -> bool:
        """Whether the flag is up in any of the processes."""
        device = self._parameters[0].device
        return flag if self.team.size == 1 else float(self.team.mean(torch.tensor(float(flag), device=device))) > 0

    def _save(self) -> None:
        """Leave a checkpoint of this step, unless anything up to here is wrong with it."""
        self._check(self.team.mean(self._stacked_rows()))
        self._check_weights()
        if self.team.leads:
            facts = {"restarts": self.restarts, "rate_factor": self.rate_factor}
            save_checkpoint(self.folder / "checkpoints", self.step, self.task.module, self._optimizer, facts)

    def _check(self, rows: Tensor) -> Tensor:
        """The rows on the host; raise Diverged for the first of them with a value that isn't finite or too large."""
        rows = rows.cpu()
        limit = self.schedule.max_loss
        bad = ~(rows.abs() <= limit)  # NaN as well
        if bool(bad.any()):
            row = int(bad.any(1).nonzero()[0])
            column = int(bad[row].nonzero()[0])
            value, name = float(rows[row, column]), self._names[column]
            how = f"is {value:.3g}, beyond max_loss {limit:g}" if math.isfinite(value) else "is no longer finite"
            raise Diverged(self.step - len(rows) + 1 + row, f"{name} {how}", name)
        return rows

    def _check_weights(self) -> None:
        state = self.task.module.state_dict()
        finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
        name = next((name for name, good in zip(state, finite, strict=True) if not good), None)
        if name is not None:
            raise Diverged(self.step, f"{name} is no longer finite")

    def _advice(self, reason: Diverged) -> str:
        newest = latest_checkpoint(self.folder / "checkpoints") if self.team.leads else None
        foreign = reason.term in self.task.foreign
        if newest is None:
            return f"there is no checkpoint yet; {'see what computes it' if foreign else 'try a smaller learning_rate'}"
        if foreign:
            return f"the last good checkpoint is {str(newest.folder)!r}; see what computes it, and resume"
        return (
            f"the last good checkpoint is {str(newest.folder)!r}; resume with more restarts to go on from there with a "
            "smaller learning rate, or start again with one"
        )

    def _drop_checkpoints(self, step: int) -> None:
        """Remove checkpoints of this step or later: the next step's loss is a function of their weights."""
        checkpoints = self.folder / "checkpoints"
        while self.team.leads and (newest := latest_checkpoint(checkpoints)) is not None and newest.step >= step:
            remove_folder(newest.folder)

    def _restart(self, reason: Diverged) -> None:
        """Go back to the last good checkpoint, or to the start, with a smaller learning rate."""
        restarts, factor = self.restarts + 1, self.rate_factor * self.schedule.restart_factor
        self._optimizer, self._rows, self.step = self._fresh_optimizer(), [], 0
        assert self._start is not None
        self.task.module.load_state_dict(self._start)
        self.restore()
        self.restarts, self.rate_factor = restarts, factor
        if self.team.leads:
            tqdm.write(
                f"fastflow: {reason}; restart {restarts} of {self.schedule.restarts} from step {self.step} with "
                f"learning rate {self._rate(self.step + 1):.3g}",
                file=sys.stderr,
            )

    def _fresh_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self._parameters, lr=self.schedule.learning_rate, fused=True)


class _Objective(nn.Module):
    """A task's loss as a module's forward: what DistributedDataParallel takes."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.learned = task.module
        self._losses = task.losses

    def forward(self, batch: Any) -> Losses:
        return self._losses(batch)


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
def _cleared_on_error(bar: tqdm) -> Iterator[None]:
    """The progress bar, which leaves the screen to the message if an error ends the training."""
    with bar:
        try:
            yield
        except BaseException:
            bar.leave = False
            raise
