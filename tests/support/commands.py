"""Commands that must fail, also on a disk that is full."""

import resource
import sys
from contextlib import contextmanager

import pytest

from fastflow.cli.main import main


def fails(capsys, *arguments):
    """Run a command that must fail as bad input does, and return its message."""
    said, message = _failed(capsys, arguments)
    assert said == ""
    return message


def fails_after_a_word(capsys, *arguments):
    """The same for a command that may say on standard output what it does before it fails."""
    return _failed(capsys, arguments)[1]


def _failed(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert exit_.value.code == 2
    assert output.err.startswith("fastflow: error: ")
    assert output.err.count("\n") == 1
    assert output.err.endswith("\n")
    return output.out, output.err.removeprefix("fastflow: error: ").strip()


@contextmanager
def files_up_to(size):
    """Within this context, no file of this process can grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # half a module would stay where it is
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = written
