"""Each potential's numbers, name and attributes, as a run's files hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastflow.report.number_formats import percent, value_text
from fastflow.report.run_files import RunFiles, at, number, numbers, whole
from fastflow.report.targets import flag, strength_band

_STEADY = 0.5  # the least |correlation| at which an attribute may give a name
_MOSTLY = 0.4  # the least share of the change at which one attribute is enough for a name
_SCORES = ("ranking", "scores")
_PER_POTENTIAL = {
    "strength": ("strength", "per_potential"),
    "accuracy": ("distinctness", "per_potential"),
    "residual": ("residual", "per_potential"),
}


@dataclass
class Measured:
    """A number of a potential, and the words that say how it misses its target, if it does."""

    name: str
    value: str
    flag: str = ""


def potential_count(run: RunFiles) -> int:
    """How many potentials the run has, by its configuration, or else by what was measured and drawn."""
    configured = whole(run.settings, "config", "num_potentials")
    if configured is not None and 0 < configured <= 4096:
        return configured
    lists = [numbers(run.evaluation, *keys) for keys in _PER_POTENTIAL.values()]
    listed = at(run.traversals, "potentials")
    return max([len(values) for values in lists] + [len(listed) if isinstance(listed, list) else 0])


def measured(run: RunFiles, index: int) -> list[Measured]:
    """A potential's strength, accuracy, residual and coefficients, with the same names in the same order for each."""
    low, high = strength_band(run.evaluation)
    least = number(run.evaluation, "distinctness", "target")
    most = number(run.evaluation, "residual", "target")
    strength, accuracy, residual = (_nth(numbers(run.evaluation, *keys), index) for keys in _PER_POTENTIAL.values())
    row = [
        Measured("strength", value_text(strength), flag(strength, low, high)),
        Measured("accuracy", percent(accuracy), flag(accuracy, least, None)),
        Measured("residual", value_text(residual), flag(residual, None, most)),
    ]
    smoothness, scores = (numbers(run.evaluation, *keys) for keys in (("smoothness", "per_potential"), _SCORES))
    if any(value is not None for value in smoothness):
        row.append(Measured("smoothness", value_text(_nth(smoothness, index))))
    if scores:
        row.append(Measured("score", value_text(_nth(scores, index))))
    coefficients = at(run.evaluation, "residual", "coefficients")
    if isinstance(coefficients, dict):
        for name in coefficients:
            values = numbers(coefficients, name)
            # A coefficient of one value is shared by all potentials.
            row.append(Measured(name, value_text(_nth(values, 0 if len(values) == 1 else index))))
    return row


def ranked(run: RunFiles, count: int) -> list[int]:
    """The potentials by their scores, the best first; in their own order where some have no score."""
    scores = numbers(run.evaluation, *_SCORES)
    if len(scores) != count or any(score is None or not math.isfinite(score) for score in scores):
        return list(range(count))
    return sorted(range(count), key=lambda k: -(scores[k] or 0.0))


def given_name(run: RunFiles, index: int) -> str:
    """The name that somebody gave a potential; empty where it has none."""
    return run.names.get(index, "")


@dataclass
class Attribute:
    """How one attribute changes along a potential."""

    name: str
    correlation: float
    share: float | None
    """Its share of all that the potential changes, in standard deviations; None where these aren't known."""

    @property
    def moves(self) -> str:
        """The change in words, such as "slant rises"."""
        return f"{self.name} {'rises' if self.correlation > 0 else 'falls'}"


def attributes(run: RunFiles, index: int) -> list[Attribute]:
    """The attributes that were measured along a potential, by their correlation with the step, the strongest first."""
    rows, names = at(run.attributes, "correlation"), at(run.attributes, "attributes")
    row = numbers({"": rows[index]}, "") if isinstance(rows, list) and index < len(rows) else []
    if not row or not isinstance(names, list) or len(names) != len(row):
        return []
    shares = _shares(run, index, len(row))
    found = [
        Attribute(str(name), r, share)
        for name, r, share in zip(names, row, shares, strict=True)
        if r is not None and math.isfinite(r)
    ]
    return sorted(found, key=lambda attribute: -abs(attribute.correlation))


def strongest_attribute(run: RunFiles, index: int) -> str:
    """The attribute that changes most steadily along a potential, in words; empty where none was measured."""
    found = attributes(run, index)
    return f"{found[0].moves} along it (correlation {found[0].correlation:+.2f})" if found else ""


def suggested_name(run: RunFiles, index: int) -> str:
    """A name after the attributes that a potential changes most, among those that it changes steadily, or nothing."""
    steady = [a for a in attributes(run, index) if abs(a.correlation) >= _STEADY]
    if not steady or steady[0].share is None:
        return steady[0].moves if steady else ""
    steady.sort(key=lambda attribute: -(attribute.share or 0.0))
    first = steady[0].share or 0.0
    return ", ".join(attribute.moves for attribute in steady[: 1 if first >= _MOSTLY else 2])


def _shares(run: RunFiles, index: int, count: int) -> list[float | None]:
    """Each attribute's share of what a potential changes, in standard deviations; None where these aren't known."""
    rows, spread = at(run.attributes, "change"), numbers(run.attributes, "spread")
    row = numbers({"": rows[index]}, "") if isinstance(rows, list) and index < len(rows) else []
    if len(row) != count or len(spread) != count:
        return [None] * count
    # An attribute that is the same everywhere has no spread, and no share.
    moved = [abs(c) / s if c is not None and s is not None and s > 0 else 0.0 for c, s in zip(row, spread, strict=True)]
    total = sum(moved)
    return [m / total for m in moved] if 0 < total < math.inf else [None] * count


def _nth(values: list[float | None], index: int) -> float | None:
    """The value at a place of a list, None where the list ends earlier."""
    return values[index] if index < len(values) else None
