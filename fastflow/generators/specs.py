"""What names a generator, as data: its kind, its file or folder, and its options."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from fastflow.core.trust import NamedProgram

ARCHIVE, FUNCTION = "archive", "function"
"""The kinds of generators that are programs: an archive of torch, and a function in a Python file."""


@dataclass(frozen=True)
class Spec:
    """What names a generator.

    Attributes:
        kind: a bundled generator, a known architecture, "archive" or "function".
        path: its file or folder; empty for a bundled one.
        function: the function's name in the file; empty for other kinds.
        options: the texts of its options by name.
    """

    kind: str
    path: str = ""
    function: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The spec as one types it."""
        place = {ARCHIVE: self.path, FUNCTION: f"{self.path}:{self.function}"}.get(
            self.kind, f"{self.kind}:{self.path}"
        )
        return ",".join([place if self.path else self.kind, *(f"{key}={text}" for key, text in self.options.items())])

    @property
    def program(self) -> NamedProgram | None:
        """The program that is run when the generator is loaded; None if no code is."""
        return NamedProgram("generator", self.path, self.function) if self.kind in (ARCHIVE, FUNCTION) else None

    def resolved(self) -> Spec:
        """The same, found from any working directory."""
        return replace(self, path=os.path.realpath(self.path)) if self.path else self

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON object."""
        return {"kind": self.kind, "path": self.path, "function": self.function, "options": self.options}

    @classmethod
    def from_json(cls, value: object) -> Spec | None:
        """The spec in a JSON value; None if it doesn't have that form."""
        if not isinstance(value, dict) or set(value) != {"kind", "path", "function", "options"}:
            return None
        options = value["options"]
        texts = [
            value["kind"],
            value["path"],
            value["function"],
            *(options.values() if isinstance(options, dict) else [0]),
        ]
        if not all(isinstance(text, str) for text in texts):
            return None
        return cls(**value)
