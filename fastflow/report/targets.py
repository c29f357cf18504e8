"""A run's measured numbers set against its targets: a card for each, and the verdict over all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from fastflow.report.number_formats import exact, percent, short, value_text
from fastflow.report.run_files import RunFiles, at, number, numbers

Outcome = str  # "pass", "short", or "" where there is no target or nothing was measured


@dataclass
class Card:
    """A measured number with its target, whether the target was met, and remarks that help to judge it."""

    title: str
    value: str
    unit: str
    target: str = ""
    outcome: Outcome = ""
    clause: str = ""  # the number and its target as a clause of the verdict
    before: str = ""  # the value before training
    remarks: list[str] = field(default_factory=list)


def cards(run: RunFiles) -> list[Card]:
    """The cards of strength, distinctness, residual and coefficients, as far as they were measured."""
    evaluation = run.evaluation
    if evaluation is None:
        return []
    found = [_strength(evaluation), _distinctness(evaluation), _residual(evaluation), _coefficients(evaluation)]
    return [card for card in found if card is not None]


def verdict(run: RunFiles) -> tuple[Outcome, str]:
    """The outcome over all targets, and a sentence with the numbers."""
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


def _strength(evaluation: dict[str, Any]) -> Card | None:
    """The card of the pixel change per step."""
    mean = number(evaluation, "strength", "mean")
    if mean is None:
        return None
    low, high = strength_band(evaluation)
    value = value_text(mean, (low, high))
    card = Card("Strength", value, "mean absolute pixel change per step, images in [0, 1]")
    if low is not None and high is not None:
        card.target = f"{exact(low)} to {exact(high)}"
        card.outcome = "pass" if low <= mean <= high else "short"
        card.clause = f"images change by {value} per step (target {card.target})"
        each = [flag(one, low, high) for one in numbers(evaluation, "strength", "per_potential") if one is not None]
        if each:
            card.remarks.append(f"{each.count('')} of {len(each)} potentials are inside the target on their own.")
    return card


def _distinctness(evaluation: dict[str, Any]) -> Card | None:
    """The card of the classifier's accuracy, beside that on random directions."""
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
    """The card of the equation's normalised residual, after and before training."""
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
    """The card of the equation's learned coefficients."""
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


def strength_band(evaluation: dict[str, Any] | None) -> tuple[float | None, float | None]:
    """The least and the greatest strength of the target; None where there is no such limit."""
    target = numbers(evaluation, "strength", "target")
    return (target[0], target[1]) if len(target) == 2 else (None, None)


def flag(value: float | None, low: float | None, high: float | None) -> str:
    """The words that say how a value misses its target; empty where it doesn't."""
    if value is None or (low is None and high is None):
        return ""
    if math.isnan(value):
        return "not finite"
    if low is not None and value < low:
        return "below target"
    return "above target" if high is not None and value > high else ""
