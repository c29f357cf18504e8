"""A potential's landscape as the page shows it: its picture, its times and its caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from fastflow.report.landscape_svg import landscape_svg
from fastflow.report.number_formats import short
from fastflow.report.run_files import RunFiles, at, number, whole


@dataclass
class Landscape:
    """A landscape: its frames as SVG, and the time of each."""

    svg: Markup
    times: list[str]
    still: int
    """The frame that is shown where nothing may move: the one at the path's start."""
    caption: str


def landscapes(run: RunFiles) -> dict[int, Mapping[str, Any]]:
    """A run's landscapes by potential, without those that are damaged."""
    listed = at(run.landscapes, "potentials")
    found = {whole(entry, "index"): entry for entry in listed} if isinstance(listed, list) else {}
    return {index: entry for index, entry in found.items() if index is not None and _is_sound(entry)}


def draw_landscape(data: Mapping[str, Any], potential: int, start: int) -> Landscape:
    """Draw the landscape of a potential, whose path has its start at column `start`."""
    columns = data["columns"]
    still = min(range(len(columns)), key=lambda frame: abs(columns[frame] - start))
    low, high = (short(float(bound(data["values"]))) for bound in (np.min, np.max))
    share, side = number(data, "share") or 0.0, number(data, "side") or 0.0
    caption = (
        f"u between {low} and {high}. The plane holds {100 * share:.4g}% of the path’s "
        f"extent; the square is {short(2 * side)} wide in the latent space."
    )
    svg = landscape_svg(
        data,
        still=still,
        key=f"landscape-{potential}",
        title=f"Landscape of potential {potential}",
        description=f"Lines of equal u, between {low} and {high}, and arrows along its gradient, on the plane of the "
        "first image's path, which leads from the left to the right.",
    )
    return Landscape(Markup(svg), [f"{time:.3g}" for time in data["times"]], still, caption)


def _is_sound(entry: object) -> bool:
    """Whether an entry of landscapes.json can be drawn."""
    if not isinstance(entry, dict):
        return False
    try:
        values, gradients, path, times = (np.asarray(entry[key]) for key in ("values", "gradients", "path", "times"))
        columns = np.asarray(entry["columns"])
    except (KeyError, TypeError, ValueError):
        return False
    frames = len(times)
    return (
        0 < frames <= 64
        and all(
            array.dtype.kind in "if" for array in (values, gradients, path, times)
        )  # digits in quotes would be text
        and all(np.isfinite(array).all() for array in (values, gradients, path, times))
        and values.ndim == 3
        and values.shape[0] == frames
        and values.shape[1] == values.shape[2] >= 2
        and gradients.ndim == 4
        and gradients.shape == (frames, gradients.shape[1], gradients.shape[1], 2)
        and gradients.shape[1] >= 2
        and path.ndim == 2
        and path.shape[1] == 2
        and columns.dtype.kind == "i"
        and columns.shape == (frames,)
        and bool(((columns >= 0) & (columns < len(path))).all())
    )
