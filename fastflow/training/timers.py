"""The timer of a training step's phases: the engine, the generator, the classifier, the optimizer, and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

PHASES: tuple[str, ...] = ("engine", "generator", "classifier", "optimizer", "other")


class PhaseTimer:
    """A timer with marks: each mark begins the phase that it names, which lasts until the next mark.

    Times are read from `clock` on the CPU, in seconds. On a CUDA device the marks are events in its stream, and no step
    waits for them. A CUDA graph can't capture them: set `enabled` to False around a capture.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.enabled = True
        self._clock = clock
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, phase: str) -> None:
        """Begin a phase."""
        if not self.enabled:
            return
        if self._cuda:
            stamp = torch.cuda.Event(enable_timing=True)
            stamp.record()
        else:
            stamp = self._clock()
        self._marks.append((phase, stamp))

    def mark_backward(self, x: Tensor, phase: str) -> None:
        """Begin a phase in the backward pass, as soon as the gradient of x is known.

        Autograd runs in reverse order: what computed x comes after all that used x.
        """
        if x.requires_grad:
            x.register_hook(lambda _: self.mark(phase))

    def seconds(self) -> dict[str, float]:
        """The seconds of each phase between the first mark and the last. All marks but the last are forgotten."""
        seconds = dict.fromkeys(PHASES, 0.0)
        if self._cuda and self._marks:
            self._marks[-1][1].synchronize()
        for (phase, start), (_, end) in pairwise(self._marks):
            seconds[phase] += start.elapsed_time(end) / 1000 if self._cuda else end - start
        self._marks = self._marks[-1:]
        return seconds

    def shares(self) -> dict[str, float]:
        """Each phase's share of the time, as `seconds` measures it; empty if no time has passed."""
        seconds = self.seconds()
        total = sum(seconds.values())
        return {phase: value / total for phase, value in seconds.items()} if total > 0 else {}
