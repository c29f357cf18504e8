"""Commands killed at random moments: what was there still loads, and in the end the results are the same to the bit."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

from torture import forks
from torture.forks import Fork
from torture.parts import RIGHT, Fault, Part
from torture.scenarios import SCENARIOS, Library, Scenario, check_end, check_loads, check_whole

_MOST = 4  # kills of one folder
_SEVERAL_WORKERS = 12  # a comparison and a study have workers once in so many cases


class Kills(Part):
    """A case kills a scenario's command a few times, and lets it end."""

    limit = 300.0

    def __init__(self, folder: Path, seed: int, scenarios: dict[str, Scenario] | None = None) -> None:
        super().__init__(folder, seed)
        scenarios = SCENARIOS if scenarios is None else scenarios
        self._library = Library(folder / "references", scenarios)
        self._tried = [scenario for scenario in scenarios.values() if scenario.tried]
        forks.adopt_orphans()

    def try_case(self, number: int) -> Counter[str]:
        rng = self.rng(number)
        scenario = self._tried[number % len(self._tried)]
        reference = self._library.reference(scenario)
        folder = self.fresh_case_folder() / "folder"
        self._library.begin(scenario, folder)
        workers = scenario.name in ("compare", "study") and number // len(self._tried) % _SEVERAL_WORKERS == 5
        arguments = (*scenario.arguments, *(("--workers", "2") if workers else ()))
        kills = step = 0
        for _ in range(rng.randint(1, _MOST)):
            if workers or rng.random() < 0.5:
                seconds = rng.uniform(0, 8 if workers else 1.1 * reference.seconds)
                killed = _killed_after(seconds, arguments, folder, scenario, all_at_once=rng.random() < 0.5)
            else:
                killed = _killed_at_change(rng, arguments, folder, scenario, len(reference.changes))
            if not killed:
                break
            kills += 1
            check_whole(scenario, self._library, folder)
            if scenario.trained is not None:
                before, step = step, check_loads(folder / scenario.trained)
                if step < before:
                    raise Fault(f"the run went back from step {before} to {step}")
        ended = Fork(arguments, folder, scenario.prepare).wait()
        forks.end_orphans(at_once=False)
        check_end(scenario, self._library, folder, ended)
        return Counter({RIGHT: kills})


def _killed_after(
    seconds: float, arguments: tuple[str, ...], folder: Path, scenario: Scenario, *, all_at_once: bool
) -> bool:
    """Kill a command after some time, its workers at once or when they see that it is gone; False if it had ended."""
    fork = Fork(arguments, folder, scenario.prepare)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not fork.ended():
        time.sleep(min(0.001, seconds))
    if all_at_once:
        forks.kill_below(fork.pid)
    fork.kill()
    ended = fork.wait()
    forks.end_orphans(at_once=all_at_once)
    return _was_killed(ended, scenario)


def _killed_at_change(
    rng: random.Random, arguments: tuple[str, ...], folder: Path, scenario: Scenario, changes: int
) -> bool:
    """Kill a command just before it changes a file."""
    kill = forks.killed_at(folder, rng.randrange(changes))

    def prepare() -> None:
        scenario.prepare()
        kill()

    return _was_killed(forks.run(arguments, folder, prepare), scenario)


def _was_killed(ended: forks.Ended, scenario: Scenario) -> bool:
    if ended.code not in (0, -signal.SIGKILL):
        raise Fault(f"{scenario.name} ended with status {ended.code}: {ended.err[-2000:]}")
    return ended.code != 0
