"""What a training shows while it goes on: a bar in a terminal, or a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from tqdm import tqdm

Progress = bool | Literal["lines"]
"""Whether to show a bar; or "lines", a line on stderr after ten seconds and then every half minute, for logs."""

FIRST, INTERVAL = 10.0, 30.0
"""The seconds from the beginning to the first line, and from each line to the next one."""


class Shown(Protocol):
    """A view of how far a training is."""

    leave: bool
    """Whether it stays in sight after its end."""

    def update(self) -> Any:
        """Count a step."""
        ...

    def set_postfix(self, ordered_dict: Mapping[str, str], refresh: bool) -> Any:
        """Show these values, by their names, from now on."""
        ...

    def close(self) -> Any:
        """End the view."""
        ...


def show(progress: Progress, total: int, done: int) -> Shown:
    """The view of a training of `total` steps, `done` of which were done before."""
    if progress == "lines":
        return _Lines(total, done)
    return tqdm(total=total, initial=done, disable=not progress, unit="step", dynamic_ncols=True)


class _Lines:
    """Lines in a log."""

    leave = True

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done, self._first = total, done, done
        self._begun = time.monotonic()
        self._next = self._begun + FIRST
        self._loss = ""

    def set_postfix(self, ordered_dict: Mapping[str, str], refresh: bool) -> None:
        self._loss = f", loss {ordered_dict['loss']}" if "loss" in ordered_dict else ""

    def update(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now < self._next or self._done == self._total:
            return
        self._next = now + INTERVAL
        each = (now - self._begun) / (self._done - self._first)
        left = span(each * (self._total - self._done))
        speed = f"{1 / each:.3g} steps a second" if each < 1 else f"{each:.3g} seconds a step"
        line = f"step {self._done} of {self._total}, {speed}, {left} left{self._loss}"
        print(f"fastflow: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: every line is printed by now."""


def span(seconds: float) -> str:
    """A length of time in words, such as "about 3 min"."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
