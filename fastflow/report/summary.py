"""Sets a run's measured numbers against its targets, and says so in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastflow.report.charts import exact, short
from fastflow.report.run_files import RunFiles, at, number, numbers, whole

Outcome = str  # "pass" | "short" | "" where there is no target or nothing was measured


@dataclass
class Card:
    """One headline: a number, its target and whether it was met, and sentences that keep it honest."""

    title: str
    value: str
    unit: str
    target: str = ""
    outcome: Outcome = ""
    clause: str = ""  # the same in half a sentence, for the verdict
    before: str = ""  # what the value was at first
    remarks: list[str] = field(default_factory=list)


@dataclass
class Measured:
    """One potential's number and, where it misses the target, the word for how."""

    name: str
    value: str
    flag: str = ""


def cards(run: RunFiles) -> list[Card]:
    """Strength, distinctness, residual and coefficients, as far as they were measured."""
    evaluation = run.evaluation
    if evaluation is None:
        return []
    found = [_strength(evaluation), _distinctness(evaluation), _residual(evaluation), _coefficients(evaluation)]
    return [card for card in found if card is not None]


def verdict(run: RunFiles) -> tuple[Outcome, str]:
    """The outcome over all targets and one sentence that gives the numbers."""
    judged = [card for card in cards(run) if card.outcome]
    if not judged:
        return "", "Not judged: this run folder has no measured numbers to set against targets."
    clauses = [card.clause for card in judged]
    listed = clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"
    missed = [card.title.lower() for card in judged if card.outcome == "short"]
    if not missed:
        count = "The one target measured is" if len(judged) == 1 else f"All {len(judged)} targets are"
        return "pass", f"{count} met: {listed}."
    return "short", f"{len(missed)} of {len(judged)} targets missed ({', '.join(missed)}): {listed}."


def potential_count(run: RunFiles) -> int:
    """How many potentials the run has, by its configuration or else by what was measured and drawn."""
    configured = whole(run.settings, "config", "num_potentials")
    if configured is not None and 0 < configured <= 4096:
        return configured
    lists = [numbers(run.evaluation, *keys) for keys in _PER_POTENTIAL.values()]
    drawn = at(run.traversals, "potentials")
    return max([len(values) for values in lists] + [len(drawn) if isinstance(drawn, list) else 0])


def measured(run: RunFiles, index: int) -> list[Measured]:
    """One potential's strength, accuracy, residual and coefficients; the same names in the same order for each."""
    low, high = _band(run.evaluation)
    least = number(run.evaluation, "distinctness", "target")
    most = number(run.evaluation, "residual", "target")
    strength, accuracy, residual = (_nth(numbers(run.evaluation, *keys), index) for keys in _PER_POTENTIAL.values())
    row = [
        Measured("strength", value_text(strength), _flag(strength, low, high)),
        Measured("accuracy", percent(accuracy), _flag(accuracy, least, None)),
        Measured("residual", value_text(residual), _flag(residual, None, most)),
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
    """The potentials, best score first; in their own order where there are no scores for all of them."""
    scores = numbers(run.evaluation, *_SCORES)
    if len(scores) != count or any(score is None or not math.isfinite(score) for score in scores):
        return list(range(count))
    return sorted(range(count), key=lambda k: -(scores[k] or 0.0))


def given_name(run: RunFiles, index: int) -> str:
    """What somebody called a potential, or nothing."""
    name = at(run.names, str(index))
    return name if isinstance(name, str) else ""


@dataclass
class Attribute:
    """How one attribute changes along a potential."""

    name: str
    correlation: float
    share: float | None
    """Of all that the potential changes, in the attributes' standard deviations; None where they aren't known."""

    @property
    def moves(self) -> str:
        """In words."""
        return f"{self.name} {'rises' if self.correlation > 0 else 'falls'}"


def attributes(run: RunFiles, index: int) -> list[Attribute]:
    """The attributes that were measured along a potential, the steadiest first."""
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
    """The attribute that changes most steadily along a potential, in words, or nothing."""
    found = attributes(run, index)
    return f"{found[0].moves} along it (correlation {found[0].correlation:+.2f})" if found else ""


def suggested_name(run: RunFiles, index: int) -> str:
    """A name after what a potential changes most among what it changes steadily, or nothing."""
    steady = [a for a in attributes(run, index) if abs(a.correlation) >= _STEADY]
    if not steady or steady[0].share is None:
        return steady[0].moves if steady else ""
    steady.sort(key=lambda attribute: -(attribute.share or 0.0))
    first = steady[0].share or 0.0
    return ", ".join(attribute.moves for attribute in steady[: 1 if first >= _MOSTLY else 2])


def value_text(value: float | None, apart_from: Sequence[float | None] = ()) -> str:
    """A value to three digits, or more where three would show a miss as its own target."""
    if value is None:
        return "not measured"
    digits = 3
    # Zeros apart, "0.0500" and "0.05" are one number to a reader.
    while digits < 17 and any(
        limit is not None and value != limit and float(f"{value:.{digits}g}") == limit for limit in apart_from
    ):
        digits += 1
    return short(value, digits)


def percent(share: float | None, apart_from: float | None = None) -> str:
    """A share of 1 in per cent, never rounded up to a perfect score or to its target."""
    if share is None:
        return "not measured"
    if not math.isfinite(share):
        return "not finite"
    text = ""
    for digits in range(1, 12):
        text = f"{100 * share:.{digits}f}"
        touches = any(
            limit is not None and share != limit and float(text) == 100 * limit for limit in (1.0, apart_from)
        )
        if not touches:
            break
    return f"{text}%"


_STEADY = 0.5  # |correlation| from which an attribute may give a name
_MOSTLY = 0.4  # share of the change from which one attribute says it alone
_SCORES = ("ranking", "scores")
_PER_POTENTIAL = {
    "strength": ("strength", "per_potential"),
    "accuracy": ("distinctness", "per_potential"),
    "residual": ("residual", "per_potential"),
}


def _shares(run: RunFiles, index: int, count: int) -> list[float | None]:
    rows, spread = at(run.attributes, "change"), numbers(run.attributes, "spread")
    row = numbers({"": rows[index]}, "") if isinstance(rows, list) and index < len(rows) else []
    if len(row) != count or len(spread) != count:
        return [None] * count
    # An attribute that is the same everywhere has no spread, and no share.
    moved = [abs(c) / s if c is not None and s is not None and s > 0 else 0.0 for c, s in zip(row, spread, strict=True)]
    total = sum(moved)
    return [m / total for m in moved] if 0 < total < math.inf else [None] * count


def _strength(evaluation: dict[str, Any]) -> Card | None:
    mean = number(evaluation, "strength", "mean")
    if mean is None:
        return None
    low, high = _band(evaluation)
    value = value_text(mean, (low, high))
    card = Card("Strength", value, "mean absolute pixel change per step, images in [0, 1]")
    if low is not None and high is not None:
        card.target = f"{exact(low)} to {exact(high)}"
        card.outcome = "pass" if low <= mean <= high else "short"
        card.clause = f"images change by {value} per step (target {card.target})"
        each = [_flag(one, low, high) for one in numbers(evaluation, "strength", "per_potential") if one is not None]
        if each:
            card.remarks.append(f"{each.count('')} of {len(each)} potentials are inside the target on their own.")
    return card


def _distinctness(evaluation: dict[str, Any]) -> Card | None:
    part = at(evaluation, "distinctness")
    accuracy, least = number(part, "accuracy"), number(part, "target")
    if accuracy is None:
        return None
    value = percent(accuracy, least)
    card = Card("Distinctness", value, "of image pairs, a freshly trained classifier names the potential")
    if least is not None:
        card.target = f"at least {percent(least).replace('.0%', '%')}"
        card.outcome = "pass" if accuracy >= least else "short"
        card.clause = f"a fresh classifier names the potential in {value} of cases (target {card.target})"
    random, strength = number(part, "random_directions", "accuracy"), number(part, "random_directions", "strength")
    if random is None:
        card.remarks.append("Random straight directions were not measured beside it, so this figure proves little.")
        return card
    own = number(evaluation, "strength", "mean")
    equal = strength is not None and own is not None and abs(strength - own) <= 0.1 * own
    where = "" if strength is None else f" at {'equal strength, ' if equal else 'strength '}{short(strength)}"
    card.remarks.append(f"Random straight directions{where}: {percent(random)}.")
    if random >= (accuracy if least is None else least):
        card.remarks.append("Distinctness alone proves little: random directions reach it too.")
    return card


def _residual(evaluation: dict[str, Any]) -> Card | None:
    part = at(evaluation, "residual")
    after, before, most = number(part, "after"), number(part, "before"), number(part, "target")
    if after is None:
        return None
    value = value_text(after, (most,))
    card = Card(
        "Physics", value, "normalised residual of the equation", before=short(before) if before is not None else ""
    )
    if most is not None:
        card.target = f"at most {exact(most)}"
        card.outcome = "pass" if after <= most else "short"
        card.clause = f"the normalised residual is {value} (target {card.target})"
    equation = at(part, "equation")
    if isinstance(equation, str):
        written = equation.replace("^2", "²").replace(" - ", " \N{MINUS SIGN} ")
        card.remarks.append(f"Equation: {written}." if "=" in written else f"Equation: {written} = 0.")
    return card


def _coefficients(evaluation: dict[str, Any]) -> Card | None:
    coefficients, least = (
        at(evaluation, "residual", "coefficients"),
        number(evaluation, "residual", "coefficient_target"),
    )
    if not isinstance(coefficients, dict):
        return None
    card = Card("Coefficients", "", "learned, over all potentials")
    means = {}
    for name in coefficients:
        known = [value for value in numbers(coefficients, name) if value is not None and math.isfinite(value)]
        if not known:
            continue
        spread = short(min(known)) if min(known) == max(known) else f"{short(min(known))} to {short(max(known))}"
        means[name] = sum(map(abs, known)) / len(known)
        mean = f"Mean |{name}| {value_text(means[name], (least,))}"
        # The first coefficient's spread is the card's headline; further ones have theirs in their remark.
        card.remarks.append(f"{mean}, from {spread}." if card.value else f"{mean}.")
        if not card.value:
            card.title, card.value = f"Coefficient {name}", spread
    if not means:
        return None
    if least is not None:
        weakest = min(means, key=lambda name: means[name])
        card.target = f"mean |{weakest}| at least {exact(least)}"
        card.outcome = "pass" if means[weakest] >= least else "short"
        card.clause = f"mean |{weakest}| is {value_text(means[weakest], (least,))} (target at least {exact(least)})"
    card.remarks.append("A residual can also be small because a coefficient has shrunk to nothing.")
    return card


def _band(evaluation: dict[str, Any] | None) -> tuple[float | None, float | None]:
    target = numbers(evaluation, "strength", "target")
    return (target[0], target[1]) if len(target) == 2 else (None, None)


def _nth(values: list[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _flag(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or (low is None and high is None):
        return ""
    if math.isnan(value):
        return "not finite"
    if low is not None and value < low:
        return "below target"
    return "above target" if high is not None and value > high else ""
