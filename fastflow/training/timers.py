"""Where a training step's time goes: the engine, the generator, the classifier, the optimizer, and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

PHASES: tuple[str, ...] = ("engine", "generator", "classifier", "optimizer", "other")


class Phases:
    """A clock with marks: the time from each mark to the next belongs to the phase that the first one names.

    `clock` tells the seconds on the CPU. On a CUDA device the marks are events in its stream, which no step waits for;
    they can't be captured in a graph: set `enabled` to False around a capture.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.enabled = True
        self._clock = clock
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, phase: str) -> None:
        """From here on, time belongs to `phase`."""
        if not self.enabled:
            return
        if self._cuda:
            stamp = torch.cuda.Event(enable_timing=True)
            stamp.record()
        else:
            stamp = self._clock()
        self._marks.append((phase, stamp))

    def mark_backward(self, x: Tensor, phase: str) -> None:
        """The same in the backward: from where the gradient of x is known, time belongs to `phase`.

        Autograd goes back through what was computed last first, so what made x comes after all that used it.
        """
        if x.requires_grad:
            x.register_hook(lambda _: self.mark(phase))

    def seconds(self) -> dict[str, float]:
        """Each phase's part of the time between the first mark and the last; all marks but that are forgotten."""
        seconds = dict.fromkeys(PHASES, 0.0)
        if self._cuda and self._marks:
            self._marks[-1][1].synchronize()
        for (phase, start), (_, end) in pairwise(self._marks):
            seconds[phase] += start.elapsed_time(end) / 1000 if self._cuda else end - start
        self._marks = self._marks[-1:]
        return seconds

    def shares(self) -> dict[str, float]:
        """The same as shares of 1; nothing where no time has passed."""
        seconds = self.seconds()
        total = sum(seconds.values())
        return {phase: value / total for phase, value in seconds.items()} if total > 0 else {}
