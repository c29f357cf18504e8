"""Edits: changes of latents along a run's potentials, which can be saved and applied to any latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastflow.core.checks import is_finite
from fastflow.core.digests import state_digest, unsealed
from fastflow.core.errors import InputError
from fastflow.core.files import read_json, shortened, write_sealed
from fastflow.engine.inputs import check_latents
from fastflow.engine.integration import Integration
from fastflow.engine.paths import check_mix, integrate_mix
from fastflow.latents.traversal import Traversal, seen
from fastflow.saved.names import is_number, names_in
from fastflow.saved.run import SavedRun

FORMAT = "fastflow edit 1"
_MOST_STEPS, _MOST_IN_ALL = 10_000, 100_000  # of a part, and of an edit
_LONGEST_NAME = 60

Along = int | str | Mapping[int | str, float]
"""A potential by number or name, or a weight for each of several potentials."""


@dataclass(frozen=True)
class Part:
    """One part of an edit.

    Attributes:
        mix: the potentials and the weights of their gradients, in order of the potentials.
        steps: the number of the run's steps. A fraction makes the last step shorter. A negative number undoes as many
            steps by the reverse flow.
        t0: the time at which the steps begin when they go forward: a part of -s steps undoes a part of s steps with the
            same t0.
    """

    mix: tuple[tuple[int, float], ...]
    steps: float
    t0: float = 0.0

    def __post_init__(self) -> None:
        if not is_finite(self.steps, torch.float32) or not 0 < abs(self.steps) <= _MOST_STEPS:
            raise InputError(
                f"steps must be a number other than 0 and at most {_MOST_STEPS}, negative to go back, got "
                f"{self.steps!r}"
            )
        if not is_finite(self.t0, torch.float32):
            raise InputError(f"t0 must be a finite number, got {self.t0!r}")

    @property
    def legs(self) -> list[tuple[int, float, float]]:
        """The whole steps and the fraction, in forward order: number of steps, steps before them, length of a step."""
        whole = int(abs(self.steps))
        rest = abs(self.steps) - whole
        return [leg for leg in ((whole, 0.0, 1.0), (int(rest > 0), float(whole), rest)) if leg[0]]


@dataclass(frozen=True)
class EditedRun:
    """The run that an edit belongs to.

    Attributes:
        folder: the run's folder when the edit was made.
        training_steps: the training steps done when the run's weights were saved.
        fingerprint: a hash of the weights; see `fingerprint`.
        num_potentials, latent_dim: the number of potentials, and the width of the latents.
        names: the names of potentials when the edit was made, by number.
        needs_generator: whether `ff.load_run` needs the generator, because it was made in Python.
    """

    folder: str
    training_steps: int
    fingerprint: str
    num_potentials: int
    latent_dim: int
    names: tuple[tuple[int, str], ...]
    needs_generator: bool

    @classmethod
    def of(cls, run: SavedRun) -> EditedRun:
        """The record of a run in its present state."""
        return cls(
            folder=str(run.folder.resolve()),
            training_steps=run.step,
            fingerprint=fingerprint(run),
            num_potentials=run.bank.num_potentials,
            latent_dim=run.bank.dim,
            names=tuple(run.names.items()),
            needs_generator=run.needs_generator,
        )

    def find(self, potential: int | str) -> int:
        """The number of a potential given by number or name; raise InputError for an unknown name."""
        if not isinstance(potential, str):
            return potential
        for k, name in self.names:
            if name == potential:
                return k
        known = ", ".join(name for _, name in self.names) or "none"
        raise InputError(
            f"no potential is called {potential!r}; named {'is' if len(self.names) < 2 else 'are'} {known}"
        )


@dataclass(frozen=True)
class Edit:
    """A change of latents: one or more parts, each along a potential or a mix of several potentials of one run.

    `run.edit(...)` makes an edit, and `then` makes a longer one. An edit never changes, so that it can be shared and
    compared.
    """

    parts: tuple[Part, ...]
    run: EditedRun
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            raise InputError(f"an edit's name must be at most {_LONGEST_NAME} printable characters, got {self.name!r}")
        if not self.parts:
            raise InputError("an edit must have at least one part")
        if sum(abs(part.steps) for part in self.parts) > _MOST_IN_ALL:
            raise InputError(f"the parts of an edit must have at most {_MOST_IN_ALL} steps in all: make several edits")
        for part in self.parts:
            check_mix(dict(part.mix), self.run.num_potentials)

    def then(self, along: Along, steps: float, t0: float = 0.0) -> Edit:
        """This edit with another part at its end; see `Part`."""
        return replace(self, parts=(*self.parts, _part(self.run, along, steps, t0)))

    def on(self, run: SavedRun) -> Edit:
        """The same edit for another run, or for the same run after more training.

        Raises:
            InputError: the run doesn't have the edit's potentials.
        """
        return replace(self, run=EditedRun.of(run))

    def path(self, run: SavedRun, z0: Tensor) -> Tensor:
        """The latents (B, T + 1, D) along the edit from z0 (B, D): after each step of each part, fractions included.

        The run's method, dt, step_length and companion are used.

        Raises:
            InputError: the run has other weights than when the edit was made, or the latents don't fit.
            ConvergenceError: the flow of a negative part can't be undone from its latents.
        """
        self.check(run)
        z = check_latents(z0, run.bank.dim, run.bank.out_bias, "z0")
        config, points = run.config, [z[:, None]]
        with torch.no_grad():
            for part in self.parts:
                back = part.steps < 0
                for count, before, share in reversed(part.legs) if back else part.legs:
                    length = None if config.step_length is None else share * config.step_length
                    path = integrate_mix(
                        run.bank,
                        points[-1][:, -1],
                        dict(part.mix),
                        count,
                        t0=part.t0 + before * config.dt,
                        integration=Integration(
                            share * config.dt, config.method, "reverse" if back else "forward", length
                        ),
                        companion=run.companion,
                    )
                    points.append(path[:, 1:])
        return torch.cat(points, 1)

    def apply(self, run: SavedRun, z0: Tensor, *, labels: Tensor | None = None) -> Traversal:
        """The latents along the edit from z0 (B, D), and their images; it raises the errors of `path`.

        Args:
            labels: each latent's class (B,), whole numbers, if the generator has classes; the first class if None.
        """
        return seen(run.generator, self.path(run, z0), labels=labels)

    def check(self, run: SavedRun) -> None:
        """Raise InputError unless the run has the weights that the edit was made for."""
        if fingerprint(run) != self.run.fingerprint:
            raise InputError(
                f"the edit was made for the run {self.run.folder!r} at training step {self.run.training_steps}, and "
                f"{str(run.folder)!r} at step {run.step} has other potentials: edit.on(run), or --retrained, takes it "
                "over to them"
            )

    def save(self, file: str | Path) -> Path:
        """Write the edit to a JSON file, which appears whole or not at all, and return its path.

        The file has a digest, by which `load_edit` notices that it has changed.
        """
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, self.to_json())
        return file

    def to_json(self) -> dict[str, Any]:
        """The edit as a JSON object."""
        run = {**vars(self.run), "names": {str(k): name for k, name in self.run.names}}
        parts = [
            {"mix": {str(k): weight for k, weight in part.mix}, "steps": part.steps, "t0": part.t0}
            for part in self.parts
        ]
        return {"format": FORMAT, "name": self.name, "parts": parts, "run": run}

    @classmethod
    def from_json(cls, value: object, where: str = "an edit") -> Edit:
        """The edit in a JSON object.

        Args:
            where: the object's origin, for error messages.

        Raises:
            InputError: the object isn't an edit.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(
                f"{where} isn't an edit: expected a JSON object of format {FORMAT!r}, as edit.save writes it"
            )
        try:
            run = {**value["run"], "names": tuple(names_in(value["run"]["names"], "the run's names").items())}
            _check_types(run, _RUN_TYPES)
            parts = tuple(Part(_by_number(part["mix"]), part["steps"], part.get("t0", 0.0)) for part in value["parts"])
            name = value.get("name", "")
            _check_types({"name": name}, str)
            return cls(parts, EditedRun(**run), name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where} isn't an edit: its parts, mixes or run are damaged ({shortened(error)})"
            ) from error

    def python_lines(self, start: str = "run.generator.starts(1)") -> list[str]:
        """Lines of Python that make the edit and apply it.

        Args:
            start: the expression for the starting latents (B, D).
        """
        load = f"run = ff.load_run({self.run.folder!r}{', generator' if self.run.needs_generator else ''})"
        first, *others = [f"({', '.join(_arguments(part))})" for part in self.parts]
        chain = [f"edit = run.edit{first}", *(f"edit = edit.then{arguments}" for arguments in others)]
        return ["import fastflow as ff", "", load, f"z0 = {start}", *chain, "path = edit.apply(run, z0)"]

    def __str__(self) -> str:
        names = dict(self.run.names)
        return ", then ".join(_words(part, names) for part in self.parts)


def make_edit(run: SavedRun, along: Along, steps: float, t0: float = 0.0, name: str = "") -> Edit:
    """An edit of one part; for the arguments see `fastflow.runs.Run.edit`."""
    edited = EditedRun.of(run)
    return Edit((_part(edited, along, steps, t0),), edited, name)


def load_edit(file: str | Path) -> Edit:
    """The edit in a JSON file.

    Raises:
        InputError: the file can't be read, doesn't hold an edit, or has changed since it was saved. An edit without a
            digest, of an earlier version or your own, is taken as it is.
    """
    file = Path(file)
    value = read_json(file, typed=True)
    edit = Edit.from_json(value, repr(str(file)))
    unsealed(value, file)
    return edit


def fingerprint(run: SavedRun) -> str:
    """A hash of the weights of a run's potentials and their companion, 16 hexadecimal digits."""
    return state_digest(module.state_dict() for module in (run.bank, run.companion) if module is not None)[:16]


def _part(run: EditedRun, along: Along, steps: float, t0: float) -> Part:
    mix = along if isinstance(along, Mapping) else {along: 1.0}
    found: dict[int, float] = {}
    for potential, weight in mix.items():
        k = run.find(potential)
        if k in found:
            raise InputError(f"potential {k} is in the mix twice, by name and by number: give it one weight")
        found[k] = weight
    check_mix(found, run.num_potentials)
    return Part(tuple(sorted(found.items())), steps, t0)


def _by_number(values: dict[str, Any]) -> tuple[tuple[int, Any], ...]:
    wrong = next((key for key in values if not is_number(key)), None)
    if wrong is not None:
        raise InputError(f"{shortened(wrong)} isn't the number of a potential")
    return tuple(sorted((int(key), value) for key, value in values.items()))


_RUN_TYPES = {
    "folder": str, "training_steps": int, "fingerprint": str, "num_potentials": int, "latent_dim": int,
    "names": tuple, "needs_generator": bool,
}  # fmt: skip


def _check_types(values: dict[str, Any], types: dict[str, type] | type) -> None:
    """Raise InputError unless each value has its type.

    Args:
        types: the type of each value by name, or one type for all values.
    """
    for name, value in values.items():
        kind = types.get(name) if isinstance(types, dict) else types
        if kind is None or not isinstance(value, kind):
            raise InputError(f"{shortened(name, quoted=False)} can't be {shortened(value)}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _arguments(part: Part) -> list[str]:
    """A part's arguments, as Python code."""
    if len(part.mix) == 1 and part.mix[0][1] == 1:
        along = str(part.mix[0][0])
    else:
        along = "{" + ", ".join(f"{k}: {_number(weight)}" for k, weight in part.mix) + "}"
    return [along, f"steps={_number(part.steps)}", *([f"t0={_number(part.t0)}"] if part.t0 else [])]


def _words(part: Part, names: Mapping[int, str]) -> str:
    """A part in words, with the names of potentials that have one."""
    mix = ""
    for k, weight in part.mix:
        sign = ("-" if weight < 0 else "") if not mix else " - " if weight < 0 else " + "
        times = "" if abs(weight) == 1 else f"{abs(weight):g} x "
        mix += f"{sign}{times}{names.get(k, f'potential {k}')}"
    count = abs(part.steps)
    return f"{count:g} step{'' if count == 1 else 's'} {'back ' if part.steps < 0 else ''}along {mix}"
