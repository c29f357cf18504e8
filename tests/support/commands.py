"""Commands that must fail, run in this process or in one of their own."""

import os
import resource
import subprocess
import sys

import pytest

from fastflow.cli.main import main


def fails(capsys, *arguments):
    """Run a command that must fail as bad input does, and return its message."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert exit_.value.code == 2
    assert output.out == ""
    assert output.err.startswith("fastflow: error: ")
    assert output.err.count("\n") == 1
    assert output.err.endswith("\n")
    return output.err.removeprefix("fastflow: error: ").strip()


def process(*arguments, largest_file=None, **settings):
    """Run a command in its own process, whose files can't grow beyond `largest_file` bytes, as on a full disk."""

    def limit():
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "fastflow", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}, **settings,
    )  # fmt: skip


def failed_line(result):
    """The message of a process that found the disk full."""
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fastflow: error: File too large: '")
    return result.stderr
