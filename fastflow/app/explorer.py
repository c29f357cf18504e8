"""What the page does, apart from its widgets: starts, films along potentials, names, and files of what is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastflow.baselines import PCA, Random
from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import ConvergenceError, InputError
from fastflow.core.files import replacing, write_tensors
from fastflow.engine.paths import mixed_flow
from fastflow.generators import Generator
from fastflow.latents.inversion import invert
from fastflow.latents.traversal import decoded
from fastflow.report import save_gif, save_strip
from fastflow.runs.loading import load_run
from fastflow.runs.run import Run, VAERun
from fastflow.saved.edits import Edit
from fastflow.training.checkpoint import latest_checkpoint

BASELINES = {"random": "random direction", "pca": "principal direction"}
"""What a film can be compared with, and how the page calls it."""

LONGEST = 200
"""Steps each way, at most."""

_PCA_SAMPLES = 1024
_CALIBRATIONS = 6
_SHOWN_SIZE = 256  # pixels that a saved image's longer side is enlarged to at least


@dataclass(frozen=True)
class Start:
    """A latent to start from.

    Attributes:
        z: (1, D). words: how the page calls it.
        code: the expression in Python that gives it again; None for a drawing, which only its file holds.
        label: its class, of a generator with classes.
    """

    z: Tensor
    words: str
    code: str | None
    label: int | None = None


@dataclass(frozen=True)
class Film:
    """A path both ways from a start, and its images.

    Attributes:
        latents: (T, D). images: (T, C, H, W) in [0, 1]. middle: the start's column.
        title: along what. change: the mean absolute pixel change per step.
    """

    latents: Tensor
    images: Tensor
    middle: int
    title: str
    change: float

    @property
    def steps(self) -> range:
        """The steps from the start that it shows, negative ones by the reverse flow."""
        return range(-self.middle, len(self.latents) - self.middle)


@dataclass(frozen=True)
class Scene:
    """What is seen.

    Attributes:
        start: where everything began. before: what was done to it already. mix: the weights that the film goes along.
        film: from there on. beside: a baseline's film, of equal strength. note: what has to be said of them.
    """

    start: Start
    before: Edit | None
    mix: dict[int, float]
    film: Film
    beside: Film | None
    note: str


class Explorer:
    """A run with everything that a person does with it on the page; every action raises InputError on bad input.

    Args:
        run: whose potentials are looked at.
        generator: the expression in Python that loads its generator, where the run itself doesn't find it.
    """

    def __init__(self, run: Run, generator: str | None = None) -> None:
        _ = run.bank  # a run without potentials says so
        self.run = run
        self._generator = generator
        self._principal: PCA | None = None
        self._seen = self._on_disk()

    # Of the run

    @property
    def generator(self) -> Generator:
        """The run's generator."""
        return self.run.generator

    @property
    def count(self) -> int:
        """How many potentials there are."""
        return self.run.bank.num_potentials

    @property
    def reach(self) -> int:
        """How many steps each way a film takes at first: both together, those of a path in training."""
        return min(max(1, self.run.config.path_steps // 2), LONGEST)

    @property
    def has_real_images(self) -> bool:
        """Whether its generator knows real images to start from."""
        return type(self.generator).starts is not Generator.starts

    def refresh(self) -> None:
        """Load the run again if its folder holds other weights by now.

        Raises:
            InputError: the folder is no run any more, or damaged, or a run with another number of potentials, for which
                the page has no place; what was loaded stays.
        """
        found = self._on_disk()
        if found != self._seen:
            # A VAE's run is its own generator; any other stays as it is.
            run = load_run(self.run.folder, None if isinstance(self.run, VAERun) else self.generator)
            if run.bank.num_potentials != self.count:
                raise InputError(
                    f"{str(run.folder)!r} holds another run by now, of {run.bank.num_potentials} potentials in place "
                    f"of {self.count}: end fastflow serve and start it again"
                )
            self.run, self._seen, self._principal = run, found, None
        _ = self.run.names

    def names(self) -> dict[int, str]:
        """The potentials' names; none where their file is damaged, which `refresh` tells."""
        try:
            return self.run.names
        except InputError:
            return {}

    def choices(self) -> list[tuple[str, int]]:
        """The potentials as the page lists them, with their numbers."""
        names = self.names()
        return [(f"{k} · {names[k]}" if k in names else f"{k}", k) for k in range(self.count)]

    def name(self, potential: int, name: str) -> str:
        """Name a potential, or take its name away with an empty one; return what was done."""
        name = name.strip()
        self.run.name(potential, name or None)
        return f"potential {potential} is called “{name}” now" if name else f"potential {potential} has no name now"

    # Starts

    def sample(self, seed: int, label: int | None = None) -> Start:
        """The generator's latent with this seed."""
        check_seed(seed)
        return Start(self.generator.sample(1, seed), f"sample {seed}", f"run.generator.sample(1, {seed})", label)

    def held_out(self, number: int, label: int | None = None) -> Start:
        """A real image, encoded; which one, the number tells."""
        check_seed(number)
        z = self.generator.starts(1, number)
        return Start(z, f"real image {number}", f"run.generator.starts(1, {number})", label)

    def drawn(self, picture: npt.NDArray[np.uint8], label: int | None = None) -> Start:
        """A drawing (H, W), white on black, inverted into the latent space."""
        if not picture.any():
            raise InputError("the drawing is empty: draw on the black field first")
        labels = None if label is None else torch.tensor([label])
        found = invert(self.generator, torch.from_numpy(picture.copy())[None, None], labels=labels, progress=False)
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
        """The film from a start, after what was done to it before, along a mix of potentials.

        Both ways at once, as `run.traverse(..., direction="both")` goes: `reach` steps back by the reverse flow and as
        many ahead, through times 0 .. 2 reach dt, the start in the middle. Where the flow can't be undone it goes ahead
        only, from time 0.

        Args:
            baseline: one of `BASELINES` to walk beside it, in steps that change the pixels as much.
            number: which of its directions.
        """
        check_count(reach, "steps each way")
        if reach > LONGEST:
            raise InputError(f"steps each way must be at most {LONGEST}, got {reach}")
        mix = {k: float(weight) for k, weight in mix.items() if weight}
        z = start.z if before is None else before.path(self.run, start.z)[:, -1]
        note = ""
        try:
            back = self._walk(z, mix, reach, 0.0, "reverse").flip(1)
            ahead = self._walk(z, mix, reach, reach * self.run.config.dt, "forward")
            latents, middle = torch.cat((back, ahead[:, 1:]), 1), reach
        except ConvergenceError:
            latents, middle = self._walk(z, mix, 2 * reach, 0.0, "forward"), 0
            note = "The flow can't be undone from here, so the film only goes ahead."
        film = self._film(latents, middle, self.title(mix), start.label)
        beside = None if baseline is None else self._compared(film, baseline, number, start.label)
        return Scene(start, before, mix, film, beside, note)

    def title(self, mix: Mapping[int, float]) -> str:
        """What a mix of potentials is called."""
        names = self.names()
        if list(mix.values()) == [1.0]:
            (k,) = mix
            return f"potential {k}, {names[k]}" if k in names else f"potential {k}"
        words = ""
        for k, weight in mix.items():
            sign = "−" if weight < 0 else "+" if words else ""
            words += f"{' ' + sign + ' ' if words else sign}{abs(weight):g} × {names.get(k, f'potential {k}')}"
        return words

    def _walk(self, z: Tensor, mix: Mapping[int, float], steps: int, t0: float, direction: str) -> Tensor:
        config = self.run.config
        way = "reverse" if direction == "reverse" else "forward"
        return mixed_flow(
            self.run.bank, z, mix, steps, t0, config.dt, config.method, way, config.step_length, self.run.companion
        )

    def _film(self, latents: Tensor, middle: int, title: str, label: int | None) -> Film:
        labels = None if label is None else torch.tensor([label], device=latents.device)
        images = self.generator.scaled(decoded(self.generator, latents, labels)[0]).clamp(0, 1)
        return Film(latents[0], images, middle, title, float(images.diff(dim=0).abs().mean()))

    def _compared(self, film: Film, baseline: str, number: int, label: int | None) -> Film:
        """A straight walk from the film's start, its steps as long as it takes to change the pixels as much."""
        method = self._baseline(baseline)
        if not isinstance(number, int) or not 0 <= number < method.num_directions:
            raise InputError(f"direction must lie in 0..{method.num_directions - 1}, got {number}")
        direction, z = method.directions[number], film.latents[film.middle]
        place = torch.arange(len(film.latents)).to(z)[:, None] - film.middle
        title = f"{BASELINES[baseline]} {number}"
        length = float(film.latents.diff(dim=0).norm(dim=1).mean())
        walked = film
        for _ in range(_CALIBRATIONS):
            length = max(length, 1e-6)  # a potential that moves nothing
            walked = self._film((z + length * place * direction)[None], film.middle, title, label)
            if abs(walked.change - film.change) <= 0.01 * film.change or not walked.change:
                break
            length *= film.change / walked.change
        return walked

    def _baseline(self, baseline: str) -> Random | PCA:
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
        """What leads from the scene's start to what is seen at a step; None at the start itself."""
        _check_step(scene, step)
        if not step:
            return scene.before
        # The time at which these steps begin, walked forwards.
        t0 = (scene.film.middle + min(step, 0)) * self.run.config.dt
        along: dict[int | str, float] = {**scene.mix}
        return self.run.edit(along, step, t0) if scene.before is None else scene.before.then(along, step, t0)

    def undone(self, edit: Edit) -> Edit | None:
        """An edit without its last part; None if it has only one."""
        return replace(edit, parts=edit.parts[:-1]) if len(edit.parts) > 1 else None

    def lines(self, scene: Scene, step: int) -> str:
        """The lines of Python that reproduce what is seen at a step."""
        edit, start, label = self.edit(scene, step), scene.start, scene.start.label
        code = 'load_file("latents.safetensors")["start"]' if start.code is None else start.code
        labels = "" if label is None else f", labels=torch.tensor([{label}])"
        # Any edit's lines load the run.
        lines = (self.run.edit(0, 1) if edit is None else edit).python_lines(code)
        if self._generator is not None:
            lines[2] = f"run = ff.load_run({str(self.run.folder.resolve())!r}, {self._generator})"
        if edit is None:
            lines = [*lines[:4], f"image = run.generator.decode(z0{labels})"]
        else:
            lines = [*lines[:-1], f"path = edit.apply(run, z0{labels})", "image = path.images[:, -1]"]
        if start.code is None:
            lines.insert(1, "from safetensors.torch import load_file")
        if label is not None:
            lines.insert(0, "import torch")
        return "\n".join(lines) + "\n"

    def save(self, scene: Scene, step: int, folder: Path) -> list[Path]:
        """Write what is seen at a step to `folder` and return the files.

        image.png; strip.png and path.gif of the film, the baseline's below it; latents.safetensors with start (1, D),
        path (T, D) and shown (1, D); edit.json, unless the start itself is seen; edit.py, the lines that reproduce it.
        """
        edit = self.edit(scene, step)
        folder.mkdir(parents=True, exist_ok=True)
        films = [scene.film] if scene.beside is None else [scene.film, scene.beside]
        images = torch.stack([film.images for film in films]).cpu()
        column = scene.film.middle + step
        files = [folder / name for name in ("image.png", "latents.safetensors", "edit.py")]
        with replacing(files[0]) as temporary:
            _enlarged(picture(scene.film.images[column])).save(temporary, "PNG")
        tensors = {
            "start": scene.start.z, "path": scene.film.latents, "shown": scene.film.latents[column : column + 1]
        }  # fmt: skip
        write_tensors(files[1], tensors)
        files[2].write_text(self.lines(scene, step), encoding="utf-8")
        files.append(save_strip(images, folder / "strip.png", start=scene.film.middle, value_range=(0, 1)))
        files.append(save_gif(images, folder / "path.gif", value_range=(0, 1)))
        if edit is not None:
            files.append(edit.save(folder / "edit.json"))
        return sorted(files)

    def _on_disk(self) -> list[tuple[str, int, int]]:
        """What tells the weights in the run's folder from others."""
        folder = self.run.folder
        newest = latest_checkpoint(folder / "checkpoints")
        files = [folder / "config.json", *([] if newest is None else sorted(newest.folder.glob("*")))]
        try:
            return [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        except OSError:  # load_run tells what is wrong
            return []


def picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], grey or RGB, as a Pillow image."""
    pixels = image.detach().cpu().mul(255).round().to(torch.uint8).numpy()
    if len(pixels) not in (1, 3):
        raise InputError(f"images of 1 or 3 channels can be shown, got {len(pixels)}")
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _enlarged(shown: Image.Image) -> Image.Image:
    """In whole squares, as the page shows it."""
    factor = max(1, -(-_SHOWN_SIZE // max(shown.size)))
    return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)


def _check_step(scene: Scene, step: int) -> None:
    if step not in scene.film.steps:
        raise InputError(f"step must lie in {scene.film.steps[0]}..{scene.film.steps[-1]}, got {step}")
