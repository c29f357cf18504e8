"""A run's traversals as files: a strip and an animation of each potential, a grid of all, and their latents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from fastflow.core.checks import check_seed
from fastflow.core.errors import ConvergenceError, InputError
from fastflow.core.files import check_place, left_by_system, replacing_folder, write_sealed, write_tensors
from fastflow.core.leftovers import remove_leftovers
from fastflow.core.plugins import name_of
from fastflow.latents.inversion import Inversion
from fastflow.latents.predictors import Predictor
from fastflow.latents.traversal import Traversal, TraversalDirection, decoded
from fastflow.pictures.grids import save_grid
from fastflow.pictures.strips import save_gif, save_strip
from fastflow.pictures.videos import check_video, save_mp4
from fastflow.report.landscapes import landscape
from fastflow.saved.run import SavedRun

LatentsFormat = Literal["safetensors", "npz"]

_FILES = re.compile(
    r"(index|landscapes)\.json|(grid|inverted)\.png|latents\.(safetensors|npz)|potential-\d+\.(png|gif|mp4)"
)


def write_traversals(
    run: SavedRun,
    folder: Path,
    *,
    potentials: Sequence[int] | None = None,
    z0: Tensor | Inversion | None = None,
    starts: int = 6,
    steps: int | None = None,
    direction: TraversalDirection | None = None,
    even: bool | None = None,
    hold: Sequence[str | Predictor] = (),
    seed: int = 0,
    mp4: bool = False,
    latents_format: LatentsFormat = "safetensors",
    overwrite: bool = False,
) -> list[Path]:
    """Write a run's traversals to a folder, all of the files or none.

    The files are:

    - potential-NN.png and potential-NN.gif: a strip and an animation of each potential.
    - grid.png: from each start, the images to which each potential leads.
    - latents.safetensors: the latents (N, T + 1, D) of each potential.
    - landscapes.json: the potentials around their paths from the first start.
    - inverted.png: images that were given, above those that their latents are decoded to.
    - index.json: each potential's files, direction, the column of its starts, whether its steps are even, and the first
      and last column of each path that is still among the data.

    With direction "both", a potential whose flow can't be undone from these starts is drawn forward only.

    Args:
        run: the run.
        folder: where the files go.
        potentials: the potentials' numbers; all if None.
        z0: starting latents (N, D), or images as `ff.invert` found their latents; if None, `starts` latents of the
            generator's own.
        starts: how many of the generator's own starts to take.
        steps: the steps of each path; those of the training if None.
        direction: the direction of the paths; if None, the run's `usual_direction` for two steps or more, and otherwise
            "forward".
        even: whether each step makes the same visible change; the run's usual way if None. See `run.traverse`.
        hold: attributes that paths leave as they are, as for `run.traverse`; if `direction` is None, paths go forward
            then.
        seed: the seed of the generator's own starts.
        mp4: also write potential-NN.mp4.
        latents_format: the format of the latents' file, "safetensors" or NumPy's "npz".
        overwrite: replace the traversals that the folder holds.

    Returns:
        The files.

    Raises:
        InputError: there is no such potential or format, the latents can't be used, the folder holds something else, or
            the package that encodes videos is missing.
        ConvergenceError: `direction` is "reverse", and a potential's flow can't be undone.
    """
    chosen = _choose_potentials(run, potentials)
    if starts < 1:
        raise InputError(f"starts must be at least 1, got {starts}")
    check_seed(seed)
    check_target(folder, run, _FILES, "traversals", overwrite)
    if folder.resolve().parent == run.folder.resolve():
        remove_leftovers(run.folder)
    if latents_format not in get_args(LatentsFormat):
        raise InputError(f"latents_format must be one of {', '.join(get_args(LatentsFormat))}, got {latents_format!r}")
    if mp4:
        check_video()
    inversion = z0 if isinstance(z0, Inversion) else None
    z0 = run.generator.starts(starts, seed) if z0 is None else z0
    z0 = z0.latents if isinstance(z0, Inversion) else z0
    steps = run.config.path_steps if steps is None else steps
    if direction is None:  # a path of one step can't be split into two directions
        direction = run.usual_direction if steps > 1 and not hold else "forward"
    columns = [-(steps // 2), 0, steps - steps // 2] if direction == "both" else [0, steps]
    way = _Way(even, hold)
    with replacing_folder(folder) as temporary:
        written = [
            _write_potential(run, z0, k, steps, direction, way, columns=columns, folder=temporary, mp4=mp4)
            for k in chosen
        ]
        save_grid(
            torch.stack([one.grid_images for one in written]),
            temporary / "grid.png",
            rows=[_label(one.entry, run.names, direction) for one in written],
            columns=["start" if step == 0 else f"{step:+d}" for step in columns],
            value_range=run.generator.value_range,
        )
        latents = {Path(one.entry["strip"]).stem: one.latents for one in written}
        write_latents(temporary / f"latents.{latents_format}", latents)
        landscapes = {"potentials": [one.landscape for one in written]}
        (temporary / "landscapes.json").write_text(json.dumps(landscapes), encoding="utf-8")
        index = {
            "potentials": [one.entry for one in written],
            "start_column": max(one.entry["start_column"] for one in written),
            "starts": len(z0),
            "steps": steps,
            "direction": direction,
            "held": [item if isinstance(item, str) else name_of(item) for item in hold],
            "seed": seed,
            "training_steps": run.step,
            "weights": run.weights,
        }
        if inversion is not None:
            save_inversion(inversion, run, temporary / "inverted.png")
            index["images"] = inversion.summary()
        write_sealed(temporary / "index.json", index)
    return sorted(folder.iterdir())


def _choose_potentials(run: SavedRun, potentials: Sequence[int] | None) -> Sequence[int]:
    """The numbers of these potentials, or of all; raise InputError unless the run has them."""
    count = run.bank.num_potentials
    chosen = range(count) if potentials is None else potentials
    if not chosen or not all(0 <= k < count for k in chosen):
        raise InputError(
            f"potential must be one or more of 0..{count - 1}, got {', '.join(map(str, chosen)) or 'none'}"
        )
    return chosen


class _Way(NamedTuple):
    """How a run is traversed, as `run.traverse` takes it."""

    even: bool | None
    hold: Sequence[str | Predictor]


class _Written(NamedTuple):
    """One potential's traversal, whose strip and animation are written."""

    entry: dict[str, Any]
    """Its entry in index.json."""
    latents: Tensor
    """(N, T + 1, D)"""
    grid_images: Tensor
    """The images (N, P, C, H, W) that the grid shows."""
    landscape: dict[str, Any]


def _write_potential(
    run: SavedRun,
    z0: Tensor,
    potential: int,
    steps: int,
    direction: TraversalDirection,
    way: _Way,
    *,
    columns: list[int],
    folder: Path,
    mp4: bool,
) -> _Written:
    """Traverse along a potential, and write its strip and its animation.

    Args:
        run: the run.
        z0: the starting latents (N, D).
        potential: the potential's number.
        steps: the steps of the path.
        direction: the direction of the path.
        way: how to go.
        columns: the steps from the start that the grid shows.
        folder: where the files go.
        mp4: whether to write a video as well.
    """
    traversal, gone = _traverse(run, z0, potential, steps, direction, way)
    name, value_range = f"potential-{potential:02d}", run.generator.value_range
    images = run.generator.drawn(traversal.images).cpu()
    save_strip(images, folder / f"{name}.png", start=traversal.start, ends=traversal.ends, value_range=value_range)
    save_gif(images, folder / f"{name}.gif", value_range=value_range)
    if mp4:
        save_mp4(images, folder / f"{name}.mp4", value_range=value_range)
    assert traversal.ends is not None  # as a run always has them
    path = traversal.latents[0]
    if traversal.places is not None:  # a landscape has the flow's own times
        path = run.traverse(z0[:1], potential, steps, gone, even=False, hold=way.hold).latents[0]
    entry = {
        "index": potential,
        "strip": f"{name}.png",
        "animation": f"{name}.gif",
        "direction": gone,
        "start_column": traversal.start,
        "even": traversal.places is not None,
        "ends": traversal.ends.tolist(),
    }
    return _Written(
        entry=entry,
        latents=traversal.latents,
        # A path that only goes forward shows its start where others show what leads there.
        grid_images=images[:, [max(0, traversal.start + step) for step in columns]],
        landscape=landscape(run, path.flip(0) if gone == "reverse" else path, potential),
    )


def _traverse(
    run: SavedRun, z0: Tensor, potential: int, steps: int, direction: TraversalDirection, way: _Way
) -> tuple[Traversal, TraversalDirection]:
    """A traversal and its direction, which is "forward" instead of "both" where the flow can't be undone."""
    try:
        return run.traverse(z0, potential, steps, direction, **way._asdict()), direction
    except ConvergenceError:
        if direction != "both":
            raise
        return run.traverse(z0, potential, steps, "forward", **way._asdict()), "forward"


def _label(entry: dict[str, Any], names: Mapping[int, str], direction: TraversalDirection) -> str:
    """The label of a potential's row in the grid."""
    words = [str(entry["index"]), names.get(entry["index"], "")]
    words += ["" if entry["direction"] == direction else "forward only"]
    return " ".join(word for word in words if word)


def save_inversion(inversion: Inversion, run: SavedRun, file: Path) -> None:
    """Save a picture of images above those that their latents are decoded to."""
    inverted = run.generator.scaled(decoded(run.generator, inversion.latents[:, None]))
    images = run.generator.pictured(torch.stack((inversion.images[:, None], inverted))).cpu()  # (2, N, 1, C, H, W)
    save_grid(images, file, rows=["image", "inverted"], columns=[""], value_range=(0.0, 1.0))


def write_latents(file: Path, latents: dict[str, Tensor]) -> None:
    """Write latents to a .safetensors or .npz file."""
    if file.suffix == ".safetensors":
        write_tensors(file, latents)
    else:
        with file.open("wb") as stream:
            arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in latents.items()}
            np.savez(stream, **arrays)


def check_target(folder: Path, run: SavedRun, ours: re.Pattern[str], what: str, overwrite: bool) -> None:
    """Raise InputError unless a folder can be written: it is missing or empty, or holds only files of ours.

    Args:
        folder: the folder.
        run: the run, among whose checkpoints the folder must not lie.
        ours: the names of files that may be replaced.
        what: what these files are, in words.
        overwrite: whether they may be replaced.
    """
    target = folder.resolve()
    if (run.folder / "checkpoints").resolve() in (target, *target.parents):
        raise InputError(f"{str(folder)!r} lies among the run's checkpoints: choose another folder")
    check_place(folder)
    if not folder.exists():
        return
    if not folder.is_dir() or not all(ours.fullmatch(f.name) or left_by_system(f) for f in folder.iterdir()):
        raise InputError(f"{str(folder)!r} isn't a folder of {what}: choose a new one")
    if not overwrite and not all(map(left_by_system, folder.iterdir())):
        raise InputError(f"{str(folder)!r} holds {what} already: overwrite them, or choose another folder")
