"""Commands that change folders, small enough to be tried by the hundred, and what must hold of what they make."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from support.runs import options

from fastflow.core.errors import InputError
from fastflow.runs.loading import load_run
from fastflow.studies.likelihood import variants
from fastflow.training.checkpoint import latest_checkpoint
from fastflow.training.vae_config import VAEConfig
from torture import forks
from torture.parts import Fault

_OFTEN = {"steps": 12, "batch_size": 12, "log_every": 1, "checkpoint_every": 2, "ema": 0.9}
_DISCOVER = ("discover", "--generator", "digits-vae", "--out", "run", *options(**_OFTEN))
_VAE = (
    *("train-vae", "--data", "digits", "--transformations", "rotation", "scale", "--out", "vae"),
    *options(**_OFTEN, latent_dim=3, widths=(16,), supervision="weak"),
)
_COMPARE = (
    *("compare", "--generator", "digits-vae", "--out", "comparison", "--methods", "random", "pca", "--seeds", "1"),
    *("--pairs", "64", "--starts", "4", *options(checkpoint_every=3)),
)
_STUDY = ("study", "likelihood", "--out", "study", "--data", "digits", "--seeds", "1", "--variants", "plain")


def _nothing() -> None: ...


def _small_study() -> None:
    config = VAEConfig(
        data="digits", transformations=("rotation", "scale"), widths=(8,), latent_dim=2, batch_size=4, hidden=(8,),
        path_steps=2, steps=4, checkpoint_every=2, log_every=1,
    )  # fmt: skip
    small = variants.Size(
        {"digits": config}, sides={}, lengths=(1,), sequences=2, images=4, num_samples=2, paths=2, fitted=4
    )
    variants.SIZES["small"] = small


def _save_edit() -> None:
    run = load_run("run")
    run.edit({0: 1.0, 2: -0.5}, 2.5).then(1, -1).save("edit.json")
    save_file({"latents": run.generator.sample(3, 5)}, "latents.safetensors")


@dataclass(frozen=True)
class Scenario:
    """A command that makes or changes something in a folder, and does it again if it was stopped.

    Attributes:
        name: its name.
        arguments: its arguments.
        base: the scenario whose results it starts from; an empty folder if None.
        whole: files and folders that are always as they were or as they will be.
        trained: the folder of a training: once it has a checkpoint, it loads at any time.
        prepare: what a fork does before the command.
        tried: False for what others start from.
    """

    name: str
    arguments: tuple[str, ...]
    base: str | None = None
    whole: tuple[str, ...] = ()
    trained: str | None = None
    prepare: Callable[[], None] = _nothing
    tried: bool = True


_PICTURES = ("run/traversals",)
_MEASURES = ("run/evaluation.json",)
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("discover", (*_DISCOVER, "--resume"), trained="run"),
        Scenario("train-vae", (*_VAE, "--resume"), trained="vae"),
        Scenario("traverse", ("traverse", "run", "--starts", "2"), "discover", trained="run", tried=False),
        Scenario("redraw", ("traverse", "run", "--starts", "3", "--overwrite"), "traverse", _PICTURES, "run"),
        Scenario("evaluate", ("evaluate", "run", "--samples", "64"), "discover", _MEASURES, "run"),
        Scenario("name", ("name", "run", "1", "rotation"), "discover", ("run/names.json",), "run"),
        Scenario("rename", ("name", "run", "1", "scale"), "name", ("run/names.json",), "run"),
        Scenario(
            "report", ("report", "run", "--samples", "64"), "discover",
            (*_MEASURES, *_PICTURES, "run/attributes.json", "run/report.html"), "run",
        ),
        Scenario("edit", ("name", "run"), "discover", prepare=_save_edit, tried=False),
        Scenario(
            "apply", ("apply", "edit.json", "--folder", "run", "--to", "latents.safetensors", "--out", "edited",
                      "--overwrite"), "edit", ("edited",), "run",
        ),
        Scenario("overwrite", (*_DISCOVER, "--seed", "1", "--overwrite"), "traverse"),
        Scenario("compare", (*_COMPARE, "--resume"), whole=("comparison/results.json",)),
        Scenario("study", (*_STUDY, "--resume"), prepare=_small_study),
    )
}  # fmt: skip


class Reference(NamedTuple):
    """What a scenario makes where nobody disturbs it.

    Attributes:
        folder: what it made.
        results: the same, as `results` reads it.
        seconds: how long it took.
        changes: what it did to files, event by event.
    """

    folder: Path
    results: dict[str, Any]
    seconds: float
    changes: list[str]


class Library:
    """The references of scenarios, made when they are first needed.

    Args:
        folder: where they lie.
        scenarios: the scenarios by name; `SCENARIOS` if None.
        timed: whether the time that each takes matters.
    """

    def __init__(self, folder: Path, scenarios: dict[str, Scenario] | None = None, *, timed: bool = True) -> None:
        self.folder, self._timed = folder, timed
        self.scenarios = SCENARIOS if scenarios is None else scenarios
        self._known: dict[str, Reference] = {}

    def reference(self, scenario: Scenario) -> Reference:
        """The reference of a scenario."""
        if scenario.name not in self._known:
            self._known[scenario.name] = self._made(scenario)
        return self._known[scenario.name]

    def begin(self, scenario: Scenario, folder: Path) -> None:
        """Put what a scenario starts from into a new folder."""
        if scenario.base is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.reference(self.scenarios[scenario.base]).folder, folder)

    def before(self, scenario: Scenario) -> dict[str, Any]:
        """What a scenario starts from, as `results` reads it."""
        return {} if scenario.base is None else self.reference(self.scenarios[scenario.base]).results

    def _made(self, scenario: Scenario) -> Reference:
        folder = self.folder / scenario.name
        modules, log = self.folder / "modules", self.folder / "changes"
        again = self._timed
        while True:  # once more where something had to be imported, so that the time is the command's own
            shutil.rmtree(folder, ignore_errors=True)
            self.begin(scenario, folder)
            log.unlink(missing_ok=True)
            count = forks.counting(folder, log)

            def prepare(count: forks.Prepare = count) -> None:
                scenario.prepare()
                count()
                forks.AT_END.append(lambda: modules.write_text("\n".join(sys.modules)))

            begun = time.monotonic()
            ended = forks.run(scenario.arguments, folder, prepare)
            seconds = time.monotonic() - begun
            if ended.code:
                raise AssertionError(f"undisturbed, {scenario.name} ended with status {ended.code}: {ended.err}")
            if not _imported(modules.read_text().split()) or not again:
                return Reference(folder, results(folder), seconds, log.read_text().splitlines())
            again = False


def _imported(names: list[str]) -> bool:
    """Import the modules that a fork has imported, and tell whether there were any."""
    before = len(sys.modules)
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            with suppress(Exception):
                import_module(name)
    return len(sys.modules) > before


def everything(folder: Path) -> Path:
    """Make a folder with all that is read: a run, measured, drawn and named, an edit, a VAE and a comparison."""
    save = SCENARIOS["edit"].prepare
    more = (
        Scenario("reported and named", ("name", "run", "1", "rotation"), "report"),
        Scenario("reported", ("name", "run"), "reported and named", prepare=save),
    )
    scenarios = {**SCENARIOS, **{scenario.name: scenario for scenario in more}}
    library = Library(folder.with_name("references"), scenarios, timed=False)
    for name in ("reported", "train-vae", "compare"):
        shutil.copytree(library.reference(scenarios[name]).folder, folder, dirs_exist_ok=True)
    file = folder / "run" / "traversals" / "landscapes.json"  # the largest by far: one potential's is enough
    landscapes = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({"potentials": landscapes["potentials"][:1]}), encoding="utf-8")
    return folder


# What differs between two runs of the same command: times, and digests of records that hold times.
_TIMES = ("seconds", "training_cpu_s", "measuring_cpu_s", "engine_share", "steps_per_second", "digest")


def results(folder: Path) -> dict[str, Any]:
    """What a folder holds, by path, without what differs between two runs of the same command."""
    return {str(file.relative_to(folder)): _read(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def part_of(found: dict[str, Any], path: str) -> dict[str, Any]:
    """Of what a folder holds, a file or what lies in a folder."""
    return {name: value for name, value in found.items() if name == path or name.startswith(f"{path}/")}


def check_whole(scenario: Scenario, library: Library, folder: Path) -> None:
    """Raise Fault unless what was there still loads, and what is written at once is there as before or as new."""
    found = results(folder)
    before, after = library.before(scenario), library.reference(scenario).results
    for path in scenario.whole:
        found = _with_moved(found, path)
        if part_of(found, path) not in (part_of(before, path), part_of(after, path)):
            raise Fault(f"{path} is neither as before nor as it will be: {_difference(found, after, path)}")
    if scenario.trained is not None:
        check_loads(folder / scenario.trained)


def _with_moved(found: dict[str, Any], path: str) -> dict[str, Any]:
    """What a folder holds, with a folder that was moved away for a moment: the next command moves it back."""
    place = Path(path)
    moved = re.compile(rf"{re.escape(str(place.parent))}/\.{re.escape(place.name)}\.\d+\.old/(.*)", re.DOTALL)
    back = {f"{path}/{match[1]}": value for name, value in found.items() if (match := moved.fullmatch(name))}
    return found if part_of(found, path) else {**found, **back}


def check_loads(folder: Path) -> int:
    """The step of the run in a folder, 0 if it has none yet; raise Fault unless it loads."""
    newest = latest_checkpoint(folder / "checkpoints") if folder.exists() else None
    if newest is None:
        return 0
    try:
        return load_run(folder).step
    except InputError as error:
        raise Fault(f"the run no longer loads: {error}") from error


def check_end(scenario: Scenario, library: Library, folder: Path, ended: forks.Ended) -> None:
    """Raise Fault unless the command ended well, and made to the bit what it makes undisturbed, and nothing more."""
    if ended.code or "Traceback" in ended.err:
        raise Fault(f"in the end, {scenario.name} ended with status {ended.code}: {ended.err[-2000:]}")
    leftovers = sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))
    if leftovers:
        raise Fault(f"temporary files are left: {leftovers}")
    found, expected = results(folder), library.reference(scenario).results
    if found != expected:
        raise Fault(f"in the end, the results differ: {_difference(found, expected)}")


def _read(file: Path) -> Any:
    if file.suffix == ".json":
        try:
            return _without_times(json.loads(file.read_text(encoding="utf-8")))
        except ValueError:
            return file.read_bytes()
    if file.suffix == ".jsonl":
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        return [_line(line) for line in lines]
    if file.suffix in (".html", ".md"):  # which show times
        text = file.read_text(encoding="utf-8", errors="replace").rstrip()
        return text.endswith("</html>") if file.suffix == ".html" else bool(text)
    return file.read_bytes()


def _line(text: str) -> Any:
    try:
        return {key: value for key, value in _without_times(json.loads(text)).items() if not key.startswith("share_")}
    except (ValueError, AttributeError):
        return text


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in _TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _difference(found: dict[str, Any], expected: dict[str, Any], path: str = "") -> str:
    """Which files differ, and how a few of them do."""
    found, expected = (part_of(side, path) if path else side for side in (found, expected))
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    shown = [f"{name}: {_short(found[name])} for {_short(expected[name])}" for name in other[:2]]
    return f"missing {missing[:5]}, more {more[:5]}, other {other[:5]} ({'; '.join(shown)})"


def _short(value: Any) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) < 300 else text[:300] + "..."
