"""Faults on purpose, which each part must notice; and the small folders and scenarios to notice them on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.runs import small_run

from fastflow import generators
from fastflow.saved import names
from torture.disk import Disk
from torture.flips import Reader
from torture.kills import Kills
from torture.parts import RIGHT, Fault, Part
from torture.scenarios import SCENARIOS, Scenario


def small_folder(folder: Path) -> Path:
    """A folder with a small run, one of whose potentials has a name."""
    small_run(folder / "run", generators.load("digits-vae")).name(1, "rotation")
    return folder


def outcomes(part: Part, numbers: Iterable[int]) -> tuple[Counter[str], list[str]]:
    """What came of a part's cases and its end, and what its faults say."""
    counts: Counter[str] = Counter()
    faults = []
    for number in numbers:
        try:
            outcome = part.try_case(number)
            counts += Counter({outcome: 1} if isinstance(outcome, str) else outcome)
        except Fault as fault:
            faults.append(str(fault))
    try:
        part.close()
    except Fault as fault:
        faults.append(str(fault))
    return counts, faults


def careless_reader(folder: Path) -> list[Reader]:
    """A reader of weights that doesn't look at their digest."""
    (file,) = folder.glob("run/checkpoints/step-000006/weights.safetensors")
    path = str(file.relative_to(folder))
    return [Reader("a careless reader", lambda folder: load_file(folder / path), (path,))]


class Unruly(Part):
    """Its case 1 kills the process, its case 2 doesn't end, its case 3 is a fault."""

    limit = 1.0

    def try_case(self, number: int) -> str:
        (self.fresh_case_folder() / "input").write_text(str(number))
        if number == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 2:
            time.sleep(60)
        if number == 3:
            raise KeyError("planted")
        return RIGHT


def _remove_first(file: Path, value: Any) -> None:
    file.unlink(missing_ok=True)
    _WRITE(file, value)


def _in_silence(file: Path, value: Any) -> None:
    with suppress(OSError):
        _WRITE(file, value)


_WRITE = names.write_json


def _writing(function: Callable[[Path, Any], None]) -> Callable[[], None]:
    def prepare() -> None:
        names.write_json = function

    return prepare


def tried(kind: str, folder: Path, cases: int, plant: str) -> tuple[Counter[str], list[str]]:
    """What came of the first cases of kills, or of disks, of `fastflow name`; for a process of its own.

    Args:
        kind: "kills" or "disk".
        folder: a folder for them.
        cases: how many cases.
        plant: "lost" removes a file before it writes it anew, "silent" tells of no error; "" plants nothing.
    """
    functions = {"lost": _remove_first, "silent": _in_silence}
    prepare = _writing(functions[plant]) if plant else SCENARIOS["name"].prepare
    base = replace(SCENARIOS["discover"], tried=False)
    first = replace(SCENARIOS["name"], tried=False)
    scenarios: dict[str, Scenario] = {
        "discover": base,
        "name": first,
        "rename": replace(SCENARIOS["rename"], prepare=prepare),
    }
    part = {"kills": Kills, "disk": Disk}[kind](folder, 0, scenarios)
    return outcomes(part, range(cases))


def send_tried(sender: Any, *arguments: Any) -> None:
    """Send what `tried` gives through a pipe."""
    torch.set_num_threads(1)  # before anything is computed: a fork of threads may hang
    sender.send(tried(*arguments))


OPEN_TO_ALL = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        config = {"components": [], "dependencies": [{"targets": [[1, "load"]], "inputs": []}]}
        done = {"msg": "process_completed", "success": True, "output": {"data": []}}
        event = "data: " + json.dumps(done)
        answer = f"window.gradio_config = {json.dumps(config)}\\n{event}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_HEAD = do_PUT = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
"""A server that answers everybody."""
