"""What the commands that study a question take and do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from fastflow.commands import watched
from fastflow.errors import InputError
from fastflow.studies.likelihood import study_likelihood


@dataclass(frozen=True)
class Study:
    """Answer a question by many trainings, over seeds, with a table that says how sure the answer is."""

    question: tyro.conf.Positional[Literal["likelihood"]]
    """likelihood: whether flows raise the likelihood of a VAE's held-out images."""
    out: str
    """The study's folder; the answer is OUT/table.md."""
    data: tuple[str, ...] = ("mnist=data/mnist", "mnist-few=data/mnist", "dsprites")
    """Data sets: mnist, mnist-few (300 images to train on), dsprites; NAME, or NAME=FOLDER of its files."""
    size: Literal["small", "paper"] = "small"
    """small: about an hour of two cores; paper: as long as the paper trained."""
    seeds: int = 5
    """How many seeds, from 0."""
    variants: tuple[str, ...] = ()
    """Which variants; all if left out."""
    workers: int = 1
    """Processes that train at once."""
    resume: bool = False
    """Go on with the study in OUT."""

    def run(self) -> None:
        """Do it and say where the table is."""
        named = [spec.partition("=") for spec in self.data]
        data = {name: root or None for name, _, root in named}
        if len(data) < len(named):
            raise InputError(f"--data names a data set twice: {' '.join(self.data)}")
        file = study_likelihood(
            self.out,
            data,
            seeds=self.seeds,
            size=self.size,
            variants=self.variants,
            workers=self.workers,
            resume=self.resume,
            progress=watched(),
        )
        print(f"look at {file}")
