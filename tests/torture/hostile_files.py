"""Hostile files: a clear error or a right read, in little time and memory."""

from __future__ import annotations

import ctypes
import gc
import io
import json
import resource
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.grids import SMALL, labels, pixels

from fastflow import generators
from fastflow.cli.inputs import read_latents
from fastflow.cli.train import training_defaults
from fastflow.core.errors import InputError
from fastflow.datasets.idx import read_idx
from fastflow.datasets.pictures import read_picture, read_whole_picture
from fastflow.datasets.rendered import HDF5Images
from fastflow.generators.state_dicts import read_state_dict
from fastflow.report import write_report
from fastflow.report.comparison import write_comparison
from fastflow.runs.loading import load_run, read_config
from fastflow.saved.edits import load_edit
from fastflow.saved.names import read_names
from fastflow.training.checkpoint import latest_checkpoint
from torture import mutations
from torture.flips import comparable
from torture.mutations import Sample
from torture.parts import REFUSED, RIGHT, Fault, Part
from torture.scenarios import everything

_BATCH = 40  # files of a case
_SECONDS = 5.0  # of the processor, for a file
_MEMORY = 300 << 20  # more than before, for a file
_BACKSTOP = 6 << 30  # of address space more than before: a bomb then fails here, not on the machine


class Kind(NamedTuple):
    """Files of a kind, and who reads them.

    Attributes:
        name: its name.
        file: the file's path in the folder.
        samples: draws such files.
        read: reads the file in a folder.
        noted: whether the reader goes on without what is damaged.
    """

    name: str
    file: str
    samples: st.SearchStrategy[Sample]
    read: Callable[[Path], Any]
    noted: bool = False


class Files(Part):
    """A case is a batch of files of one kind.

    Args:
        folder, seed: as for every part.
        made: makes the folder in which the files lie among real ones.
        kinds: the kinds for such a folder.
    """

    limit = 300.0

    def __init__(
        self,
        folder: Path,
        seed: int,
        made: Callable[[Path], Path] = everything,
        kinds: Callable[[Path], list[Kind]] | None = None,
    ) -> None:
        super().__init__(folder, seed)
        self._base = made(folder / "base")
        self._kinds = (kinds_of_files if kinds is None else kinds)(self._base)
        self._real = {kind.name: _read_or_none(self._base / kind.file) for kind in self._kinds}
        warnings.simplefilter("ignore")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + _BACKSTOP, self._limits[1]))

    def try_case(self, number: int) -> Counter[str]:
        kind = self._kinds[number % len(self._kinds)]
        counts: Counter[str] = Counter()
        faults: list[str] = []

        @seed(self.rng(number).getrandbits(60))
        @settings(
            max_examples=_BATCH,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.samples)
        def one(sample: Sample) -> None:
            if faults:  # the first one's file is kept
                return
            try:
                counts[self._tried(kind, sample)] += 1
            except Fault as fault:
                faults.append(f"{kind.name}, {sample.what}: {fault}")

        one()
        if faults:
            raise Fault(faults[0], counts)
        return counts

    def close(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._limits)

    def _tried(self, kind: Kind, sample: Sample) -> str:
        file = self._base / kind.file
        kept = self.fresh_case_folder() / Path(kind.file).name
        kept.write_bytes(sample.data)
        shutil.copyfile(kept, file)
        gc.collect(0)
        before, begun = _start_of_peak(), time.process_time()
        try:
            found = comparable(kind.read(self._base))
        except InputError as error:
            text = str(error)
            if "\n" in text.strip() or not (Path(kind.file).name in text or str(file.parent) in text):
                raise Fault(f"the message doesn't name the file in one line: {text[:500]}") from error
            if sample.original is not None:
                raise Fault(f"a good file is refused: {text[:500]}") from error
            outcome = REFUSED
        except Exception as error:
            raise Fault(f"{type(error).__name__}: {str(error)[:500]}") from error
        else:
            if sample.refused and not kind.noted:
                raise Fault(f"it should be refused, and gives {str(found)[:200]}")
            outcome = RIGHT
        finally:
            seconds, more = time.process_time() - begun, _peak() - before
            self._restore(kind)
        if seconds > _SECONDS or more > _MEMORY:
            raise Fault(f"it took {seconds:.1f} s and {more >> 20} MB")
        if outcome == RIGHT and sample.original is not None and not kind.noted:
            file.write_bytes(sample.original)
            expected = comparable(kind.read(self._base))
            self._restore(kind)
            if found != expected:
                raise Fault(f"a good file gives {str(found)[:200]}")
        return outcome

    def _restore(self, kind: Kind) -> None:
        real, file = self._real[kind.name], self._base / kind.file
        if real is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(real)


def kinds_of_files(folder: Path) -> list[Kind]:
    """All kinds, for a folder of `everything`."""
    _without_digests(folder)
    return [*kinds_of_documents(folder), *kinds_of_images(folder), *kinds_of_arrays(folder), *kinds_of_weights(folder)]


def _without_digests(folder: Path) -> None:
    """Make checkpoints as earlier versions wrote them, or digests would be all that is tried."""
    for lists in folder.rglob("digests.sha256"):
        state = lists.with_name("state.json")
        if state.exists():
            record = json.loads(state.read_bytes())
            record.pop("digests", None)
            state.write_text(json.dumps(record), encoding="utf-8")
        lists.unlink()


def kinds_of_documents(folder: Path) -> list[Kind]:
    """JSON of every kind."""
    settings = {"num_potentials": 3, "steps": 7, "hidden": [4, 8], "pde": "wave", "dt": 0.5}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")

    def document(name: str, read: Callable[[Path], Any], what: str = "", noted: bool = False) -> Kind:
        data = (folder / name).read_bytes()
        real = data.splitlines()[0] if name.endswith(".jsonl") else data
        return Kind(f"{name}{what}", name, mutations.json_samples(real), read, noted)

    newest = latest_checkpoint(folder / "run" / "checkpoints")
    assert newest is not None
    pages = (
        "evaluation.json",
        "attributes.json",
        "traversals/index.json",
        "traversals/landscapes.json",
        "metrics.jsonl",
    )
    return [
        document("run/config.json", _load, " by load_run"),
        document("run/config.json", lambda folder: vars(read_config(folder / "run")), " by read_config"),
        document("run/names.json", lambda folder: read_names(folder / "run", 3)),
        document(f"run/checkpoints/{newest.folder.name}/state.json", _load, " by load_run"),
        document("settings.json", _settings),
        document("edit.json", lambda folder: load_edit(folder / "edit.json").to_json()),
        *(document(f"run/{name}", _page, " by write_report", noted=True) for name in pages),
        document("comparison/results.json", lambda folder: write_comparison(folder / "comparison").exists()),
    ]


def kinds_of_images(folder: Path) -> list[Kind]:
    """Images of every format."""
    (folder / "images").mkdir()

    def picture(name: str) -> Kind:
        file = f"images/x.{mutations.SUFFIX.get(name, name.lower())}"

        def read(folder: Path) -> Any:
            small, whole = read_picture(folder / file, 8), read_whole_picture(folder / file)
            if small.shape != (3, 8, 8) or whole.shape[0] not in (1, 3) or whole.dtype != torch.uint8:
                raise Fault(f"images of shape {tuple(small.shape)} and {tuple(whole.shape)} {whole.dtype}")
            return whole if whole.numel() < 1000 else None

        return Kind(f"images as {name}", file, mutations.image_samples(name), read)

    return [picture(name) for name in mutations.FORMATS]


def kinds_of_arrays(folder: Path) -> list[Kind]:
    """Latents for a run in every format, and data sets."""
    (folder / "latents").mkdir()
    run = load_run(folder / "run", _generator())
    hdf5 = _hdf5()

    def latents(suffix: str, samples: st.SearchStrategy[Sample]) -> Kind:
        file = f"latents/z.{suffix}"

        def read(folder: Path) -> Any:
            z = read_latents(folder / file, run)
            if z.ndim != 2 or z.shape[1] != 8 or not len(z) or not bool(z.isfinite().all()):
                raise Fault(f"latents {tuple(z.shape)}")
            return z if z.numel() < 1000 else None

        return Kind(f"latents as {suffix}", file, samples, read)

    return [
        latents("npy", mutations.npy_samples()),
        latents("npz", mutations.npz_samples()),
        latents("safetensors", mutations.safetensors_samples()),
        Kind("IDX", "images-idx3-ubyte", mutations.idx_samples(), lambda folder: _idx(folder / "images-idx3-ubyte")),
        Kind("HDF5", "3dshapes.h5", mutations.hdf5_samples(hdf5), lambda folder: _grid(folder / "3dshapes.h5")),
    ]


def kinds_of_weights(folder: Path) -> list[Kind]:
    """Weights of runs and of others."""
    newest = latest_checkpoint(folder / "run" / "checkpoints")
    assert newest is not None
    file = f"run/checkpoints/{newest.folder.name}/weights.safetensors"
    mark = folder / "ran"

    def weights(folder: Path) -> Any:
        try:
            return read_state_dict(folder / "weights.pt")
        finally:
            if mark.exists():
                mark.unlink()
                raise Fault("the file's own code ran")

    return [
        Kind("a checkpoint's weights", file, mutations.safetensors_samples((folder / file).read_bytes()), _load),
        Kind("weights of torch.save", "weights.pt", mutations.weights_samples(mark), weights),
    ]


@cache
def _generator() -> generators.Generator:
    return generators.load("digits-vae")


def _load(folder: Path) -> Any:
    return load_run(folder / "run", _generator()).step


def _page(folder: Path) -> Any:
    return write_report(folder / "run").read_text(encoding="utf-8").startswith("<!doctype html>")


def _settings(folder: Path) -> Any:
    defaults = training_defaults(["discover", "--config", str(folder / "settings.json")])
    return None if defaults is None else vars(defaults.settings)


def _idx(file: Path) -> Any:
    found = read_idx(file, 3)
    return found if found.numel() < 1000 else tuple(found.shape)


def _grid(file: Path) -> Any:
    images = HDF5Images(file, "shapes3d", SMALL, side=6)
    try:
        return images.images(torch.tensor([23, 0, 7])).shape
    finally:
        images._images.file.close()


def _hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, values in {"images": pixels(), "labels": labels()}.items():
            file.create_dataset(name, data=values, compression="gzip")
    return stream.getvalue()


def _read_or_none(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _start_of_peak() -> int:
    """Begin to watch the peak of resident memory, and return what is resident now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
