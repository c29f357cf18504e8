"""A run as one self-contained page: `write_report` turns a run folder into report.html."""

from __future__ import annotations

import base64
import io
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from fastflow.core.files import replacing
from fastflow.report import summary as _summary
from fastflow.report.charts import Line, line_chart, short
from fastflow.report.landscape_cards import Landscape, draw_landscape, landscapes
from fastflow.report.run_files import RunFiles, at, number, numbers, read_run, whole
from fastflow.training.timers import PHASES

_MOST_ATTRIBUTES = 8  # that a potential's card lists
_TEMPLATES = Path(__file__).parent / "templates"
_MEDIA_TYPES = {"PNG": "image/png", "GIF": "image/gif"}

# The metrics a run logs, in the order they are drawn; curves of one chart share an axis. Others follow one by one.
_CHARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Total loss", ("loss",), "the weighted sum of the terms"),
    ("Physics terms", ("pde", "initial"), "mean squared residual along the paths, and squared gradient at their start"),
    ("Jacobian term", ("jacobian",), "lower means that images change more along the potentials"),
    ("Classifier loss", ("classifier",), "cross-entropy of naming the potential from two consecutive images"),
    ("Guidance", ("guidance",), "1 minus the cosine between the guided potentials' steps and the property's gradient"),
    ("Training accuracy", ("accuracy",), "share of training pairs whose potential the classifier names"),
    ("Strength", ("strength",), "mean absolute pixel change per step"),
    ("Learning rate", ("learning_rate",), "Adam's, with its schedule and restarts"),
    ("Speed", ("steps_per_second",), "training steps per second"),
    ("Time", tuple(f"share_{phase}" for phase in PHASES), "share of each phase of a training step, backward included"),
)
_NEVER_DRAWN = {"step"}
_FROM_ZERO = {"accuracy", "strength", "steps_per_second", "learning_rate", *(f"share_{phase}" for phase in PHASES)}


@dataclass
class _Picture:
    uri: str
    width: int
    height: int


@dataclass
class _Potential:
    index: int
    measured: list[_summary.Measured]
    strip: _Picture | None = None
    animation: _Picture | None = None
    still: _Picture | None = None
    alt: str = ""
    start: int = 0
    notes: list[str] = field(default_factory=list)
    name: str = ""
    suggested: str = ""
    naming: str = ""
    attribute: str = ""
    attributes: list[_summary.Attribute] = field(default_factory=list)
    landscape: Landscape | None = None


@dataclass
class _Chart:
    title: str
    keys: tuple[str, ...]
    caption: str
    svg: Markup


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a run folder: pictures, numbers, curves and settings in one file without a network.

    Reads config.json, and as far as they are there metrics.jsonl, evaluation.json and traversals/. What is missing or
    damaged is noted in its section of the page.

    Args:
        run_folder: the folder that a run was written to.

    Returns:
        The path of the page, which appears whole or not at all.

    Raises:
        InputError: a ValueError; the folder is not a run: it does not exist or has no readable config.json.
        OSError: the page cannot be written.
    """
    run = read_run(run_folder)
    return write_page("report.html", _view(run), run.folder / "report.html")


def write_page(template: str, view: Mapping[str, Any], file: Path) -> Path:
    """Write a page from one of the templates, whole or not at all, and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(view)
    with replacing(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


def _view(run: RunFiles) -> dict[str, Any]:
    """Everything the template shows, as text or as markup made here."""
    name = run.folder.resolve().name
    potentials = _potentials(run)
    outcome, sentence = _summary.verdict(run)
    generator = at(run.settings, "generator", "name")
    return {
        "name": name,
        "kind": _text(at(run.settings, "kind") or "run"),
        "generator": generator if isinstance(generator, str) else None,
        "outcome": outcome,
        "verdict": sentence,
        "cards": _summary.cards(run),
        "samples": whole(run.evaluation, "samples"),
        "path_steps": whole(run.evaluation, "path_steps"),
        "potentials": potentials,
        "ranked": [potentials[k] for k in _summary.ranked(run, len(potentials))],
        "frames": max((len(p.landscape.times) for p in potentials if p.landscape), default=0),
        "both_ways": any(potential.start for potential in potentials),
        "has_traversals": run.traversals is not None,
        "confusion": _confusion(run),
        "charts": _charts(run),
        "logged": _logged(run),
        "notes": run.notes,
        "settings": settings_rows(at(run.settings, "config")),
        "generator_rows": settings_rows(at(run.settings, "generator")),
        "data_rows": settings_rows(at(run.settings, "data")),
        "versions": settings_rows(at(run.settings, "versions")),
        "evaluated_on": _evaluated_on(run),
        "code": _code(run, name),
    }


def _potentials(run: RunFiles) -> list[_Potential]:
    potentials = [
        _Potential(
            index,
            _summary.measured(run, index) if run.evaluation is not None else [],
            name=_summary.given_name(run, index),
            suggested=_summary.suggested_name(run, index),
            attribute=_summary.strongest_attribute(run, index),
            attributes=_summary.attributes(run, index)[:_MOST_ATTRIBUTES],
        )
        for index in range(_summary.potential_count(run))
    ]
    for potential in potentials:
        if potential.suggested and not potential.name:
            words = ["fastflow", "name", run.folder.resolve().name, str(potential.index), potential.suggested]
            potential.naming = shlex.join(words)
    drawn = landscapes(run)
    listed = at(run.traversals, "potentials")
    steps, starts = (whole(run.traversals, key) for key in ("steps", "starts"))
    by_index = {whole(entry, "index"): entry for entry in listed} if isinstance(listed, list) else {}
    for potential in potentials:
        entry = by_index.get(potential.index)
        if entry is None:
            if run.traversals is not None:
                potential.notes.append("traversals/index.json lists no pictures for this potential.")
            continue
        potential.strip = _picture(run, at(entry, "strip"), "PNG", potential.notes)
        potential.animation = _picture(run, at(entry, "animation"), "GIF", potential.notes)
        start = whole({"start_column": at(run.traversals, "start_column"), **entry}, "start_column")
        potential.start = start or 0
        if potential.index in drawn:
            potential.landscape = draw_landscape(drawn[potential.index], potential.index, potential.start)
        if potential.animation is not None:
            potential.still = _still(potential.animation, potential.start)
        rows = "starting images" if starts is None else f"{starts} starting images"
        potential.alt = f"{rows} in rows, carried along potential {potential.index} in columns"
        if start is not None and steps is not None:
            potential.alt += f" from step {-start} to step {steps - start}; the starting images are marked"
        if at(run.traversals, "direction") == "both" and at(entry, "direction") == "forward":
            potential.notes.append(
                "This potential bends too sharply for its flow to be run backwards from these starts, so its strip "
                "shows the way forward only."
            )
    return potentials


def _picture(run: RunFiles, name: object, kind: str, notes: list[str]) -> _Picture | None:
    """A picture of the run as a data URI. Only plain names count: an index must not reach outside its folder."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..", "."):
        notes.append(f"traversals/index.json names no {kind} file for this potential.")
        return None
    try:
        data = (run.folder / "traversals" / name).read_bytes()
        with Image.open(io.BytesIO(data), formats=[kind]) as picture:
            width, height = picture.size
    except FileNotFoundError:
        notes.append(f"traversals/{name} is missing.")
    except UnidentifiedImageError:
        notes.append(f"traversals/{name} is not a {kind} image.")
    except OSError as error:
        notes.append(f"traversals/{name} cannot be read ({error.strerror or error}).")
    else:
        return _Picture(data_uri(data, kind), width, height)
    return None


def _still(animation: _Picture, frame: int) -> _Picture | None:
    """One frame of an animation, for those who want or need nothing to move."""
    data = base64.b64decode(animation.uri.partition(",")[2])
    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.seek(min(frame, getattr(picture, "n_frames", 1) - 1))
            still = picture.convert("RGB")
            # Grey pictures pack three times smaller as such.
            grey = still.convert("L")
            (grey if grey.convert("RGB").tobytes() == still.tobytes() else still).save(stream, "PNG", optimize=True)
    except (OSError, EOFError):
        return None
    return _Picture(data_uri(stream.getvalue(), "PNG"), animation.width, animation.height)


def data_uri(data: bytes, kind: str) -> str:
    """A picture's bytes, PNG or GIF, as a page holds them."""
    return f"data:{_MEDIA_TYPES[kind]};base64,{base64.b64encode(data).decode('ascii')}"


def _confusion(run: RunFiles) -> list[dict[str, Any]] | None:
    """Rows of counts with each cell's share of its row; None unless the matrix is square and its counts are sound."""
    matrix = at(run.evaluation, "distinctness", "confusion")
    rows = [numbers({"": row}, "") for row in matrix] if isinstance(matrix, list) else []
    sound = all(len(row) == len(rows) and all(n is not None and 0 <= n < math.inf for n in row) for row in rows)
    if not rows or not sound:
        return None
    table = []
    for row in rows:
        counts = [int(count or 0) for count in row]
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        cells = [
            # The square root lets one miss in a hundred still tint its cell; light text starts where it reads better.
            {"count": count, "shade": f"{100 * share**0.5:.0f}", "strong": share > 0.7}
            for count, share in zip(counts, shares, strict=True)
        ]
        table.append({"cells": cells, "total": total})
    return table


def _series(run: RunFiles, key: str) -> Line:
    # A step that does not log the metric is no gap: some are measured less often than others.
    pairs = [(number(entry, "step"), number(entry, key)) for entry in run.metrics]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return Line(key, [x for x, _ in known], [y for _, y in known])


def _metric_keys(run: RunFiles) -> list[str]:
    seen = dict.fromkeys(key for entry in run.metrics for key in entry if key not in _NEVER_DRAWN)
    drawable = {key for key in seen if any(math.isfinite(y) for y in _series(run, key).y)}
    order = [key for _, keys, _ in _CHARTS for key in keys]
    return [key for key in order if key in drawable] + [key for key in seen if key in drawable and key not in order]


def _charts(run: RunFiles) -> list[_Chart]:
    keys = _metric_keys(run)
    grouped = {key for _, group, _ in _CHARTS for key in group}
    groups = [(title, tuple(key for key in group if key in keys), caption) for title, group, caption in _CHARTS]
    groups += [(key.replace("_", " ").capitalize(), (key,), "") for key in keys if key not in grouped]
    charts = []
    for place, (title, names, caption) in enumerate(group for group in groups if group[1]):
        lines = [_series(run, key) for key in names]
        values = [y for line in lines for y in line.y if math.isfinite(y)]
        log = min(values) > 0 and max(values) > 20 * min(values)
        band = None
        target = numbers(run.evaluation, "strength", "target")
        if (
            names == ("strength",)
            and len(target) == 2
            and all(end is not None and math.isfinite(end) for end in target)
        ):
            band, log = (target[0], target[1]), min(values) > 0 and (target[0] or 0) > 0
        svg = line_chart(
            lines,
            from_zero=_FROM_ZERO.issuperset(names),
            key=f"chart-{place}",
            title=f"{title} over training",
            description=_describe(lines),
            log=log,
            band=band,
        )
        charts.append(_Chart(title, names, caption + (" (logarithmic)" if log else ""), Markup(svg)))
    return charts


def _describe(lines: list[Line]) -> str:
    return " ".join(
        f"{line.name}: {short(finite[0])} at the first logged step, {short(finite[-1])} at the last, "
        f"between {short(min(finite))} and {short(max(finite))} in all."
        for line in lines
        if (finite := [y for y in line.y if math.isfinite(y)])
    )


def _logged(run: RunFiles) -> list[dict[str, Any]]:
    """The curves as a table: first, last, least and greatest value of each metric, and how many were not finite."""
    table = []
    for key in _metric_keys(run):
        values = _series(run, key).y
        finite = [y for y in values if math.isfinite(y)]
        numbers_ = [finite[0], finite[-1], min(finite), max(finite)]
        table.append({"key": key, "values": [short(v) for v in numbers_], "lost": len(values) - len(finite)})
    return table


def _evaluated_on(run: RunFiles) -> list[tuple[str, str]]:
    labels = {
        "machine": "machine",
        "seconds": "seconds",
        "samples": "samples",
        "path_steps": "steps of a path",
        "seed": "seed",
        "training_steps": "training steps before",
    }
    found = ((label, at(run.evaluation, key)) for key, label in labels.items())
    return [(label, _text(value)) for label, value in found if value is not None]


def settings_rows(tree: object, prefix: str = "") -> list[tuple[str, str]]:
    """A settings object as (name, text) rows; nested objects get dotted names."""
    if not isinstance(tree, Mapping):
        return []
    rows = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += settings_rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if len(value) > 12:
            return f"{', '.join(map(_text, value[:4]))}, … ({len(value)} values)"
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def _code(run: RunFiles, name: str) -> dict[str, str]:
    """What to type to use the run and to train it again; names go through the quoting of their language."""
    generator, kind = at(run.settings, "generator", "name"), at(run.settings, "kind")
    # A generator made in Python has no name that finds it again; a VAE's run is its own generator.
    named = isinstance(generator, str) or kind == "train-vae"
    load = f"run = ff.load_run({name!r})" if named else f"run = ff.load_run({name!r}, generator)"
    use = [
        "import fastflow as ff",
        "",
        load,
        "z0 = run.generator.starts(6)" if kind == "train-vae" else "z0 = run.generator.sample(6)",
        "path = run.traverse(z0, potential=0, steps=10)",
        "path.latents, path.images  # (6, 11, D) and (6, 11, C, H, W)",
    ]
    train = []
    again, quoted = f"{name}-again", shlex.quote(name)
    if kind == "train-vae":
        root = at(run.settings, "data", "root")
        train = ["import fastflow as ff", "", load, f"ff.train_vae(run.config, data_root={root!r}, out={again!r})"]
    elif kind == "discover":
        train = ["import fastflow as ff", "", load, f"ff.discover(run.generator, run.config, out={again!r})"]
    option = "" if named else " --generator FILE.py:FUNCTION"
    shell = [f"fastflow report {quoted}{option}  # write this page again"]
    if generator == "digits-vae":
        seed = whole(run.settings, "config", "seed") or 0
        shell.append(
            f"fastflow demo --out {shlex.quote(again)} --seed {seed}  # the whole line on the bundled generator"
        )
    return {"use": "\n".join(use), "train": "\n".join(train), "shell": "\n".join(shell)}
