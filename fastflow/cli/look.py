"""What each command of the command line takes and does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastflow import generators
from fastflow.app import HOST, PORT, serve
from fastflow.cli.inputs import LATENTS_SUFFIXES, OfRun, inverted, read_latents, watched
from fastflow.core.errors import InputError
from fastflow.core.plugins import import_function
from fastflow.latents.traversal import TraversalDirection
from fastflow.metrics.evaluation import check_evaluation
from fastflow.pictures.videos import check_video
from fastflow.report import write_edited, write_traversals
from fastflow.report.traversals import LatentsFormat
from fastflow.runs.loading import recorded_settings
from fastflow.runs.train import discover
from fastflow.saved.edits import load_edit
from fastflow.saved.names import read_names, write_name
from fastflow.training.config import DiscoverConfig


@dataclass(frozen=True)
class Demo:
    """The whole story on bundled real data: discover, evaluate, traverse, report."""

    out: str = "demo"
    """The run's folder; the page is OUT/report.html."""
    seed: int = 0
    """Of everything random."""
    steps: int = DiscoverConfig.steps
    """Training steps."""
    overwrite: bool = False
    """Replace the run that OUT holds."""

    def run(self) -> None:
        """Do all of it and say where the page is."""
        config = DiscoverConfig(seed=self.seed, steps=self.steps)
        print(f"discovering {config.num_potentials} potentials on the digits VAE")
        run = discover(
            generators.load("digits-vae"), config, self.out, overwrite=self.overwrite, progress=watched()
        )  # fmt: skip
        print("evaluating on latents that training never saw")
        print(f"look at {run.report()}; next: fastflow serve {self.out}")


@dataclass(frozen=True)
class Traverse(OfRun):
    """Draw strips and animations of a run's potentials and keep their latents."""

    out: str | None = None
    """Where to write; RUN/traversals if left out."""
    potential: tuple[int, ...] | None = None
    """Which potentials; all if left out."""
    starts: int = 6
    """How many starting latents."""
    latents: str | None = None
    """A file of starting latents (N, D), .npy, .npz or .safetensors, in place of the generator's own."""
    images: tuple[str, ...] | None = None
    """Image files, or folders of them, to start from: inverted by the generator's encoder, or by optimisation."""
    steps: int | None = None
    """Steps of a path; those of the training if left out."""
    direction: TraversalDirection | None = None
    """forward, descent, reverse, or both: the reverse flow before the start and the forward flow after it. Both if left
    out, and forward on paths of a single step."""
    seed: int = 0
    """Which starts."""
    mp4: bool = False
    """Write MP4 files, too; needs pip install 'fastflow[video]'."""
    latents_format: LatentsFormat = "safetensors"
    """Of the file that the paths' latents are written to."""
    overwrite: bool = False
    """Replace the traversals that OUT holds."""

    def run(self) -> None:
        """Write them."""
        if self.latents is not None and self.images is not None:
            raise InputError("--latents and --images are both what to start from: give one of them")
        if self.mp4:
            check_video()  # before images are inverted
        run = self.load()
        z0 = None if self.latents is None else read_latents(Path(self.latents), run)
        z0 = z0 if self.images is None else inverted(run, self.images, self.seed)
        out = run.folder / "traversals" if self.out is None else Path(self.out)
        files = write_traversals(
            run,
            out,
            potentials=self.potential,
            z0=z0,
            starts=self.starts,
            steps=self.steps,
            direction=self.direction,
            seed=self.seed,
            mp4=self.mp4,
            latents_format=self.latents_format,
            overwrite=self.overwrite,
        )
        print(f"wrote {len(files)} files to {out}")


@dataclass(frozen=True)
class Apply:
    """Apply a saved edit to other latents or images."""

    edit: tyro.conf.Positional[str]
    """The edit's file, as edit.save writes it."""
    to: tuple[str, ...]
    """A file of latents (N, D), .npy, .npz or .safetensors; or image files, or a folder of them, inverted first."""
    out: str
    """Where to write."""
    folder: str | None = None
    """The run's folder, where it isn't the one that the edit names."""
    retrained: bool = False
    """Apply it even if the run's potentials are others than those it was made for, as after more training."""
    generator: str | None = None
    """The generator that the run was trained on, such as FILE.py:FUNCTION, where its name doesn't find it again."""
    latent_dim: int | None = None
    """The latents' width, where FUNCTION or an archive maps latents to images itself."""
    latents_format: LatentsFormat = "safetensors"
    """Of the file that the latents are written to."""
    seed: int = 0
    """Of an image's inversion by optimisation."""
    overwrite: bool = False
    """Replace the edited images that OUT holds."""

    def run(self) -> None:
        """Apply it."""
        edit = load_edit(self.edit)
        if self.folder is None and not Path(edit.run.folder).is_dir():
            raise InputError(f"the edit's run {edit.run.folder!r} isn't there: say with --folder where it is")
        run = OfRun(edit.run.folder if self.folder is None else self.folder, self.generator, self.latent_dim).load()
        if self.retrained:
            edit = edit.on(run)
        edit.check(run)
        files = [Path(file) for file in self.to]
        if any(file.suffix in LATENTS_SUFFIXES for file in files):
            if len(files) > 1:
                raise InputError("--to takes one file of latents, or image files, or a folder of them")
            z0 = read_latents(files[0], run)
        else:
            z0 = inverted(run, self.to, self.seed)
        written = write_edited(
            run, edit, z0, Path(self.out), latents_format=self.latents_format, overwrite=self.overwrite
        )  # fmt: skip
        print(f"{edit}: wrote {len(written)} files to {self.out}")


@dataclass(frozen=True)
class Name:
    """Name a run's potential, or show the names that it has."""

    folder: tyro.conf.Positional[str]
    """The run's folder."""
    potential: tyro.conf.Positional[int | None] = None
    """Which."""
    name: tyro.conf.Positional[str | None] = None
    """Such as rotation."""
    remove: bool = False
    """Take the potential's name away."""

    def run(self) -> None:
        """Write it, and print all of them."""
        if (self.potential is not None) != (self.name is not None or self.remove) or (self.name and self.remove):
            raise InputError("give a potential and its name, a potential and --remove, or neither to see all names")
        folder = Path(self.folder)
        count = recorded_settings(folder).num_potentials
        if self.potential is not None:
            write_name(folder, count, self.potential, self.name)
        names = read_names(folder, count)
        print("".join(f"{k:3d}  {name}\n" for k, name in names.items()) or "no potential has a name\n", end="")


@dataclass(frozen=True)
class Evaluate(OfRun):
    """Measure strength, distinctness, smoothness and physics of a run; writes RUN/evaluation.json."""

    samples: int = 4096
    """Pairs of images: half train the fresh classifier, half test it."""
    seed: int = 1
    """Of the starts and the classifier."""
    predictor: str | None = None
    """FILE.py:FUNCTION, attributes (B,) or (B, A) of images (B, C, H, W) in [0, 1]; how each changes along each path is
    written to RUN/attributes.json."""
    attributes: tuple[str, ...] | None = None
    """The predicted attributes' names, as many as there are; attribute 0, attribute 1, ... if left out."""

    def run(self) -> None:
        """Measure and print a table."""
        if self.predictor is None and self.attributes is not None:
            raise InputError("--attributes are the names of what a --predictor predicts: give both")
        predictor = None if self.predictor is None else import_function(self.predictor, "predictor")
        run = self.load()
        check_evaluation(run, self.samples, self.seed)  # before the attributes are looked at
        attributes = None if predictor is None else run.correlate(predictor, self.attributes, seed=self.seed)
        result = run.evaluate(self.samples, self.seed)
        distinctness, residual = result["distinctness"], result["residual"]
        print(f"strength             {result['strength']['mean']:.4f} pixel change per step")
        print(f"distinctness         {distinctness['accuracy']:.4f} accuracy")
        print(f"  random directions  {distinctness['random_directions']['accuracy']:.4f} accuracy at equal strength")
        print(f"normalised residual  {residual['after']:.4f}, before training {residual['before']:.4f}")
        print("potentials, most distinct, smooth and strong first:")
        names, smoothness = run.names, result["smoothness"]["per_potential"]
        for k in result["ranking"]["order"]:
            smooth = "" if smoothness[k] is None else f"smoothness {smoothness[k]:.3f}  "
            words = f"{names[k]}  " if k in names else ""
            if attributes is not None:
                name, correlation = attributes.strongest(k)
                words += f"{name} {correlation:+.2f}"
            print(
                f"  {k:3d}  score {result['ranking']['scores'][k]:.3f}  strength "
                f"{result['strength']['per_potential'][k]:.4f}  accuracy {distinctness['per_potential'][k]:.3f}  "
                f"{smooth}{words}".rstrip()
            )


@dataclass(frozen=True)
class Report(OfRun):
    """Write RUN/report.html, measuring and drawing first what isn't there yet or is older than the weights."""

    samples: int = 4096
    """Pairs of images to evaluate on, where that isn't done yet."""

    def run(self) -> None:
        """Write it and say where it is."""
        print(f"look at {self.load().report(self.samples)}")


@dataclass(frozen=True)
class Serve(OfRun):
    """Serve a page to explore the run in a browser: drag along its potentials, mix, chain, name and save them."""

    host: str = HOST
    """The address to listen on. Any but this machine's own lets others in, without a password."""
    port: int = PORT
    """0 for any free one."""

    def run(self) -> None:
        """Serve it until interrupted."""
        named = ", ".join(repr(word) for word in (self.generator, self.latent_dim) if word is not None)
        serve(self.load(), self.host, self.port, generator=f"ff.generators.load({named})" if named else None)
