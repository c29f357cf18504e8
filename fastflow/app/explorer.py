"""What the page can do, without its widgets: starts, films along potentials, names, edits and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastflow.app.saving import python_lines, write_scene
from fastflow.app.scenes import Film, Scene, Start
from fastflow.baselines import PCA, Random
from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import ConvergenceError, InputError
from fastflow.engine.paths import integrate_mix
from fastflow.engine.types import Direction
from fastflow.generators import Generator
from fastflow.latents.inversion import invert
from fastflow.latents.traversal import seen
from fastflow.runs.loading import load_run
from fastflow.runs.run import Run, VAERun
from fastflow.saved.edits import Edit
from fastflow.training.checkpoint import latest_checkpoint

BASELINES = {"random": "random direction", "pca": "principal direction"}
"""The baselines that a film can be compared with, and their names on the page."""

LONGEST = 200
"""The greatest number of steps each way."""

_PCA_SAMPLES = 1024
_CALIBRATIONS = 6  # trials of a step length that changes the pixels as much as the film's


class Explorer:
    """A run with everything that a person can do with it on the page. Its methods raise InputError for bad input.

    Args:
        run: the run whose potentials are explored.
        generator: a further argument of `ff.load_run`, in Python: an expression that loads the run's generator, if the
            run itself doesn't find it, or trust=True.
    """

    def __init__(self, run: Run, generator: str | None = None) -> None:
        _ = run.bank  # raises InputError if the run has no potentials
        self.run = run
        self._generator = generator
        self._principal: PCA | None = None
        self._loaded = self._on_disk()

    # The run

    @property
    def generator(self) -> Generator:
        """The run's generator."""
        return self.run.generator

    @property
    def count(self) -> int:
        """The number of potentials."""
        return self.run.bank.num_potentials

    @property
    def reach(self) -> int:
        """The steps each way of the first film: as many in all as a path had in training."""
        return min(max(1, self.run.config.path_steps // 2), LONGEST)

    @property
    def has_real_images(self) -> bool:
        """Whether the generator has real images to start from."""
        return type(self.generator).starts is not Generator.starts

    def refresh(self) -> None:
        """Load the run again if the weights in its folder have changed.

        Raises:
            InputError: the folder no longer holds a run, the run is damaged, or it has another number of potentials,
                for which the page has no widgets. The run stays as it was loaded.
        """
        found = self._on_disk()
        if found != self._loaded:
            # A VAE's run is its own generator; any other generator stays as it is.
            run = load_run(self.run.folder, None if isinstance(self.run, VAERun) else self.generator)
            if run.bank.num_potentials != self.count:
                raise InputError(
                    f"{str(run.folder)!r} holds another run by now, of {run.bank.num_potentials} potentials in place "
                    f"of {self.count}: end fastflow serve and start it again"
                )
            self.run, self._loaded, self._principal = run, found, None
        _ = self.run.names

    def names(self) -> dict[int, str]:
        """The potentials' names; none if their file is damaged, for which `refresh` raises an error."""
        try:
            return self.run.names
        except InputError:
            return {}

    def choices(self) -> list[tuple[str, int]]:
        """The potentials as the page lists them: a text and a number for each."""
        names = self.names()
        return [(f"{k} · {names[k]}" if k in names else f"{k}", k) for k in range(self.count)]

    def name(self, potential: int, name: str) -> str:
        """Name a potential, or remove its name if `name` is empty; return a sentence that says so."""
        name = name.strip()
        self.run.name(potential, name or None)
        return f"potential {potential} is called “{name}” now" if name else f"potential {potential} has no name now"

    # Starts

    def sample(self, seed: int, label: int | None = None) -> Start:
        """The generator's latent with this seed."""
        check_seed(seed)
        return Start(self.generator.sample(1, seed), f"sample {seed}", f"run.generator.sample(1, {seed})", label)

    def held_out(self, number: int, label: int | None = None) -> Start:
        """The latent of the real image with this number."""
        check_seed(number)
        z = self.generator.starts(1, number)
        return Start(z, f"real image {number}", f"run.generator.starts(1, {number})", label)

    def from_drawing(self, drawing: npt.NDArray[np.uint8], label: int | None = None) -> Start:
        """The latent whose image is nearest to a drawing (H, W), white on black."""
        if not drawing.any():
            raise InputError("the drawing is empty: draw on the black field first")
        labels = None if label is None else torch.tensor([label])
        found = invert(self.generator, torch.from_numpy(drawing.copy())[None, None], labels=labels, progress=False)
        return Start(found.latents, f"your drawing, {float(found.error):.3f} off per pixel", None, label)

    # Films

    @torch.no_grad()
    def show(
        self,
        start: Start,
        before: Edit | None,
        mix: Mapping[int, float],
        reach: int,
        baseline: str | None = None,
        number: int = 0,
    ) -> Scene:
        """The film along a mix of potentials from a start, to which an edit was applied before.

        It goes both ways, as `run.traverse(..., direction="both", even=False)` does: `reach` steps back by the reverse
        flow and `reach` steps ahead, through times 0 .. 2 reach dt, with the start in the middle. If the flow can't be
        undone, it goes ahead only, from time 0. Its steps are the flow's own, so that what is shown at a step is, to
        the last digit, what the edit of that many steps makes.

        Args:
            start: the start.
            before: the edit that was applied to it; None for none.
            mix: the weights of the potentials.
            reach: the number of steps each way.
            baseline: one of `BASELINES` to show beside it, with steps that change the pixels as much.
            number: the number of the baseline's direction.
        """
        check_count(reach, "steps each way")
        if reach > LONGEST:
            raise InputError(f"steps each way must be at most {LONGEST}, got {reach}")
        mix = {k: float(weight) for k, weight in mix.items() if weight}
        z = start.z if before is None else before.path(self.run, start.z)[:, -1]
        note = ""
        try:
            back = self._path(z, mix, reach, 0.0, "reverse").flip(1)
            ahead = self._path(z, mix, reach, reach * self.run.config.dt, "forward")
            latents, middle = torch.cat((back, ahead[:, 1:]), 1), reach
        except ConvergenceError:
            latents, middle = self._path(z, mix, 2 * reach, 0.0, "forward"), 0
            note = "The flow can't be undone from here, so the film only goes ahead."
        film = self._film(latents, middle, self.title(mix), start.label)
        beside = None if baseline is None else self._baseline_film(film, baseline, number, start.label)
        return Scene(start, before, mix=mix, film=film, beside=beside, note=note)

    def title(self, mix: Mapping[int, float]) -> str:
        """The name of a mix of potentials."""
        names = self.names()
        if list(mix.values()) == [1.0]:
            (k,) = mix
            return f"potential {k}, {names[k]}" if k in names else f"potential {k}"
        words = ""
        for k, weight in mix.items():
            sign = "−" if weight < 0 else "+" if words else ""
            words += f"{' ' + sign + ' ' if words else sign}{abs(weight):g} × {names.get(k, f'potential {k}')}"
        return words

    def _path(self, z: Tensor, mix: Mapping[int, float], steps: int, t0: float, direction: Direction) -> Tensor:
        """The latents (1, steps + 1, D) along a mix of potentials."""
        integration = self.run.config.integration._replace(direction=direction)
        return integrate_mix(self.run.bank, z, mix, steps, t0=t0, integration=integration, companion=self.run.companion)

    def _film(self, latents: Tensor, middle: int, title: str, label: int | None) -> Film:
        """The film of a path of latents (1, T, D)."""
        labels = None if label is None else torch.tensor([label], device=latents.device)
        decoded = seen(self.generator, latents, middle, labels=labels)
        assert decoded.ends is not None
        images = self.generator.scaled(decoded.images[0]).clamp(0, 1)
        change = float(images.diff(dim=0).abs().mean())
        first, last = decoded.ends[0].tolist()
        return Film(latents[0], self.generator.pictured(images), middle, title, change, (first, last))

    def _baseline_film(self, film: Film, baseline: str, number: int, label: int | None) -> Film:
        """A straight path from the film's start, with steps of the length that changes the pixels as much."""
        method = self._baseline(baseline)
        if not isinstance(number, int) or not 0 <= number < method.num_directions:
            raise InputError(f"direction must lie in 0..{method.num_directions - 1}, got {number}")
        direction, z = method.directions[number], film.latents[film.middle]
        place = torch.arange(len(film.latents)).to(z)[:, None] - film.middle
        title = f"{BASELINES[baseline]} {number}"
        length = float(film.latents.diff(dim=0).norm(dim=1).mean())
        straight = film
        for _ in range(_CALIBRATIONS):
            length = max(length, 1e-6)  # the length is 0 where the potential moves nothing
            straight = self._film((z + length * place * direction)[None], film.middle, title, label)
            if abs(straight.change - film.change) <= 0.01 * film.change or not straight.change:
                break
            length *= film.change / straight.change
        return straight

    def _baseline(self, baseline: str) -> Random | PCA:
        """The baseline of this name; principal directions are computed once."""
        if baseline not in BASELINES:
            raise InputError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")
        if baseline == "random":
            return Random(self.generator, max(self.count, 8))
        if self._principal is None:
            most = min(max(self.count, 8), self.generator.latent_dim)
            self._principal = PCA(self.generator, most, samples=max(_PCA_SAMPLES, most + 1))
        return self._principal

    # Edits and files

    def edit(self, scene: Scene, step: int) -> Edit | None:
        """The edit that leads from the scene's start to what it shows at a step; None for the start itself."""
        _check_step(scene, step)
        if not step:
            return scene.before
        # The time at which these steps begin.
        t0 = (scene.film.middle + min(step, 0)) * self.run.config.dt
        along: dict[int | str, float] = {**scene.mix}
        return self.run.edit(along, step, t0) if scene.before is None else scene.before.then(along, step, t0)

    def undone(self, edit: Edit) -> Edit | None:
        """The edit without its last part; None if it has only one part."""
        return replace(edit, parts=edit.parts[:-1]) if len(edit.parts) > 1 else None

    def lines(self, scene: Scene, step: int) -> str:
        """The lines of Python that make what the scene shows at a step."""
        return python_lines(self.run, self._generator, scene.start, self.edit(scene, step))

    def save(self, scene: Scene, step: int, folder: Path) -> list[Path]:
        """Write what the scene shows at a step to a folder, and return the files.

        They are image.png; strip.png and path.gif of the film, with the baseline's below it; latents.safetensors with
        "start" (1, D), "path" (T, D) and "shown" (1, D); edit.json, unless the start itself is shown; and edit.py, the
        lines of Python that make it again.
        """
        return write_scene(scene, step, self.edit(scene, step), self.lines(scene, step), folder)

    def _on_disk(self) -> list[tuple[str, int, int]]:
        """The files of the run's weights with their times and sizes, which differ once the weights change."""
        folder = self.run.folder
        newest = latest_checkpoint(folder / "checkpoints")
        files = [folder / "config.json", *([] if newest is None else sorted(newest.folder.glob("*")))]
        try:
            return [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        except OSError:  # load_run raises an error that says what is wrong
            return []


def _check_step(scene: Scene, step: int) -> None:
    """Raise InputError unless the scene shows this step."""
    if step not in scene.film.steps:
        raise InputError(f"step must lie in {scene.film.steps[0]}..{scene.film.steps[-1]}, got {step}")
