"""What a part of the suite is: cases by number, each of which ends as refused, as right, or as a fault."""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

REFUSED, RIGHT = "refused", "right"


class Fault(Exception):
    """A case that did neither what was asked nor refuse it clearly.

    Args:
        what: what went wrong.
        counts: what came of the case's other things before.
    """

    def __init__(self, what: str, counts: Counter[str] | None = None) -> None:
        super().__init__(what)
        self.counts = Counter() if counts is None else counts


class Part(ABC):
    """Cases of one kind.

    A case depends on the seed and its number alone, as far as the machine's time allows.

    Attributes:
        limit: the seconds that a case may take before it counts as hanging.
        folder: a folder of the part's own.
        case_folder: the folder below it that holds a case's files. They are kept with the fault, if it is one.
    """

    limit = 60.0

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.case_folder = folder / "case"
        self.case_folder.mkdir(parents=True, exist_ok=True)

    def rng(self, number: int) -> random.Random:
        """The random numbers of a case."""
        return random.Random(f"{type(self).__name__} {self.seed} {number}")

    @abstractmethod
    def try_case(self, number: int) -> str | Counter[str]:
        """Try a case; return REFUSED or RIGHT, or how many of each where a case tries several things.

        Raises:
            Fault: something went wrong. Any other exception counts as a fault too.
        """

    def fresh_case_folder(self) -> Path:
        """The case's folder, emptied."""
        shutil.rmtree(self.case_folder, ignore_errors=True)
        self.case_folder.mkdir(parents=True)
        return self.case_folder

    def close(self) -> None:  # noqa: B027
        """End what the part has started, if it has started anything."""


class Entry(NamedTuple):
    """Where a part is found, and its share of the suite's time."""

    place: str
    share: float
    what: str

    def load(self) -> type[Any]:
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


PARTS = {
    "flips": Entry("torture.flips:Flips", 0.30, "bytes flipped in files of runs"),
    "calls": Entry("torture.calls:Calls", 0.26, "calls of the engine, valid and hostile"),
    "kills": Entry("torture.kills:Kills", 0.23, "commands killed"),
    "files": Entry("torture.hostile_files:Files", 0.11, "hostile files"),
    "page": Entry("torture.page:Page", 0.07, "requests of the page, 20 at once"),
    "disk": Entry("torture.disk:Disk", 0.03, "writes that failed"),
}
"""The parts by name. The longest come first, so that two at once end together."""
