"""A run: the results of a training, loaded from its folder, and what can be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastflow.core.devices import torch_as_usual
from fastflow.core.errors import InputError
from fastflow.core.files import read_json, read_sealed
from fastflow.core.plugins import name_of
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, looks_drawn, stroke_attributes
from fastflow.latents.predictors import Predictor
from fastflow.metrics.attributes import AttributeCorrelation, correlate
from fastflow.metrics.evaluation import evaluate
from fastflow.report import write_report, write_traversals
from fastflow.saved.edits import Along, Edit, make_edit
from fastflow.saved.names import read_names
from fastflow.saved.run import SavedRun, SavedVAE
from fastflow.training.run_folder import begin_writing

_STROKES_BEFORE = "fastflow.metrics.strokes:stroke_attributes"
"""What older records call `stroke_attributes`."""


class Run(SavedRun):
    """A saved run with edits, measures and a report.

    Attributes:
        folder: the run's folder. step: the training steps done when its weights were saved.
        bank, pde, companion: the potentials, their equation, and the divergence-free velocity that is added to their
            gradients if the configuration asked for one; together `potentials`.
        step_length: the length in latent space of the steps that `traverse` takes, or None for the flow's own speed;
            initially the configuration's.
    """

    def edit(self, along: Along, steps: float, t0: float = 0.0, name: str = "") -> Edit:
        """A change of latents along potentials, which can be extended, saved, and applied to any latents.

        Args:
            along: a potential by number or name, or a weight for each of several, to move along all of them at once.
            steps: the number of the run's steps. A fraction makes the last step shorter, and a negative number undoes
                as many steps.
            t0: the time at which these steps begin when they go forward.
            name: the edit's name.
        """
        return make_edit(self, along, steps, t0, name)

    @torch_as_usual()
    def evaluate(self, samples: int = 4096, seed: int = 1, progress: bool = True) -> dict[str, Any]:
        """Measure strength, distinctness and physics, write evaluation.json and return its contents.

        See `fastflow.metrics.evaluation.evaluate`.
        """
        return evaluate(self, samples, seed, progress)

    @torch_as_usual()
    def ranking(self, samples: int = 4096, progress: bool = True) -> list[tuple[int, float]]:
        """The potentials with their scores in [0, 1], most distinct, smooth and strong ones first.

        See `fastflow.metrics.ranking.score`. The run is evaluated on `samples` latents first, if it wasn't yet.
        """
        evaluation = self._current("evaluation.json") or self.evaluate(samples, progress=progress)
        try:
            ranking = evaluation["ranking"]
            return [(k, ranking["scores"][k]) for k in ranking["order"]]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{str(self.folder / 'evaluation.json')!r} holds no ranking: evaluate the run again"
            ) from error

    @torch_as_usual()
    def correlate(
        self,
        predictor: Predictor,
        attributes: Sequence[str] | None = None,
        samples: int = 64,
        seed: int = 1,
    ) -> AttributeCorrelation:
        """Correlate each potential's paths with any predictor of attributes and write attributes.json.

        See `fastflow.metrics.attributes.attribute_correlation`.
        """
        return correlate(self, predictor, attributes, samples, seed)

    @torch_as_usual()
    def report(self, samples: int = 4096, progress: bool = True) -> Path:
        """Write report.html, one page of pictures, numbers and curves, and return its path.

        The run is evaluated on `samples` latents and its traversals are drawn first, unless both were done with its
        present weights. If the images look like drawn strokes, and the paths weren't correlated with attributes yet,
        the strokes are measured, so that the page can suggest names.
        """
        begin_writing(self.folder / "report.html")
        read_names(self.folder, self.bank.num_potentials)  # names that can't be used are told before the long work
        if self._current("evaluation.json") is None:
            self.evaluate(samples, progress=progress)
        if self._current("traversals/index.json") is None:
            write_traversals(self, self.folder / "traversals", overwrite=True)
        if self._needs_strokes():
            self.correlate(stroke_attributes, STROKE_ATTRIBUTES)
        return write_report(self.folder)

    def _needs_strokes(self) -> bool:
        """Whether to measure strokes: no attributes were measured yet, or the strokes of other weights were."""
        file = self.folder / "attributes.json"
        if file.exists():
            try:
                record = read_json(file)
            except InputError:
                return False
            ours = isinstance(record, dict) and record.get("predictor") in (name_of(stroke_attributes), _STROKES_BEFORE)
            return ours and self._current("attributes.json") is None
        generator = self.generator
        if self.config.path_steps < 2 or generator.image_shape[0] != 1:
            return False
        with torch.no_grad():
            return looks_drawn(generator.eight_bit(generator.decode(generator.sample(64))))

    def _current(self, name: str) -> dict[str, Any] | None:
        """The record in a JSON file of the folder; None unless it is whole and describes the present weights."""
        try:
            record = read_sealed(self.folder / name)
        except InputError:
            return None
        return record if record.get("weights") == self.weights else None


class VAERun(Run, SavedVAE):
    """A VAE that was trained from scratch, with the potentials that transported its latents, if any.

    Attributes:
        vae: the VAE, as `ff.metrics.log_likelihood` takes it. generator: the VAE's decoder, which gives mean images.
        learned: all learned models, with the inference of transformations and the diffusion prior if there are any.
        transition: how the latents of a sequence follow each other. It has noise if the training gave it some.
        transformations: the names of the data's transformations; with full supervision, potential k learned number k.
    """
