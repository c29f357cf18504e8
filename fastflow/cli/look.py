"""The commands that load a run: traverse, apply, evaluate, name, report and serve."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastflow.app import HOST, PORT, serve
from fastflow.cli.inputs import LATENTS_SUFFIXES, RunCommand, RunFolder, invert_images, open_run, read_latents
from fastflow.core.errors import InputError
from fastflow.core.files import check_place, printable, read_sealed
from fastflow.core.plugins import import_function
from fastflow.latents.ends import leaving
from fastflow.latents.traversal import TraversalDirection
from fastflow.metrics.evaluation import check_evaluation
from fastflow.pictures.videos import check_video
from fastflow.report import write_edited, write_traversals
from fastflow.report.traversals import LatentsFormat
from fastflow.runs.loading import read_config
from fastflow.saved.edits import load_edit
from fastflow.saved.names import find_name, read_names, write_name


@dataclass(frozen=True)
class Traverse(RunCommand):
    """Draw the paths of a run's potentials as strips of images and animations, and save their latents."""

    out: str | None = None
    """Folder to write to, by default the folder traversals in FOLDER."""
    potential: tuple[str, ...] | None = None
    """Numbers or names of the potentials to draw, by default all."""
    starts: int = 6
    """Number of starting latents."""
    latents: str | None = None
    """File with starting latents (N, D): .npy, .npz or .safetensors. By default, the generator samples them."""
    images: tuple[str, ...] | None = None
    """Image files to start from, or folders of them. The generator's encoder or an optimization finds their latents."""
    steps: int | None = None
    """Number of steps in a path, by default as in the training."""
    direction: TraversalDirection | None = None
    """Direction of the paths: forward, descent, reverse or both.
    both joins the reverse flow before the start and the forward flow after it.
    The default is both, or forward if a path has a single step.
    For a VAE from train-vae it is forward too, as its starts are where the transformations begin."""
    even: Literal["yes", "no"] | None = None
    """Whether each step makes the same visible change: yes or no.
    With no, the steps are the flow's own, which an edit counts.
    The default is yes, but no for a VAE from train-vae, whose steps are those of the data's transformations."""
    hold: tuple[str, ...] = ()
    """Attributes that the paths leave as they are: names as in discover's --guide, or FILE.py:FUNCTION.
    Their gradients are taken out of every step. Such paths go forward, or by descent."""
    seed: int = 0
    """Random seed for the starting latents, or for inverting images by optimization."""
    mp4: bool = False
    """Write MP4 files as well; needs pip install 'fastflow[video]'."""
    latents_format: LatentsFormat = "safetensors"
    """Format of the file that the paths' latents are saved in."""
    overwrite: bool = False
    """Replace the traversals in OUT, if there are any."""

    def run(self) -> None:
        """Draw and save the paths, and print where they are."""
        if self.latents is not None and self.images is not None:
            raise InputError("--latents and --images exclude each other: give only one of them to start from")
        if self.mp4:
            check_video()  # before the work of inverting images
        run = self.load()
        names = {} if self.potential is None else run.names
        out = run.folder / "traversals" if self.out is None else Path(self.out)
        check_place(out)  # before that work too
        z0 = None if self.latents is None else read_latents(Path(self.latents), run)
        z0 = z0 if self.images is None else invert_images(run, self.images, self.seed)
        files = write_traversals(
            run,
            out,
            potentials=None if self.potential is None else [_numbered(k, run.folder, names) for k in self.potential],
            z0=z0,
            starts=self.starts,
            steps=self.steps,
            direction=self.direction,
            even=None if self.even is None else self.even == "yes",
            hold=self.hold,
            seed=self.seed,
            mp4=self.mp4,
            latents_format=self.latents_format,
            overwrite=self.overwrite,
        )
        print(printable(f"wrote {len(files)} files to {out}"))
        index = read_sealed(out / "index.json")
        for entry in index["potentials"]:
            words = leaving(entry["ends"], entry["start_column"], index["steps"] + 1)
            if words:
                print(f"potential {entry['index']} {words}")


def _numbered(potential: str, folder: Path, names: dict[int, str]) -> int:
    """The number of a potential of a run in a folder, given by its number or by its name, which is never a number."""
    number = re.fullmatch(r"-?[0-9]{1,9}", potential) is not None
    return int(potential) if number else find_name(folder, names, potential)


@dataclass(frozen=True)
class Apply:
    """Apply a saved edit to other latents or images."""

    edit: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="EDIT")]]
    """File of the edit, as edit.save writes it."""
    to: tuple[str, ...]
    """What to edit: a file of latents (N, D) in .npy, .npz or .safetensors; or image files, or folders of them.
    The generator's encoder or an optimization finds the images' latents."""
    out: str
    """Folder to write to."""
    folder: str | None = None
    """Folder of the run, needed if the run is no longer where the edit says."""
    retrained: bool = False
    """Apply the edit even if the run's potentials have changed since it was made, such as by more training."""
    generator: str | None = None
    """Generator that the run was trained on, such as FILE.py:FUNCTION. Needed if its recorded name can't find it."""
    latent_dim: int | None = None
    """Width of the latents, needed if FUNCTION or the archive of --generator maps latents to images itself."""
    trust: bool = False
    """Run the program that the edit's run names as its generator, if it is a FILE.py:FUNCTION or an archive.
    It can do all that you can do. Runs that you trained here yourself need no --trust."""
    latents_format: LatentsFormat = "safetensors"
    """Format of the file that the edited latents are saved in."""
    seed: int = 0
    """Random seed for inverting images by optimization."""
    overwrite: bool = False
    """Replace the edited images in OUT, if there are any."""

    def run(self) -> None:
        """Apply the edit, and print where the results are."""
        edit = load_edit(self.edit)
        if self.folder is None and not Path(edit.run.folder).is_dir():
            raise InputError(f"the edit's run {edit.run.folder!r} isn't there: say with --folder where it is")
        folder = edit.run.folder if self.folder is None else self.folder
        run = open_run(folder, self.generator, self.latent_dim, trust=self.trust)
        if self.retrained:
            edit = edit.on(run)
        edit.check(run)
        check_place(Path(self.out))  # before the work of inverting images
        files = [Path(file) for file in self.to]
        if any(file.suffix in LATENTS_SUFFIXES for file in files):
            if len(files) > 1:
                raise InputError(
                    f"--to must be one file of latents, or image files or folders of them, got {' '.join(self.to)}"
                )
            z0 = read_latents(files[0], run)
        else:
            z0 = invert_images(run, self.to, self.seed)
        written = write_edited(
            run, edit, z0, Path(self.out), latents_format=self.latents_format, overwrite=self.overwrite
        )  # fmt: skip
        print(printable(f"{edit}: wrote {len(written)} files to {self.out}"))


@dataclass(frozen=True)
class Evaluate(RunCommand):
    """Measure strength, distinctness, smoothness and physics of a run's potentials, and write evaluation.json."""

    samples: int = 4096
    """Number of image pairs. One half trains a new classifier, the other half tests it."""
    seed: int = 1
    """Random seed for the starting latents and the classifier."""
    predictor: str | None = None
    """FILE.py:FUNCTION, which predicts attributes (B,) or (B, A) of images (B, C, H, W) in [0, 1].
    The file attributes.json in FOLDER then tells how each attribute changes along each path."""
    attributes: tuple[str, ...] | None = None
    """Names of the attributes that --predictor predicts. By default, they are attribute 0, attribute 1 and so on."""

    def run(self) -> None:
        """Measure, and print a table."""
        if self.predictor is None and self.attributes is not None:
            raise InputError("--attributes are the names of what --predictor predicts: give both, or neither")
        predictor = None if self.predictor is None else import_function(self.predictor, "predictor")
        run = self.load()
        check_evaluation(run, self.samples, self.seed)  # before the work of measuring attributes
        attributes = None if predictor is None else run.correlate(predictor, self.attributes, seed=self.seed)
        result = run.evaluate(self.samples, self.seed)
        _print_summary(result)
        print("potentials, most distinct, smooth and strong first:")
        names = run.names
        for k in result["ranking"]["order"]:
            words = [names[k]] if k in names else []
            if attributes is not None:
                name, correlation = attributes.strongest(k)
                words.append(f"{name} {correlation:+.2f}")
            print(_potential_line(result, k, "  ".join(words)))


def _print_summary(result: dict[str, Any]) -> None:
    """Print what an evaluation found for all potentials together."""
    distinctness, residual = result["distinctness"], result["residual"]
    print(f"strength             {result['strength']['mean']:.4f} pixel change per step")
    print(f"distinctness         {distinctness['accuracy']:.4f} accuracy")
    print(f"  random directions  {distinctness['random_directions']['accuracy']:.4f} accuracy at equal strength")
    print(f"normalised residual  {residual['after']:.4f}, before training {residual['before']:.4f}")


def _potential_line(result: dict[str, Any], k: int, words: str) -> str:
    """A line with what an evaluation found for potential k, with words such as its name at the end."""
    smoothness = result["smoothness"]["per_potential"][k]
    smooth = "" if smoothness is None else f"smoothness {smoothness:.3f}  "
    return (
        f"  {k:3d}  score {result['ranking']['scores'][k]:.3f}  strength {result['strength']['per_potential'][k]:.4f}  "
        f"accuracy {result['distinctness']['per_potential'][k]:.3f}  {smooth}{words}"
    ).rstrip()


@dataclass(frozen=True)
class Name:
    """Give a potential of a run a name, or show the names that there are."""

    folder: RunFolder
    """Folder of the run."""
    potential: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[POTENTIAL]")]] = None
    """Number of the potential, or the name that it has. Without it, all names are shown."""
    name: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[NAME]")]] = None
    """Name for the potential, such as rotation."""
    remove: bool = False
    """Remove the potential's name."""

    def run(self) -> None:
        """Give or remove a name, and print all names."""
        if (self.potential is not None) != (self.name is not None or self.remove) or (self.name and self.remove):
            raise InputError("give a potential and its name, a potential and --remove, or neither to see all names")
        folder = Path(self.folder)
        count = read_config(folder).num_potentials
        if self.potential is not None:
            write_name(folder, count, _numbered(self.potential, folder, read_names(folder, count)), self.name)
        names = read_names(folder, count)
        print("".join(f"{k:3d}  {name}\n" for k, name in names.items()) or "no potential has a name\n", end="")


@dataclass(frozen=True)
class Report(RunCommand):
    """Write a run's page, report.html. Measurements and pictures that are missing or out of date are made first."""

    samples: int = 4096
    """Number of image pairs for the evaluation, if there is none yet."""

    def run(self) -> None:
        """Write the page, and print where it is."""
        print(printable(f"look at {self.load().report(self.samples)}"))


@dataclass(frozen=True)
class Serve(RunCommand):
    """Serve a web page that explores a run: drag images along its potentials, and mix, chain, name and save them."""

    host: str = HOST
    """Address to listen on. At any but this machine's own, 127.0.0.1, others who have the token can open the page."""
    port: int = PORT
    """Port to listen on; 0 takes any free one."""
    token: str | None = None
    """Token that visitors need. By default, it is random; at this machine's own address, none is needed."""
    allowed_hosts: tuple[str, ...] = ()
    """Other host names under which browsers may open the page, such as the name of a proxy in front of it."""

    def run(self) -> None:
        """Serve the page until interrupted."""
        named = ", ".join(repr(word) for word in (self.generator, self.latent_dim) if word is not None)
        generator = f"ff.generators.load({named})" if named else "trust=True" if self.trust else None
        serve(
            self.load(),
            self.host,
            self.port,
            generator=generator,
            token=self.token,
            allowed_hosts=self.allowed_hosts,
        )
