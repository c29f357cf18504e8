"""The metrics log: one line of metrics.jsonl for each interval, and the same values for TensorBoard if asked for."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from fastflow.core.digests import check_regular
from fastflow.core.errors import InputError
from fastflow.core.files import naming, parse_json, replacing

_LONGEST_LINE = 1 << 20  # bytes; what is longer isn't a line of a metrics log


class MetricsLog:
    """The metrics.jsonl in a run's folder, continued after a step. Lines of later steps are removed."""

    def __init__(self, folder: Path, after: int, tensorboard: bool = False) -> None:
        self._file = folder / "metrics.jsonl"
        _remove_lines_after(self._file, after)
        self._board = _tensorboard_writer(folder / "tensorboard", after + 1) if tensorboard else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log values at a step."""
        append(self._file, {"step": step, **values})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard's writer still holds."""
        if self._board is not None:
            self._board.close()


def check_tensorboard() -> None:
    """Raise InputError unless TensorBoard's writer can be imported."""
    try:
        import_module("tensorboard")
    except ImportError as error:
        raise InputError(f"tensorboard can't be written, {error}: pip install 'fastflow[logging]'") from error


def append(file: Path, record: dict[str, float]) -> None:
    """Add a line of JSON to a file. If that fails, the file is as it was before."""
    size = file.stat().st_size
    try:
        with naming(file), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError:
        os.truncate(file, size)  # a full disk may have left half a line
        raise


def _remove_lines_after(file: Path, step: int) -> None:
    """Remove the lines of steps that are about to be repeated, and a line that an interrupt cut off."""
    with replacing(file) as temporary:
        file.touch()
        check_regular(file)
        with file.open("rb") as log, temporary.open("wb") as kept:
            for line in iter(lambda: log.readline(_LONGEST_LINE), b""):
                if _step(line) <= step:
                    kept.write(line.rstrip() + b"\n")


def _step(line: bytes) -> float:
    """The step of a line; infinity if the line is damaged."""
    try:
        return float(parse_json(line, "a line", finite=False)["step"])
    except (InputError, KeyError, TypeError, ValueError):
        return float("inf")


def _tensorboard_writer(folder: Path, first: int) -> Any:
    """A writer that hides what an earlier one wrote of step `first` and later ones."""
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first)
