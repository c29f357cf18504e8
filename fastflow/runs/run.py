"""A run: what a training left behind in its folder, loaded and ready to traverse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastflow.core.errors import InputError
from fastflow.core.files import read_json
from fastflow.core.plugins import name_of
from fastflow.latents.predictors import Predictor
from fastflow.metrics.attributes import AttributeCorrelation, correlate
from fastflow.metrics.evaluation import evaluate
from fastflow.metrics.strokes import STROKE_ATTRIBUTES, looks_drawn, stroke_attributes
from fastflow.report import write_report, write_traversals
from fastflow.saved.edits import Along, Edit, make_edit
from fastflow.saved.run import SavedRun, SavedVAE


class Run(SavedRun):
    """A saved run with everything that is asked of it: edits, measures and a report.

    Attributes:
        folder: the run's folder. step: the training steps behind its weights.
        bank, pde, companion: the potentials, their equation, and the velocity without divergence that joins their
            gradients where the configuration asked for one; together `potentials`.
        step_length: of the steps in latent space that `traverse` takes, or None for the flow's own speed; the
            configuration's, until it is changed.
    """

    def edit(self, along: Along, steps: float, t0: float = 0.0, name: str = "") -> Edit:
        """A change of latents along potentials, which can be lengthened, saved, and applied to any latents.

        Args:
            along: a potential by number or name, or weights of several by theirs, to go along all of them at once.
            steps: of the run; a fraction's last step is shorter, and a negative number undoes as many steps.
            t0: the time at which these steps begin, walked forwards.
            name: what to call it.
        """
        return make_edit(self, along, steps, t0, name)

    def evaluate(self, samples: int = 4096, seed: int = 1, progress: bool = True) -> dict[str, Any]:
        """Measure strength, distinctness and physics, write evaluation.json and return its contents.

        See `fastflow.metrics.evaluation.evaluate`.
        """
        return evaluate(self, samples, seed, progress)

    def ranking(self, samples: int = 4096, progress: bool = True) -> list[tuple[int, float]]:
        """The potentials with their scores in [0, 1], most distinct, smooth and strong ones first.

        See `fastflow.metrics.ranking.score`. Evaluates on `samples` latents where that isn't done yet.
        """
        if not self._is_current("evaluation.json"):
            self.evaluate(samples, progress=progress)
        try:
            ranking = read_json(self.folder / "evaluation.json")["ranking"]
            return [(k, ranking["scores"][k]) for k in ranking["order"]]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{str(self.folder / 'evaluation.json')!r} holds no ranking: evaluate the run again"
            ) from error

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

    def report(self, samples: int = 4096, progress: bool = True) -> Path:
        """Write report.html, one page of pictures, numbers and curves, and return its path.

        Evaluates on `samples` latents and draws the traversals first, where that isn't done yet or was done at another
        training step. Where nobody has correlated the paths with attributes and the images look like drawn strokes,
        their strokes are measured, so that the page can suggest names.
        """
        if not self._is_current("evaluation.json"):
            self.evaluate(samples, progress=progress)
        if not self._is_current("traversals/index.json"):
            write_traversals(self, self.folder / "traversals", overwrite=True)
        if self._needs_strokes():
            self.correlate(stroke_attributes, STROKE_ATTRIBUTES)
        return write_report(self.folder)

    def _needs_strokes(self) -> bool:
        """Whether strokes should be measured: nothing else was, or they were and are out of date."""
        file = self.folder / "attributes.json"
        if file.exists():
            try:
                record = read_json(file)
            except InputError:
                return False
            ours = isinstance(record, dict) and record.get("predictor") == name_of(stroke_attributes)
            return ours and record.get("training_steps") != self.step
        generator = self.generator
        if self.config.path_steps < 2 or generator.image_shape[0] != 1:
            return False
        with torch.no_grad():
            return looks_drawn(generator.eight_bit(generator.decode(generator.sample(64))))

    def _is_current(self, name: str) -> bool:
        """Whether a JSON file of the folder is there, can be read and is about the present weights."""
        try:
            record = read_json(self.folder / name)
        except InputError:
            return False
        return isinstance(record, dict) and record.get("training_steps") == self.step


class VAERun(Run, SavedVAE):
    """A VAE that was trained from scratch, with the potentials that carried its latents, if any.

    Attributes:
        vae: what `ff.metrics.log_likelihood` measures. generator: its mean images.
        learned: all of it, with the inference of transformations and the diffusion prior where there are such.
        transformations: the names of the data's; potential k moves as number k does, where supervision was full.
    """
