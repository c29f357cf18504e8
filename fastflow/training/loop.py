"""The training loop of every run: Adam, seeds, progress, metrics, checkpoints, resuming, and several processes."""

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
from fastflow.training.checkpoint import (
    CheckpointContents,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    weights_digest,
)
from fastflow.training.distributed import SINGLE_PROCESS, ProcessGroup
from fastflow.training.metrics_log import MetricsLog
from fastflow.training.progress import Progress, Shown, show
from fastflow.training.schedules import SchedulePoints, factor_at
from fastflow.training.signals import deferred_signals
from fastflow.training.timers import PhaseTimer

LONGEST_SILENCE = 25.0
"""The seconds after which a line of the metrics log is written, however few steps were taken since the last one."""


class Losses(NamedTuple):
    """A step's loss, and the values to log beside it."""

    loss: Tensor
    logged: dict[str, Tensor]
    """Scalars without a graph; the loss's terms come first."""


class Task(Protocol):
    """What the loop trains: a module with everything that is learned, and the loss of one step."""

    @property
    def module(self) -> nn.Module:
        """The module with everything that is learned, and everything else that a checkpoint holds."""
        ...

    @property
    def phases(self) -> PhaseTimer:
        """The timer on which `losses` marks the phases of a step."""
        ...

    @property
    def user_terms(self) -> tuple[str, ...]:
        """The logged terms that a user's function computes. If one of them fails first, the weights may be good."""
        ...

    def draw(self, step: int) -> Any:
        """Draw this process's part of a step's batch. It depends on the seed and the step alone."""
        ...

    def losses(self, batch: Any) -> Losses:
        """The mean loss over a batch's samples. It draws no random numbers and waits for no device."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step, for example to update a moving average."""
        ...


class LoopConfig(Protocol):
    """The part of a configuration that the loop reads."""

    @property
    def steps(self) -> int:
        """Number of training steps."""
        ...

    @property
    def learning_rate(self) -> float:
        """Adam's learning rate."""
        ...

    @property
    def learning_rate_schedule(self) -> SchedulePoints:
        """Factors of the learning rate over the steps."""
        ...

    @property
    def seed(self) -> int:
        """Random seed."""
        ...

    @property
    def max_loss(self) -> float:
        """Largest absolute value of the loss and of logged values; beyond it, training has diverged."""
        ...

    @property
    def restarts(self) -> int:
        """How often diverged training restarts from the last good checkpoint."""
        ...

    @property
    def restart_factor(self) -> float:
        """Factor by which each restart changes the learning rate."""
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
        """Whether the metrics are written for TensorBoard too."""
        ...


class Diverged(Exception):
    """Raised when a value is no longer finite, or is too large.

    Attributes:
        step: the training step. term: the name of the logged value, or None if it is another value.
    """

    def __init__(self, step: int, what: str, term: str | None = None) -> None:
        super().__init__(f"training stopped at step {step}: {what}")
        self.step, self.term = step, term


class Trainer:
    """Trains a task for `config.steps` steps, and writes metrics.jsonl and checkpoints into `folder`.

    The random numbers of a step depend on the seed and the step's number alone. A resumed run therefore computes the
    same bits as an uninterrupted one. If several processes train, only the leader reads and writes the folder.

    Attributes:
        step: the number of steps done. restarts: how often training has diverged and was restarted.
        rate_factor: the factor of the learning rate after these restarts.
        saved_as: in the leader, the digest of the weights' file in the newest checkpoint, once there is one.
    """

    def __init__(self, task: Task, config: LoopConfig, folder: Path, group: ProcessGroup = SINGLE_PROCESS) -> None:
        self.task, self.config, self.folder, self.group = task, config, folder, group
        self.step, self.restarts, self.rate_factor = 0, 0, 1.0
        self.saved_as = ""
        self._parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
        self._optimizer = self._fresh_optimizer()
        self._objective: nn.Module = _Objective(task)
        if group.size > 1:
            # It averages gradients over the processes; static_graph allows parameters that a loss doesn't use.
            self._objective = DistributedDataParallel(self._objective, static_graph=True)
        # For a restart before the first checkpoint.
        self._start = copy.deepcopy(task.module.state_dict()) if config.restarts else None
        self._rows: list[Tensor] = []
        self._earlier = torch.zeros(0, 0, dtype=torch.float64)  # rows of before the checkpoint that was resumed
        self._names: list[str] = []

    def restore(self) -> None:
        """Load the newest checkpoint, if there is one.

        Raises:
            InputError: it is damaged, or belongs to another model; nothing is changed then.
        """
        newest = latest_checkpoint(self.folder / "checkpoints") if self.group.is_leader else None

        def read() -> CheckpointContents | None:
            return None if newest is None else read_checkpoint(newest, self.task.module, self._optimizer)

        saved = self.group.on_leader(read)
        if saved is not None:
            saved.load(self.task.module, self._optimizer)
            self.step, self.saved_as = saved.step, saved.digest
            self.restarts = int(saved.facts.get("restarts", 0))
            self.rate_factor = float(saved.facts.get("rate_factor", 1.0))
            self._earlier = torch.tensor(saved.facts.get("rows", [[]]), dtype=torch.float64)

    def run(self, progress: Progress = True) -> None:
        """Train from the current step to the end.

        SIGINT and SIGTERM stop training after the current step, with a checkpoint of it. If several processes train,
        they stop after the next step that is logged.

        Raises:
            KeyboardInterrupt: such a signal arrived before the last step.
            TrainingError: training diverged, and no restart is left; the message names the step, the term and the last
                good checkpoint.
        """
        with deferred_signals() as received, _deterministic(self.task.module), torch.random.fork_rng(self._devices()):
            while True:
                try:
                    return self._train(received, progress if self.group.is_leader else False)
                except Diverged as reason:
                    if reason.term not in self.task.user_terms:
                        self._drop_checkpoints(reason.step - 1)
                    # If only this process refused its latents, the others wait for it in this step's sums.
                    others_wait = self.group.size > 1 and isinstance(reason.__context__, InputError)
                    if others_wait or self.restarts >= self.config.restarts:
                        raise TrainingError(f"{reason}; {self._advice(reason)}") from reason
                    self._restart(reason)

    def _train(self, received: list[int], progress: Progress) -> None:
        config, phases, group = self.config, self.task.phases, self.group
        log = MetricsLog(self.folder, self.step, config.tensorboard) if group.is_leader else None
        bar = show(progress, config.steps, self.step)
        logged_step, logged_time = self.step, time.perf_counter()
        with _cleared_on_error(bar), nullcontext() if log is None else closing(log):
            for step in range(self.step + 1, config.steps + 1):
                phases.mark("other")
                self._take_step(step)
                phases.mark("other")
                last = step == config.steps
                stop = bool(received)  # read once: a signal that arrives from here on waits for the next step
                # One that steps slowly is heard of all the same; several processes have no clock in common.
                late = group.size == 1 and time.perf_counter() - logged_time > LONGEST_SILENCE
                if step % config.log_every == 0 or last or late:
                    means, stop = self._means(), self._any(stop)
                    bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
                    now = time.perf_counter()
                    means["learning_rate"] = self._rate(step)
                    means["steps_per_second"] = (step - logged_step) / (now - logged_time)
                    means.update({f"share_{phase}": share for phase, share in phases.shares().items()})
                    if log is not None:
                        log.write(step, means)
                    logged_step, logged_time = step, now
                elif group.size > 1:
                    stop = False  # the processes agree on a common last step when they log
                bar.update()
                if stop or last or step % config.checkpoint_every == 0:
                    self._save()
                if stop and not last:
                    raise KeyboardInterrupt(f"stopped after step {step} of {config.steps}; resume to go on from there")

    def _take_step(self, step: int) -> None:
        task, config = self.task, self.config
        batch = task.draw(step)
        # A user's classifier may draw random numbers, for example for dropout. They depend on the step alone too.
        torch.manual_seed(step_seed(config.seed, step, stream=2))
        for parameter_group in self._optimizer.param_groups:
            parameter_group["lr"] = self._rate(step)
        try:
            with profiled("train.losses"):
                losses: Losses = self._objective(batch)
        except InputError as error:  # the engine refuses latents that diverged potentials have moved
            self._check(self._stacked_rows())  # without the other processes, which may have no error
            self._check_weights()
            raise Diverged(step, f"the latents on the paths: {error}") from error
        self._optimizer.zero_grad(set_to_none=True)
        with profiled("train.backward"):
            losses.loss.backward(inputs=self._parameters)  # no gradients of a generator's own parameters
        task.phases.mark("optimizer")
        with profiled("train.optimizer"):
            self._optimizer.step()
            task.after_step(step)
        self._names = [*losses.logged, "loss"]
        self._rows.append(torch.stack([*losses.logged.values(), losses.loss.detach()]))
        self.step = step

    def _devices(self) -> list[torch.device]:
        """The GPU whose random numbers training uses, if there is one."""
        device = self._parameters[0].device
        return [device] if device.type == "cuda" else []

    def _rate(self, step: int) -> float:
        config = self.config
        return config.learning_rate * factor_at(config.learning_rate_schedule, step) * self.rate_factor

    def _stacked_rows(self) -> Tensor:
        """This process's values of each step since the last line of the log, (N, names)."""
        return torch.stack(self._rows) if self._rows else torch.zeros(0, len(self._names))

    def _means(self) -> dict[str, float]:
        """The means of all values since the last line of the log, over steps and processes. A new line begins."""
        rows = self._since_last_line()
        self._rows, self._earlier = [], self._earlier[:0]
        return dict(zip(self._names, rows.mean(0).tolist(), strict=True))

    def _since_last_line(self) -> Tensor:
        """All processes' means of each step since the last line of the log, (N, names) float64; checked."""
        rows = self._check(self.group.mean(self._stacked_rows())).double()
        return torch.cat((self._earlier, rows)) if self._earlier.shape[1] == rows.shape[1] else rows

    def _any(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes."""
        device = self._parameters[0].device
        return flag if self.group.size == 1 else float(self.group.mean(torch.tensor(float(flag), device=device))) > 0

    def _save(self) -> None:
        """Write a checkpoint of this step; raise Diverged if a value or a weight has diverged by then."""
        rows = self._since_last_line()
        self._check_weights()
        if self.group.is_leader:
            facts: dict[str, Any] = {"restarts": self.restarts, "rate_factor": self.rate_factor}
            if len(rows):  # so that the next line has the same means if the training is stopped here
                facts["rows"] = rows.tolist()
            saved = save_checkpoint(self.folder / "checkpoints", self.step, self.task.module, self._optimizer, facts)
            self.saved_as = weights_digest(saved)

    def _check(self, rows: Tensor) -> Tensor:
        """The rows on the CPU; raise Diverged for the first value that isn't finite, or is too large."""
        rows = rows.cpu()
        limit = self.config.max_loss
        bad = ~(rows.abs() <= limit)  # NaN as well
        if bool(bad.any()):
            row = int(bad.any(1).nonzero()[0])
            column = int(bad[row].nonzero()[0])
            value, name = float(rows[row, column]), self._names[column]
            how = f"is {value:.3g}, beyond max_loss {limit:g}" if math.isfinite(value) else "is no longer finite"
            raise Diverged(self.step - len(rows) + 1 + row, f"{name} {how}", name)
        return rows

    def _check_weights(self) -> None:
        """Raise Diverged unless all weights are finite."""
        state = self.task.module.state_dict()
        finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
        name = next((name for name, good in zip(state, finite, strict=True) if not good), None)
        if name is not None:
            raise Diverged(self.step, f"{name} is no longer finite")

    def _advice(self, reason: Diverged) -> str:
        """What the user can do about diverged training."""
        newest = latest_checkpoint(self.folder / "checkpoints") if self.group.is_leader else None
        of_user = reason.term in self.task.user_terms
        mend = f"check the function that computes {reason.term}" if of_user else "try a smaller learning_rate"
        if newest is None:
            return f"there is no checkpoint yet; {mend}"
        if of_user:
            return f"the last good checkpoint is {str(newest.folder)!r}; {mend}, and resume"
        return (
            f"the last good checkpoint is {str(newest.folder)!r}; resume with more restarts to go on from there with a "
            "smaller learning rate, or start again with one"
        )

    def _drop_checkpoints(self, step: int) -> None:
        """Remove the checkpoints of this step and later ones: their weights are those that diverged."""
        checkpoints = self.folder / "checkpoints"
        while self.group.is_leader and (newest := latest_checkpoint(checkpoints)) is not None and newest.step >= step:
            remove_folder(newest.folder)

    def _restart(self, reason: Diverged) -> None:
        """Return to the last good checkpoint, or to the initial weights, with a smaller learning rate."""
        restarts, factor = self.restarts + 1, self.rate_factor * self.config.restart_factor
        self._optimizer, self._rows, self.step = self._fresh_optimizer(), [], 0
        self._earlier = self._earlier[:0]
        assert self._start is not None
        self.task.module.load_state_dict(self._start)
        self.restore()
        self.restarts, self.rate_factor = restarts, factor
        if self.group.is_leader:
            tqdm.write(
                f"fastflow: {reason}; restart {restarts} of {self.config.restarts} from step {self.step} with "
                f"learning rate {self._rate(self.step + 1):.3g}",
                file=sys.stderr,
            )

    def _fresh_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self._parameters, lr=self.config.learning_rate, fused=True)


class _Objective(nn.Module):
    """A task's loss as the forward pass of a module, as DistributedDataParallel needs it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.learned = task.module
        self._losses = task.losses

    def forward(self, batch: Any) -> Losses:
        return self._losses(batch)


@contextmanager
def _deterministic(module: nn.Module) -> Iterator[None]:
    """Make torch's results on the CPU repeatable: by default the order of some sums depends on the threads."""
    if torch.are_deterministic_algorithms_enabled() or next(module.parameters()).device.type != "cpu":
        yield
        return
    options: Any = deterministic
    fill = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # filling takes a tenth of the time and changes no result of ours
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        options.fill_uninitialized_memory = fill


@contextmanager
def _cleared_on_error(bar: Shown) -> Iterator[None]:
    """Clear the progress bar if an error ends the training, so that the error's message stands alone."""
    with closing(bar):
        try:
            yield
        except BaseException:
            bar.leave = False
            raise
