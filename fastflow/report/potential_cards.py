"""Each potential as the page shows it: its strip, animation and landscape, its numbers, name and attributes."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from fastflow.core.errors import InputError
from fastflow.core.files import as_argument, read_up_to
from fastflow.latents.ends import leaving
from fastflow.report import potential_numbers
from fastflow.report.landscape_cards import Landscape, draw_landscape, landscapes
from fastflow.report.rendering import LARGEST_PICTURE, data_uri, picture_size
from fastflow.report.run_files import RunFiles, at, numbers, whole

_MOST_ATTRIBUTES = 8  # attributes that a card lists at most


@dataclass
class Picture:
    """A picture that is embedded in the page."""

    uri: str
    width: int
    height: int


@dataclass
class PotentialCard:
    """What the page shows of one potential."""

    index: int
    measured: list[potential_numbers.Measured]
    name: str = ""
    suggested: str = ""
    """A name that its attributes suggest."""
    naming: str = ""
    """The command that gives it the suggested name, if it has no name."""
    attribute: str = ""
    """The attribute that changes most steadily, in words."""
    attributes: list[potential_numbers.Attribute] = field(default_factory=list)
    strip: Picture | None = None
    animation: Picture | None = None
    still: Picture | None = None
    """The frame of the animation that is shown where nothing may move."""
    landscape: Landscape | None = None
    alt: str = ""
    """A description of the strip."""
    start: int = 0
    """The strip's column with the starting images."""
    even: bool = False
    """Whether each step of the strip makes the same visible change."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what is missing."""


def potential_cards(run: RunFiles) -> list[PotentialCard]:
    """A card for each potential of a run."""
    cards = [_numbers_card(run, index) for index in range(potential_numbers.potential_count(run))]
    listed = at(run.traversals, "potentials")
    entries = {whole(entry, "index"): entry for entry in listed} if isinstance(listed, list) else {}
    sound = landscapes(run)
    for card in cards:
        entry = entries.get(card.index)
        if entry is not None:
            _add_pictures(card, run, entry, sound.get(card.index))
        elif run.traversals is not None:
            card.notes.append("traversals/index.json lists no pictures for this potential.")
    return cards


def _numbers_card(run: RunFiles, index: int) -> PotentialCard:
    """A potential's card with its numbers, name and attributes, and no pictures yet."""
    card = PotentialCard(
        index,
        potential_numbers.measured(run, index) if run.evaluation is not None else [],
        name=potential_numbers.given_name(run, index),
        suggested=potential_numbers.suggested_name(run, index),
        attribute=potential_numbers.strongest_attribute(run, index),
        attributes=potential_numbers.attributes(run, index)[:_MOST_ATTRIBUTES],
    )
    if card.suggested and not card.name:
        folder = as_argument(run.folder.resolve().name)
        card.naming = shlex.join(["fastflow", "name", folder, str(index), card.suggested])
    return card


def _add_pictures(
    card: PotentialCard, run: RunFiles, entry: Mapping[str, Any], landscape: Mapping[str, Any] | None
) -> None:
    """Add the pictures that an entry of traversals/index.json names, and a landscape, to a potential's card."""
    card.strip = _picture(run, at(entry, "strip"), "PNG", card.notes)
    card.animation = _picture(run, at(entry, "animation"), "GIF", card.notes)
    start = whole({"start_column": at(run.traversals, "start_column"), **entry}, "start_column")
    card.start = start or 0
    card.even = at(entry, "even") is True
    if landscape is not None:
        card.landscape = draw_landscape(landscape, card.index, card.start)
    if card.animation is not None:
        card.still = _still(card.animation, card.start)
    steps, starts = (whole(run.traversals, key) for key in ("steps", "starts"))
    rows = "starting images" if starts is None else f"{starts} starting images"
    card.alt = f"{rows} in rows, carried along potential {card.index} in columns"
    if start is not None and steps is not None:
        card.alt += f" from step {-start} to step {steps - start}; the starting images are marked"
    ends = _ends(entry)
    if ends and start is not None and steps is not None:
        words = leaving(ends, start, steps + 1)
        card.notes += [f"This potential {words}; what comes after that is dimmed."] if words else []
    if at(run.traversals, "direction") == "both" and at(entry, "direction") == "forward":
        card.notes.append(
            "This potential bends too sharply for its flow to be run backwards from these starts, so its strip "
            "shows the way forward only."
        )


def _ends(entry: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The ends of each path in an entry of traversals/index.json; none if they aren't there, or damaged."""
    listed = at(entry, "ends")
    rows = [numbers({"": pair}, "") for pair in listed] if isinstance(listed, list) else []
    if not all(len(row) == 2 and all(n is not None and n.is_integer() for n in row) for row in rows):
        return []
    return [(int(first or 0), int(last or 0)) for first, last in rows]


def _picture(run: RunFiles, name: object, kind: str, notes: list[str]) -> Picture | None:
    """A picture of the run, or None and a note. Only plain names count: the index must not reach outside its folder."""
    if not (isinstance(name, str) and name.isprintable() and Path(name).name == name) or name in ("", "..", "."):
        notes.append(f"traversals/index.json names no {kind} file for this potential.")
        return None
    try:
        data = read_up_to(run.folder / "traversals" / name, LARGEST_PICTURE)
    except FileNotFoundError:
        notes.append(f"traversals/{name} is missing.")
    except OSError as error:
        notes.append(f"traversals/{name} cannot be read ({error.strerror or error}).")
    except InputError:
        notes.append(f"traversals/{name} is too large to be shown.")
    else:
        try:
            return Picture(data_uri(data, kind), *picture_size(data, kind))
        except InputError as error:
            notes.append(f"traversals/{name} {error}.")
    return None


def _still(animation: Picture, frame: int) -> Picture | None:
    """One frame of an animation, for readers who want or need nothing to move."""
    data = base64.b64decode(animation.uri.partition(",")[2])
    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.seek(min(frame, getattr(picture, "n_frames", 1) - 1))
            still = picture.convert("RGB")
            # A grey picture takes a third of the space as a grey file.
            grey = still.convert("L")
            (grey if grey.convert("RGB").tobytes() == still.tobytes() else still).save(stream, "PNG", optimize=True)
    except Exception:  # the errors of Pillow's readers have no common type
        return None
    return Picture(data_uri(stream.getvalue(), "PNG"), animation.width, animation.height)
