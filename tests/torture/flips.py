"""Bytes flipped, one at a time, in what runs, comparisons and edits are saved as: noticed, or without effect."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from support.runs import weights
from torch import Tensor, nn

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.report import write_report
from fastflow.report.comparison import write_comparison
from fastflow.report.run_files import read_run
from fastflow.runs.loading import load_run, read_config
from fastflow.runs.train import discover
from fastflow.saved.edits import load_edit
from fastflow.saved.names import read_names
from fastflow.training.checkpoint import latest_checkpoint, read_checkpoint
from fastflow.training.flow_config import DiscoverConfig
from torture.parts import REFUSED, RIGHT, Fault, Part
from torture.scenarios import everything

_SLOW = 100  # one case in so many goes to readers that take long
_LONGEST_NAME = 60


class Noted(NamedTuple):
    """What a reader gives that goes on without what is damaged, and says so.

    Attributes:
        value: what it gives.
        notes: what it says.
    """

    value: Any
    notes: str


Read = Callable[[Path], Any]
"""Reads what lies in a folder, and gives its values; it raises InputError for what is damaged."""


class Reader(NamedTuple):
    """A reader of some files.

    Attributes:
        name: its name.
        read: what reads.
        files: patterns of the paths that it reads.
        slow: whether it takes long.
        free: whether the files have no digest, so that what is read may be anything that keeps the rules: a person's
            own names, and what is only drawn.
        alone: whether it changes the folder, and so needs a copy.
    """

    name: str
    read: Read
    files: tuple[str, ...]
    slow: bool = False
    free: bool = False
    alone: bool = False


def _values_of_run(run: Any) -> Any:
    return weights(run), run.step, asdict(run.config), run.bank.extra_repr(), str(run.pde)


def _load(folder: Path) -> Any:
    return _values_of_run(load_run(folder / "run", _generator()))


def _load_vae(folder: Path) -> Any:
    run = load_run(folder / "vae")
    return _values_of_run(run), run.vae.state_dict(), run.transformations, run.generator.starts(4)


def _resume(folder: Path) -> Any:
    config = read_config(folder / "run")
    if not isinstance(config, DiscoverConfig):
        raise InputError("config.json is that of another run")
    longer = DiscoverConfig(**{**vars(config), "steps": config.steps + 1})
    return _values_of_run(discover(_generator(), longer, folder / "run", resume=True, progress=False))


class _Shapes(nn.Module):
    """Stands for a module with this state."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self._state = state

    def state_dict(self, *_: Any, **__: Any) -> Any:
        return self._state


def _restore(name: str) -> Callable[[Path], Read]:
    """A reader of a run's newest checkpoint, as a resumed training reads it, made from a clean one."""

    def made(folder: Path) -> Read:
        newest = latest_checkpoint(folder / name / "checkpoints")
        assert newest is not None
        module = _Shapes(load_file(newest.folder / "weights.safetensors"))
        states = load_file(newest.folder / "optimizer.safetensors")
        count = 1 + max(int(key.partition(".")[0]) for key in states)
        shapes = [states.get(f"{number}.exp_avg", torch.zeros(())).shape for number in range(count)]
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(shape)) for shape in shapes])

        def read(folder: Path) -> Any:
            checkpoint = latest_checkpoint(folder / name / "checkpoints")
            assert checkpoint is not None
            contents = read_checkpoint(checkpoint, module, optimizer)
            return contents.step, contents.weights, contents.optimizer, contents.facts

        return read

    return made


def _ranking(folder: Path) -> Any:
    run = load_run(folder / "run", _generator())

    def evaluate(*_: Any, **__: Any) -> Any:
        raise InputError("evaluation.json can't be used: the run would be evaluated again")

    run.evaluate = evaluate
    return run.ranking()


def _report_files(folder: Path) -> Noted:
    found = dict(vars(read_run(folder / "run")))
    notes = found.pop("notes")
    for name in ("folder", "names", "metrics", "landscapes"):  # the last two are drawn, and have no digest
        del found[name]
    found["evaluation"] = {key: value for key, value in (found["evaluation"] or {}).items() if key != "seconds"}
    compared = ("generator", "predictor")  # with those in use
    found["settings"] = {key: value for key, value in found["settings"].items() if key not in compared}
    return Noted(found, str(notes))


def _page(folder: Path) -> Noted:
    text = write_report(folder / "run").read_text(encoding="utf-8")
    return Noted(text, text)


def _comparison(folder: Path) -> Any:
    return write_comparison(folder / "comparison").read_text(encoding="utf-8")


def _names(folder: Path) -> Any:
    return read_names(folder / "run", 3)


def _edit(folder: Path) -> Any:
    return load_edit(folder / "edit.json").to_json()


@cache
def _generator() -> generators.Generator:
    return generators.load("digits-vae")


_CHECKPOINT = ("weights.safetensors", "optimizer.safetensors", "state.json", "digests.sha256")


def _checkpoint(folder: Path, name: str) -> tuple[str, ...]:
    """The files of a run's newest checkpoint."""
    newest = latest_checkpoint(folder / name / "checkpoints")
    assert newest is not None
    return tuple(f"{name}/checkpoints/{newest.folder.name}/{file}" for file in _CHECKPOINT)


def run_readers(folder: Path) -> list[Reader]:
    """The quick readers of a run itself, for a clean folder in which it is called `run`."""
    files = _checkpoint(folder, "run")
    return [
        Reader("load_run", _load, ("run/config.json", *files)),
        Reader("a resumed discovery's checkpoint", _restore("run")(folder), files),
        Reader("read_config", lambda folder: asdict(read_config(folder / "run")), ("run/config.json",)),
        Reader("read_names", _names, ("run/names.json",), free=True),
    ]


def all_readers(folder: Path) -> list[Reader]:
    """All readers, for a clean folder of `everything`."""
    run, vae = _checkpoint(folder, "run"), _checkpoint(folder, "vae")
    measured = ("run/config.json", "run/evaluation.json", "run/attributes.json", "run/traversals/index.json")
    drawn = ("run/metrics.jsonl", "run/traversals/landscapes.json", "run/traversals/*.png", "run/traversals/*.gif")
    return [
        *run_readers(folder),
        Reader("load_run of a VAE", _load_vae, ("vae/config.json", *vae)),
        Reader("a resumed VAE's checkpoint", _restore("vae")(folder), vae),
        Reader("ranking", _ranking, ("run/evaluation.json",)),
        Reader("read_run", _report_files, measured),
        Reader("read_run of what is drawn", _report_files, drawn[:2], free=True),
        Reader("load_edit", _edit, ("edit.json",)),
        Reader("the page of a comparison", _comparison, ("comparison/results.json",), slow=True),
        Reader("the page of a comparison's pictures", _comparison, ("comparison/strips/*.png",), slow=True, free=True),
        Reader("the page of a run", _page, measured[1:], slow=True),
        Reader("the page of a run's pictures", _page, drawn, slow=True, free=True),
        Reader("discover with resume", _resume, ("run/config.json", *run), slow=True, alone=True),
    ]


class Flips(Part):
    """A case flips a byte, or a bit of it, and lets every reader of the file read it.

    Args:
        folder, seed: as for every part.
        made: makes a clean folder.
        readers: the readers for it.
    """

    limit = 120.0

    def __init__(
        self,
        folder: Path,
        seed: int,
        made: Callable[[Path], Path] = everything,
        readers: Callable[[Path], list[Reader]] = all_readers,
    ) -> None:
        super().__init__(folder, seed)
        self._clean = made(folder / "clean")
        self._flipped = shutil.copytree(self._clean, folder / "flipped", dirs_exist_ok=True)
        self._readers = readers(self._clean)
        self._expected: dict[str, Any] = {}
        files = {file: [r for r in self._readers if _reads(r, file)] for file in _files(self._clean)}
        self._quick = [file for file, known in files.items() if any(not reader.slow for reader in known)]
        self._all = [file for file, known in files.items() if known]
        self._by_file = files

    def try_case(self, number: int) -> str:
        rng = self.rng(number)
        slow = number % _SLOW == _SLOW - 1
        files = self._all if slow else self._quick
        name = files[number // (_SLOW if slow else 1) % len(files)]
        readers = [reader for reader in self._by_file[name] if slow or not reader.slow]
        file = self._flipped / name
        before = file.read_bytes()
        turn = number // len(files)
        place = (turn * _stride(len(before)) + self.seed) % len(before)
        after = _other(before[place], rng)
        how = f"byte {place} of {name} from {before[place]} to {after}"
        outcomes = set()
        try:
            _poke(file, place, after)
            for reader in readers:
                outcomes.add(self._outcome(reader, Path(name).name, how))
        finally:
            _poke(file, place, before[place])
        return REFUSED if REFUSED in outcomes else RIGHT

    def _outcome(self, reader: Reader, name: str, how: str) -> str:
        """Whether a reader refused the flipped file, or gave what it gives for the clean one."""
        if reader.name not in self._expected:
            clean = shutil.copytree(self._clean, self.folder / "expected", dirs_exist_ok=True)
            self._expected[reader.name] = comparable(reader.read(clean))
            shutil.rmtree(clean)
        expected = self._expected[reader.name]
        folder = self._flipped
        if reader.alone:
            folder = shutil.copytree(self._flipped, self.fresh_case_folder(), dirs_exist_ok=True)
        try:
            found = comparable(reader.read(folder))
        except InputError as error:
            text = str(error)
            if "\n" in text.strip() or not (name in text or f"{folder / 'run'}'" in text):
                raise Fault(f"{how}, read by {reader.name}: the message doesn't name the file: {text}") from error
            return REFUSED
        except Exception as error:
            raise Fault(f"{how}, read by {reader.name}: {type(error).__name__}: {error}") from error
        if reader.free:
            if isinstance(found, dict):
                _check_names(found, how)
            return RIGHT
        if isinstance(expected, Noted):
            if found.value == expected.value:
                return RIGHT
            if found.notes.count(name) > expected.notes.count(name):
                return REFUSED
        elif found == expected:
            return RIGHT
        raise Fault(f"{how}, read by {reader.name}: other values, without a word: {_first_difference(found, expected)}")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def _reads(reader: Reader, file: str) -> bool:
    return any(Path(file).match(pattern) for pattern in reader.files)


def _stride(size: int) -> int:
    """A step by which all places of a file are visited, far from each other: the golden ratio's, without a divisor."""
    step = max(1, round(size * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _other(byte: int, rng: random.Random) -> int:
    """Another byte: a bit flipped in half of all cases, else any."""
    return byte ^ (1 << rng.randrange(8)) if rng.random() < 0.5 else (byte + rng.randrange(1, 256)) % 256


def _poke(file: Path, place: int, byte: int) -> None:
    with file.open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes([byte]), place)


def comparable(value: Any) -> Any:
    """A value in a form in which equal means the same bits."""
    if isinstance(value, Noted):
        return value
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return comparable(asdict(value))
    return repr(value) if isinstance(value, float) else value


def _check_names(names: dict[int, str], how: str) -> None:
    """Raise Fault unless names keep the rules for names."""
    for potential, name in names.items():
        if not 0 <= potential < 3 or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise Fault(f"{how}: potential {potential} is called {name!r}, which the rules don't allow")
    if len(set(names.values())) < len(names):
        raise Fault(f"{how}: two potentials have one name: {names}")


def _first_difference(found: Any, expected: Any, path: str = "") -> str:
    if isinstance(found, Noted):
        return _first_difference(found.value, expected.value, path)
    if type(found) is type(expected) and isinstance(found, dict) and found.keys() == expected.keys():
        key = next(key for key in found if found[key] != expected[key])
        return _first_difference(found[key], expected[key], f"{path}.{key}")
    if type(found) is type(expected) and isinstance(found, list) and len(found) == len(expected):
        place = next(k for k in range(len(found)) if found[k] != expected[k])
        return _first_difference(found[place], expected[place], f"{path}[{place}]")
    return f"{path} is {str(found)[:200]}, was {str(expected)[:200]}"
