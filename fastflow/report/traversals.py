"""A run's traversals as files: a strip and an animation per potential, a grid of all, and the latents they show."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fastflow.core.checks import check_seed
from fastflow.core.errors import ConvergenceError, InputError
from fastflow.core.files import replacing_folder, write_json, write_tensors
from fastflow.latents.inversion import Inversion
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
    seed: int = 0,
    mp4: bool = False,
    latents_format: LatentsFormat = "safetensors",
    overwrite: bool = False,
) -> list[Path]:
    """Write a run's traversals to `folder`, all or nothing.

    They are potential-NN.png, a strip, and potential-NN.gif for each potential; grid.png, where each potential leads
    from each start; latents.safetensors, the latents (N, T + 1, D) by potential; landscapes.json, the potentials
    around the first start's paths; inverted.png, images that were given, and what their latents are decoded to; and
    index.json.

    A potential whose flow can't be undone from these starts is drawn forward only where `direction` is "both", as it is
    if None on paths of two steps or more; index.json has each potential's direction and the column of its starts.

    Args:
        potentials: which; all if None.
        z0: starting latents (N, D), or images as `ff.invert` found their latents; `starts` of the generator's own if
            None.
        steps: of a path; the training's if None.
        mp4: write potential-NN.mp4, too.
        latents_format: the latents' file, "safetensors" or NumPy's "npz".
        overwrite: replace the traversals that the folder holds.

    Returns:
        The files.

    Raises:
        InputError: no such potential or format, bad latents, a folder that holds something else, or the package that
            encodes videos is missing.
        ConvergenceError: `direction` is "reverse", and a potential's flow can't be undone.
    """
    count = run.bank.num_potentials
    chosen = range(count) if potentials is None else potentials
    if not chosen or not all(0 <= k < count for k in chosen):
        raise InputError(
            f"potential must be one or more of 0..{count - 1}, got {', '.join(map(str, chosen)) or 'none'}"
        )
    if starts < 1:
        raise InputError(f"starts must be at least 1, got {starts}")
    check_seed(seed)
    check_target(folder, run, _FILES, "traversals", overwrite)
    if latents_format not in get_args(LatentsFormat):
        raise InputError(f"latents_format must be one of {', '.join(get_args(LatentsFormat))}, got {latents_format!r}")
    if mp4:
        check_video()
    inversion = z0 if isinstance(z0, Inversion) else None
    z0 = run.generator.starts(starts, seed) if z0 is None else z0
    z0 = z0.latents if isinstance(z0, Inversion) else z0
    steps = run.config.path_steps if steps is None else steps
    if direction is None:  # a path of one step has no half for each way
        direction = "both" if steps > 1 else "forward"
    shown = [-(steps // 2), 0, steps - steps // 2] if direction == "both" else [0, steps]
    entries, latents, ends, landscapes = [], {}, [], []
    names, value_range = run.names, run.generator.value_range
    with replacing_folder(folder) as temporary:
        for k in chosen:
            traversal, way = _traverse(run, z0, k, steps, direction)
            name = f"potential-{k:02d}"
            images = traversal.images.cpu()
            save_strip(images, temporary / f"{name}.png", start=traversal.start, value_range=value_range)
            save_gif(images, temporary / f"{name}.gif", value_range=value_range)
            if mp4:
                save_mp4(images, temporary / f"{name}.mp4", value_range=value_range)
            latents[name] = traversal.latents
            first = traversal.latents[0]
            landscapes.append(landscape(run, first.flip(0) if way == "reverse" else first, k))
            # A path that only goes forward stays at its start where the others come from.
            ends.append(images[:, [max(0, traversal.start + step) for step in shown]])
            entries.append(
                {
                    "index": k,
                    "strip": f"{name}.png",
                    "animation": f"{name}.gif",
                    "direction": way,
                    "start_column": traversal.start,
                }
            )
        save_grid(
            torch.stack(ends),
            temporary / "grid.png",
            rows=[_label(entry, names, direction) for entry in entries],
            columns=["start" if step == 0 else f"{step:+d}" for step in shown],
            value_range=value_range,
        )
        write_latents(temporary / f"latents.{latents_format}", latents)
        (temporary / "landscapes.json").write_text(json.dumps({"potentials": landscapes}), encoding="utf-8")
        index = {
            "potentials": entries,
            "start_column": max(entry["start_column"] for entry in entries),
            "starts": len(z0),
            "steps": steps,
            "direction": direction,
            "seed": seed,
            "training_steps": run.step,
        }
        if inversion is not None:
            save_inversion(inversion, run, temporary / "inverted.png")
            index["images"] = inversion.summary()
        write_json(temporary / "index.json", index)
    return sorted(folder.iterdir())


def _traverse(
    run: SavedRun, z0: Tensor, potential: int, steps: int, direction: TraversalDirection
) -> tuple[Traversal, TraversalDirection]:
    """A traversal and the direction it has: forward in place of both ways where the flow can't be undone."""
    try:
        return run.traverse(z0, potential, steps, direction), direction
    except ConvergenceError:
        if direction != "both":
            raise
        return run.traverse(z0, potential, steps, "forward"), "forward"


def _label(entry: dict[str, Any], names: Mapping[int, str], direction: TraversalDirection) -> str:
    """A grid's label of a potential."""
    words = [str(entry["index"]), names.get(entry["index"], "")]
    words += ["" if entry["direction"] == direction else "forward only"]
    return " ".join(word for word in words if word)


def save_inversion(inversion: Inversion, run: SavedRun, file: Path) -> None:
    """Save images above what their latents are decoded to."""
    drawn = run.generator.scaled(decoded(run.generator, inversion.latents[:, None]))
    images = torch.stack((inversion.images[:, None], drawn)).cpu()  # (2, N, 1, C, H, W)
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
    """Raise InputError unless a folder can be written: it isn't there, is empty, or holds nothing but our files.

    Args:
        run: among whose checkpoints it must not lie.
        ours: the names of such files. what: what they are. overwrite: whether they may be replaced.
    """
    target = folder.resolve()
    if (run.folder / "checkpoints").resolve() in (target, *target.parents):
        raise InputError(f"{str(folder)!r} lies among the run's checkpoints: choose another folder")
    if not folder.exists():
        return
    if not folder.is_dir() or not all(ours.fullmatch(file.name) for file in folder.iterdir()):
        raise InputError(f"{str(folder)!r} isn't a folder of {what}: choose a new one")
    if not overwrite and any(folder.iterdir()):
        raise InputError(f"{str(folder)!r} holds {what} already: overwrite them, or choose another folder")
