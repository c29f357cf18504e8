"""Files of what the page shows: images, latents, an edit, and the lines of Python that make it again."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from fastflow.app.scenes import Scene, Start, picture
from fastflow.core.files import replacing, write_tensors
from fastflow.report import save_gif, save_strip
from fastflow.runs.run import Run
from fastflow.saved.edits import Edit

_LEAST_SIZE = 256  # pixels of a saved image's longer side, to which smaller images are enlarged


def python_lines(run: Run, generator: str | None, start: Start, edit: Edit | None) -> str:
    """The lines of Python that make what an edit of a start leads to, or the start itself.

    Args:
        run: the run.
        generator: a further argument of `ff.load_run`, in Python; see `fastflow.app.explorer.Explorer`.
        start: the start.
        edit: the edit; None for the start itself.
    """
    code = 'load_file("latents.safetensors")["start"]' if start.code is None else start.code
    labels = "" if start.label is None else f", labels=torch.tensor([{start.label}])"
    # The lines of any edit begin by loading the run.
    lines = (run.edit(0, 1) if edit is None else edit).python_lines(code)
    if generator is not None:
        lines[2] = f"run = ff.load_run({str(run.folder.resolve())!r}, {generator})"
    if edit is None:
        lines = [*lines[:4], f"image = run.generator.decode(z0{labels})"]
    else:
        lines = [*lines[:-1], f"path = edit.apply(run, z0{labels})", "image = path.images[:, -1]"]
    if start.code is None:
        lines.insert(1, "from safetensors.torch import load_file")
    if start.label is not None:
        lines.insert(0, "import torch")
    return "\n".join(lines) + "\n"


def write_scene(scene: Scene, step: int, edit: Edit | None, lines: str, folder: Path) -> list[Path]:
    """Write what a scene shows at a step to a folder, and return the files; see `Explorer.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    images = torch.stack([film.images for film in scene.films]).cpu()
    column = scene.film.middle + step
    files = [folder / name for name in ("image.png", "latents.safetensors", "edit.py")]
    with replacing(files[0]) as temporary:
        _enlarged(picture(scene.film.images[column])).save(temporary, "PNG")
    tensors = {
        "start": scene.start.z,
        "path": scene.film.latents,
        "shown": scene.film.latents[column : column + 1],
    }
    write_tensors(files[1], tensors)
    files[2].write_text(lines, encoding="utf-8")
    strip, ends = folder / "strip.png", [film.ends for film in scene.films]
    files.append(save_strip(images, strip, start=scene.film.middle, ends=ends, value_range=(0, 1)))
    files.append(save_gif(images, folder / "path.gif", value_range=(0, 1)))
    if edit is not None:
        files.append(edit.save(folder / "edit.json"))
    return sorted(files)


def _enlarged(shown: Image.Image) -> Image.Image:
    """A small image with whole squares for its pixels, as the page shows it."""
    factor = max(1, -(-_LEAST_SIZE // max(shown.size)))
    return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
