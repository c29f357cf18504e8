"""A run's traversals as files: a strip and an animation per potential, and the latents they show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fastflow.errors import ConvergenceError, InputError
from fastflow.files import replacing_folder, write_json, write_tensors
from fastflow.report.strips import save_gif, save_strip
from fastflow.traversal import Traversal, TraversalDirection

if TYPE_CHECKING:
    from fastflow.runs import Run


def write_traversals(
    run: Run,
    folder: Path,
    *,
    potentials: Sequence[int] | None = None,
    z0: Tensor | None = None,
    starts: int = 6,
    steps: int | None = None,
    direction: TraversalDirection | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> list[Path]:
    """Write potential-NN.png, potential-NN.gif, latents.safetensors and index.json to `folder`, all or nothing.

    A potential whose flow can't be undone from these starts is drawn forward only where `direction` is "both", as it is
    if None on paths of two steps or more; index.json has each potential's direction and the column of its starts.

    Args:
        potentials: which; all if None.
        z0: starting latents (N, D); `starts` of the generator's own if None.
        steps: of a path; the training's if None.
        overwrite: replace the traversals that the folder holds.

    Returns:
        The files.

    Raises:
        InputError: no such potential, bad latents, or a folder that holds something else.
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
    target = folder.resolve()
    if (run.folder / "checkpoints").resolve() in (target, *target.parents):
        raise InputError(f"{str(folder)!r} lies among the run's checkpoints: choose another folder")
    if folder.exists():
        if not folder.is_dir() or not all(_is_ours(file.name) for file in folder.iterdir()):
            raise InputError(f"{str(folder)!r} isn't a folder of traversals: choose a new one")
        if not overwrite and any(folder.iterdir()):
            raise InputError(f"{str(folder)!r} holds traversals already: overwrite them, or choose another folder")
    z0 = run.generator.starts(starts, seed) if z0 is None else z0
    steps = run.config.path_steps if steps is None else steps
    if direction is None:  # a path of one step has no half for each way
        direction = "both" if steps > 1 else "forward"
    entries, latents = [], {}
    with replacing_folder(folder) as temporary:
        for k in chosen:
            traversal, way = _traverse(run, z0, k, steps, direction)
            name = f"potential-{k:02d}"
            images = traversal.images.cpu()
            save_strip(images, temporary / f"{name}.png", start=traversal.start, value_range=run.generator.value_range)
            save_gif(images, temporary / f"{name}.gif", value_range=run.generator.value_range)
            latents[name] = traversal.latents
            entries.append(
                {
                    "index": k,
                    "strip": f"{name}.png",
                    "animation": f"{name}.gif",
                    "direction": way,
                    "start_column": traversal.start,
                }
            )
        write_tensors(temporary / "latents.safetensors", latents)
        index = {
            "potentials": entries,
            "start_column": max(entry["start_column"] for entry in entries),
            "starts": len(z0),
            "steps": steps,
            "direction": direction,
            "seed": seed,
            "training_steps": run.step,
        }
        write_json(temporary / "index.json", index)
    return sorted(folder.iterdir())


def _traverse(
    run: Run, z0: Tensor, potential: int, steps: int, direction: TraversalDirection
) -> tuple[Traversal, TraversalDirection]:
    """A traversal and the direction it has: forward in place of both ways where the flow can't be undone."""
    try:
        return run.traverse(z0, potential, steps, direction), direction
    except ConvergenceError:
        if direction != "both":
            raise
        return run.traverse(z0, potential, steps, "forward"), "forward"


def _is_ours(name: str) -> bool:
    return name in ("index.json", "latents.safetensors") or re.fullmatch(r"potential-\d+\.(png|gif)", name) is not None
