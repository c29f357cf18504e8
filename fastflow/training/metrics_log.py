"""What a training logs: a line of metrics.jsonl for each interval, and the same for TensorBoard where asked."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from fastflow.core.errors import InputError
from fastflow.core.files import naming, replacing


class Journal:
    """metrics.jsonl in a run's folder, continued after a step; later lines are dropped, as their steps are repeated."""

    def __init__(self, folder: Path, after: int, tensorboard: bool = False) -> None:
        self._file = folder / "metrics.jsonl"
        _keep_up_to(self._file, after)
        self._board = _board(folder / "tensorboard", after + 1) if tensorboard else None

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
    """Add a line of JSON to a file; it is whole or absent, should the disk be full."""
    size = file.stat().st_size
    try:
        with naming(file), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError:
        os.truncate(file, size)  # a full disk may have taken half a line
        raise


def _keep_up_to(file: Path, step: int) -> None:
    """Drop the metrics of steps that are about to be repeated, and a line that an interrupt cut off."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    with replacing(file) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines if _step(line) <= step), encoding="utf-8")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _board(folder: Path, first: int) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first)
