"""Commands in forks of this process, which has everything imported: one costs its own time alone, and may be killed."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fastflow.cli.main import main
from torture.parts import Fault
from torture.supervision import end_with_parent

Prepare = Callable[[], None]
"""What a fork does before its command."""


class Ended(NamedTuple):
    """How a command ended: its exit status, or minus the signal's number; and what it printed."""

    code: int
    out: str
    err: str


class Fork:
    """A command that is under way in a fork, with the folder `folder` as its current one.

    Its output goes to hidden files beside `folder`.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, prepare: Prepare | None = None) -> None:
        self._streams = [folder.parent / f"{folder.name}.{name}" for name in ("out", "err")]
        for file in self._streams:
            file.touch()  # here, so that it is there however soon the command is killed
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(list(arguments), folder, self._streams, prepare)
        with suppress(ProcessLookupError):  # here too, so that it may be killed before it has done so itself
            os.setpgid(self.pid, self.pid)

    def ended(self) -> bool:
        """Whether it has ended by now; it stays there to be asked how."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command and to all that it started."""
        os.killpg(self.pid, number)

    def wait(self, seconds: float = 120) -> Ended:
        """Wait for its end; raise Fault, with its traceback, if that takes more than so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.002)
        hangs = not self.ended()
        if hangs:
            os.kill(self.pid, signal.SIGABRT)  # at which Python says where it is
            time.sleep(1)
            self.kill()
        _, status = os.waitpid(self.pid, 0)
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in self._streams)
        if hangs:
            raise Fault(f"a command doesn't end within {seconds:g} s: {err[-3000:]}")
        return Ended(os.waitstatus_to_exitcode(status), out, err)


def run(arguments: Sequence[str], folder: Path, prepare: Prepare | None = None) -> Ended:
    """Run a command to its end."""
    return Fork(arguments, folder, prepare).wait()


def _become(arguments: list[str], folder: Path, streams: list[Path], prepare: Prepare | None) -> None:
    """Be the command; never return."""
    code = 1
    try:
        os.setpgrp()
        end_with_parent()
        for number, file in enumerate(streams, start=1):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(descriptor, number)
            os.close(descriptor)
        faulthandler.enable(2)
        os.chdir(folder)
        if prepare is not None:
            prepare()
        main(arguments)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        _quiet.append(True)
        for act in AT_END:
            act()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_quiet: list[bool] = []  # hooks have nothing to do any more once the command has ended
AT_END: list[Callable[[], Any]] = []
"""What a fork does when its command has ended."""

CHANGING = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "os.link")
"""The events by which a program changes files: each a moment at which it may be killed, or at which a disk is full."""


def at_changes(folder: Path, act: Callable[[int, str, str, object], None]) -> Prepare:
    """Call `act` before each change of files below a folder.

    It is told the change's number, from 0 on, its event, the whole path, and the path as the program named it.
    """
    inside = os.path.realpath(folder) + os.sep

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in CHANGING or _quiet:
            return
        if event == "open" and not _writes(arguments):
            return
        path = _path_of(event, arguments)
        if path is not None and path.startswith(inside):
            number = counted[0]
            counted[0] += 1
            act(number, event, path, arguments[0])

    counted = [0]
    return lambda: sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _path_of(event: str, arguments: tuple[object, ...]) -> str | None:
    """What an event changes, as an absolute path without links in its folder; None for a descriptor."""
    path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    folder = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
    text = os.fsdecode(path)
    if isinstance(folder, int) and folder > 2 and not os.path.isabs(text):
        text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    text = os.path.abspath(text)
    return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))


def counting(folder: Path, file: Path) -> Prepare:
    """Write to a file how many changes of files below a folder there were, as a line of its own for each."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def act(number: int, event: str, path: str, named: object) -> None:
        os.write(descriptor, f"{event} {path}\n".encode())

    return at_changes(folder, act)


def killed_at(folder: Path, change: int) -> Prepare:
    """Kill the process just before a change of files below a folder."""

    def act(number: int, event: str, path: str, named: object) -> None:
        if number == change:
            os.kill(os.getpid(), signal.SIGKILL)

    return at_changes(folder, act)


def failing_at(folder: Path, change: int, code: int, *, forever: bool = False) -> Prepare:
    """Let a change of files below a folder fail with an error number; `forever` also all later ones that need space."""

    def act(number: int, event: str, path: str, named: object) -> None:
        later = forever and number > change and event not in ("os.remove", "os.rmdir")
        if number == change or later:
            raise OSError(code, os.strerror(code), named)

    return at_changes(folder, act)


def smallest_files(size: int) -> Prepare:
    """Let no file grow beyond so many bytes, also where native code writes it."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)


def adopt_orphans() -> None:
    """Make this process the parent of processes whose own parent ends, so that it can wait for them."""
    ctypes.CDLL(None).prctl(36, 1)


def kill_below(pid: int) -> None:
    """Kill the processes that a process has started."""
    for child in _children(pid):
        kill_below(child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def end_orphans(at_once: bool, seconds: float = 60) -> None:
    """Wait for the processes that killed ones have started, as they end by themselves, or kill them."""
    deadline = time.monotonic() + seconds
    while orphans := _children(os.getpid()):
        for child in orphans:
            if at_once or time.monotonic() > deadline:
                kill_below(child)
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
