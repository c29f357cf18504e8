"""Edits: changes of a latent along a run's potentials, kept apart from any latent, saved, and applied to others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastflow.core.checks import is_finite
from fastflow.core.errors import InputError
from fastflow.core.files import read_json, write_json
from fastflow.engine.inputs import check_latents
from fastflow.engine.paths import check_mix, mixed_flow
from fastflow.latents.traversal import Traversal, decoded
from fastflow.saved.run import SavedRun

FORMAT = "fastflow edit 1"
_MOST_STEPS = 10_000
_LONGEST_NAME = 60

Along = int | str | Mapping[int | str, float]
"""Where a part goes: along a potential, by number or name, or along several at once with a weight for each."""


@dataclass(frozen=True)
class Part:
    """One leg of an edit.

    Attributes:
        mix: the potentials and the weights of their gradients, in order of the potentials.
        steps: how many of the run's steps. A fraction's last step is that much shorter; a negative number undoes as
            many steps by the reverse flow.
        t0: the time at which those steps begin, walked forwards: a part of -s steps undoes that of s steps and this t0.
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
        """Whole steps and a fraction in forward order: how many steps, how many came before, and their share of one."""
        whole = int(abs(self.steps))
        rest = abs(self.steps) - whole
        return [leg for leg in ((whole, 0.0, 1.0), (int(rest > 0), float(whole), rest)) if leg[0]]


@dataclass(frozen=True)
class EditedRun:
    """The run that an edit belongs to.

    Attributes:
        folder: where it was. training_steps, fingerprint: of its weights; see `fingerprint`.
        num_potentials, latent_dim: what it has. names: its potentials' names when the edit was made, by number.
        needs_generator: whether its generator was made in Python, and has to be given to `ff.load_run`.
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
        """A run as it is now."""
        return cls(
            str(run.folder.resolve()),
            run.step,
            fingerprint(run),
            run.bank.num_potentials,
            run.bank.dim,
            tuple(run.names.items()),
            run.needs_generator,
        )

    def find(self, potential: int | str) -> int:
        """The number of a potential; raise InputError for a name that none had."""
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
    """A change of latents: parts one after another, each along a potential or a mix of several, of one run.

    Made by `run.edit(...)` and lengthened by `then`; nothing of it changes, so that edits can be shared and compared.
    """

    parts: tuple[Part, ...]
    run: EditedRun
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            raise InputError(f"an edit's name must be at most {_LONGEST_NAME} printable characters, got {self.name!r}")
        if not self.parts:
            raise InputError("an edit must have at least one part")
        for part in self.parts:
            check_mix(dict(part.mix), self.run.num_potentials)

    def then(self, along: Along, steps: float, t0: float = 0.0) -> Edit:
        """The edit that goes on from the end of this one; see `Part`."""
        return replace(self, parts=(*self.parts, _part(self.run, along, steps, t0)))

    def on(self, run: SavedRun) -> Edit:
        """The same edit of another run's potentials, or of this one's after more training.

        Raises:
            InputError: it has no such potentials.
        """
        return replace(self, run=EditedRun.of(run))

    def path(self, run: SavedRun, z0: Tensor) -> Tensor:
        """The latents (B, T + 1, D) on the way of z0 (B, D): every whole step of every part, and fractions' ends.

        The run's method, step, length of steps and companion are used.

        Raises:
            InputError: the run has other weights than the one that the edit was made for, or the latents don't fit.
            ConvergenceError: a negative part's flow can't be undone from there.
        """
        self.check(run)
        z = check_latents(z0, run.bank.dim, run.bank.out_bias, "z0")
        config, points = run.config, [z[:, None]]
        with torch.no_grad():
            for part in self.parts:
                back = part.steps < 0
                for count, before, share in reversed(part.legs) if back else part.legs:
                    length = None if config.step_length is None else share * config.step_length
                    path = mixed_flow(
                        run.bank,
                        points[-1][:, -1],
                        dict(part.mix),
                        count,
                        part.t0 + before * config.dt,
                        share * config.dt,
                        config.method,
                        "reverse" if back else "forward",
                        length,
                        run.companion,
                    )
                    points.append(path[:, 1:])
        return torch.cat(points, 1)

    def apply(self, run: SavedRun, z0: Tensor, *, labels: Tensor | None = None) -> Traversal:
        """The path of latents z0 (B, D) and the images of all its points, the start's first; errors are `path`'s.

        Args:
            labels: each latent's class (B,), whole numbers, of a generator with classes; of its first class if None.
        """
        latents = self.path(run, z0)
        return Traversal(latents, decoded(run.generator, latents, labels), 0)

    def check(self, run: SavedRun) -> None:
        """Raise InputError unless the run has the weights that the edit was made for."""
        if fingerprint(run) != self.run.fingerprint:
            raise InputError(
                f"the edit was made for the run {self.run.folder!r} at training step {self.run.training_steps}, and "
                f"{str(run.folder)!r} at step {run.step} has other potentials: edit.on(run), or --retrained, takes it "
                "over to them"
            )

    def save(self, file: str | Path) -> Path:
        """Write the edit to a JSON file, which appears whole or not at all, and return its path."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, self.to_json())
        return file

    def to_json(self) -> dict[str, Any]:
        """The edit as JSON holds it."""
        run = {**vars(self.run), "names": {str(k): name for k, name in self.run.names}}
        parts = [
            {"mix": {str(k): weight for k, weight in part.mix}, "steps": part.steps, "t0": part.t0}
            for part in self.parts
        ]
        return {"format": FORMAT, "name": self.name, "parts": parts, "run": run}

    @classmethod
    def from_json(cls, value: object, where: str = "an edit") -> Edit:
        """The edit that JSON holds; `where` names its origin in errors.

        Raises:
            InputError: it isn't one.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(
                f"{where} isn't an edit: expected a JSON object of format {FORMAT!r}, as edit.save writes it"
            )
        try:
            run = {**value["run"], "names": _by_number(value["run"]["names"])}
            _check_types(run, _RUN_TYPES)
            _check_types({f"the name of potential {k}": name for k, name in run["names"]}, str)
            parts = tuple(Part(_by_number(part["mix"]), part["steps"], part.get("t0", 0.0)) for part in value["parts"])
            name = value.get("name", "")
            _check_types({"name": name}, str)
            return cls(parts, EditedRun(**run), name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where} isn't an edit: its parts, mixes or run are damaged ({error!r})") from error

    def python_lines(self, start: str = "run.generator.starts(1)") -> list[str]:
        """The lines of Python that make the edit and apply it.

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
    """See `fastflow.runs.Run.edit`."""
    edited = EditedRun.of(run)
    return Edit((_part(edited, along, steps, t0),), edited, name)


def load_edit(file: str | Path) -> Edit:
    """The edit in a JSON file.

    Raises:
        InputError: it can't be read, or isn't an edit.
    """
    return Edit.from_json(read_json(Path(file)), repr(str(file)))


def fingerprint(run: SavedRun) -> str:
    """What tells a run's potentials, with their companion, from others: a hash of their weights, 16 digits."""
    digest = hashlib.sha256()
    for module in (run.bank, run.companion):
        for name, tensor in {} if module is None else module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _part(run: EditedRun, along: Along, steps: float, t0: float) -> Part:
    mix = along if isinstance(along, Mapping) else {along: 1.0}
    found: dict[int, float] = {}
    for potential, weight in mix.items():
        k = run.find(potential)
        if k in found:
            raise InputError(f"potential {k} stands in the mix twice, by name and by number: give it one weight")
        found[k] = weight
    check_mix(found, run.num_potentials)
    return Part(tuple(sorted(found.items())), steps, t0)


def _by_number(values: dict[str, Any]) -> tuple[tuple[int, Any], ...]:
    return tuple(sorted((int(key), value) for key, value in values.items()))


_RUN_TYPES = {
    "folder": str, "training_steps": int, "fingerprint": str, "num_potentials": int, "latent_dim": int,
    "names": tuple, "needs_generator": bool,
}  # fmt: skip


def _check_types(values: dict[str, Any], types: dict[str, type] | type) -> None:
    """Raise InputError unless each value is of its type, or of the one type of all."""
    for name, value in values.items():
        kind = types.get(name) if isinstance(types, dict) else types
        if kind is None or not isinstance(value, kind):
            raise InputError(f"{name} can't be {value!r}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _arguments(part: Part) -> list[str]:
    """A part's arguments in Python."""
    if len(part.mix) == 1 and part.mix[0][1] == 1:
        along = str(part.mix[0][0])
    else:
        along = "{" + ", ".join(f"{k}: {_number(weight)}" for k, weight in part.mix) + "}"
    return [along, f"steps={_number(part.steps)}", *([f"t0={_number(part.t0)}"] if part.t0 else [])]


def _words(part: Part, names: Mapping[int, str]) -> str:
    mix = ""
    for k, weight in part.mix:
        sign = ("-" if weight < 0 else "") if not mix else " - " if weight < 0 else " + "
        times = "" if abs(weight) == 1 else f"{abs(weight):g} x "
        mix += f"{sign}{times}{names.get(k, f'potential {k}')}"
    count = abs(part.steps)
    return f"{count:g} step{'' if count == 1 else 's'} {'back ' if part.steps < 0 else ''}along {mix}"
