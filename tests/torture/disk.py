"""Disks that are full or broken at every write: one line, nothing lost of what was there, and the next try works."""

from __future__ import annotations

import re
from pathlib import Path

from torture import forks
from torture.parts import REFUSED, RIGHT, Fault, Part
from torture.scenarios import SCENARIOS, Library, Scenario, check_end, check_whole, results

_HIDDEN = re.compile(r"/\.[^/']*\.(tmp|old)|^\.[^/']*\.(tmp|old)")

_MESSAGE = 1024  # bytes for what a command says, which goes to a file too


class Disk(Part):
    """A case lets one write of a scenario's command fail, or all from one on, and then lets the command work."""

    limit = 300.0

    def __init__(self, folder: Path, seed: int, scenarios: dict[str, Scenario] | None = None) -> None:
        super().__init__(folder, seed)
        scenarios = SCENARIOS if scenarios is None else scenarios
        self._library = Library(folder / "references", scenarios)
        self._tried = [scenario for scenario in scenarios.values() if scenario.tried]

    def try_case(self, number: int) -> str:
        rng = self.rng(number)
        scenario, turn = self._tried[number % len(self._tried)], number // len(self._tried)
        reference = self._library.reference(scenario)
        folder = self.fresh_case_folder() / "folder"
        self._library.begin(scenario, folder)
        if rng.random() < 0.25:
            largest = max(file.stat().st_size for file in reference.folder.rglob("*") if file.is_file())
            size = max(_MESSAGE, int(largest ** rng.random()))
            what, fail = f"no file may have more than {size} bytes", forks.smallest_files(size)
        else:
            change = turn % len(reference.changes)  # each in its turn
            code, forever = rng.choice(forks.CODES), rng.random() < 0.3
            what = f"{reference.changes[change]} fails with {code}" + (" and all later writes" if forever else "")
            fail = forks.failing_at(folder, change, code, forever=forever)

        def prepare() -> None:
            scenario.prepare()
            fail()

        ended = forks.run(scenario.arguments, folder, prepare)
        try:
            refused = _check_said(ended)
            if refused:
                check_whole(scenario, self._library, folder)
            else:
                self._check_made(scenario, folder)
            again = forks.run(scenario.arguments, folder, scenario.prepare)
            check_end(scenario, self._library, folder, again)
        except Fault as fault:
            raise Fault(f"{scenario.name}, {what}: {fault}") from fault
        return REFUSED if refused else RIGHT

    def _check_made(self, scenario: Scenario, folder: Path) -> None:
        """Raise Fault unless a command that told of no error made all that it should; temporary files may be left."""
        expected, found = self._library.reference(scenario).results, results(folder)
        wrong = [name for name, value in expected.items() if found.get(name) != value]
        hidden = [name for name in found if any(part.startswith(".") for part in Path(name).parts)]
        wrong += [name for name in found.keys() - expected.keys() if name not in hidden]
        if wrong:
            raise Fault(f"it ended with status 0, but {sorted(wrong)[:5]} aren't what it makes undisturbed")


def _check_said(ended: forks.Ended) -> bool:
    """Whether the command told of an error; raise Fault unless it did so in one line that names no hidden file."""
    if "Traceback" in ended.err:
        raise Fault(f"a traceback: {ended.err[-2000:]}")
    errors = [line for line in ended.err.splitlines() if line.startswith("fastflow: error: ")]
    if ended.code == 0 and not errors:
        return False
    if ended.code not in (1, 2) or len(errors) != 1 or not ended.err.rstrip().endswith(errors[0]):
        raise Fault(f"it ended with status {ended.code}: {ended.err[-2000:]}")
    if _HIDDEN.search(errors[0]):
        raise Fault(f"the message names a temporary file: {errors[0]}")
    return True
