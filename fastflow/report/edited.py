"""The images and latents that an edit leads to, as files."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from torch import Tensor

from fastflow.core.files import replacing_folder, write_sealed
from fastflow.latents.inversion import Inversion
from fastflow.pictures.strips import save_gif, save_strip
from fastflow.report.traversals import LatentsFormat, check_target, save_inversion, write_latents
from fastflow.saved.edits import Edit
from fastflow.saved.run import SavedRun

_FILES = re.compile(
    r"edit\.json|index\.json|(strip|inverted)\.png|animation\.gif|edited-\d+\.png|latents\.(safetensors|npz)"
)


def write_edited(
    run: SavedRun,
    edit: Edit,
    z0: Tensor | Inversion,
    folder: Path,
    *,
    latents_format: LatentsFormat = "safetensors",
    overwrite: bool = False,
) -> list[Path]:
    """Apply an edit to latents, or to images whose latents were found, and write the results: all of the files or none.

    The files are:

    - edited-NN.png: the image that each start becomes.
    - strip.png and animation.gif: the images on the way there.
    - latents.safetensors: "start" (N, D), "edited" (N, D) and "path" (N, T + 1, D).
    - inverted.png: images that were given, above those that their latents are decoded to.
    - edit.json and index.json: the edit, and what it was applied to.

    Args:
        run: the run whose potentials the edit follows.
        edit: the edit.
        z0: latents (N, D), or images as `ff.invert` found their latents.
        folder: where the files go.
        latents_format: the format of the latents' file, "safetensors" or NumPy's "npz".
        overwrite: replace the edited images that the folder holds.

    Returns:
        The files.

    Raises:
        InputError: the edit or the latents don't fit the run, or the folder holds something else.
        ConvergenceError: a negative part of the edit can't be undone from these latents.
    """
    check_target(folder, run, _FILES, "edited images", overwrite)
    latents = z0.latents if isinstance(z0, Inversion) else z0
    applied = edit.apply(run, latents)
    images, value_range = run.generator.drawn(applied.images).cpu(), run.generator.value_range
    with replacing_folder(folder) as temporary:
        save_strip(images, temporary / "strip.png", start=0, ends=applied.ends, value_range=value_range)
        save_gif(images, temporary / "animation.gif", value_range=value_range)
        for number, pixels in enumerate(run.generator.eight_bit(images[:, -1]).mul(255).byte().permute(0, 2, 3, 1)):
            grey = pixels.shape[-1] == 1
            Image.fromarray((pixels[..., 0] if grey else pixels).numpy()).save(temporary / f"edited-{number:02d}.png")
        written = {"start": applied.latents[:, 0], "edited": applied.latents[:, -1], "path": applied.latents}
        write_latents(temporary / f"latents.{latents_format}", written)
        edit.save(temporary / "edit.json")
        index = {
            "edit": str(edit),
            "starts": len(latents),
            "steps": applied.latents.shape[1] - 1,
            "weights": run.weights,
        }
        if isinstance(z0, Inversion):
            save_inversion(z0, run, temporary / "inverted.png")
            index["images"] = z0.summary()
        write_sealed(temporary / "index.json", index)
    return sorted(folder.iterdir())
