"""Files that are either whole or absent."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(file: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `file` in one move, making its folder if need be, and return the path.

    The bytes go to a hidden neighbour first, so a full disk or an interrupt leaves an older `file` untouched.

    Raises:
        OSError: the folder cannot be made or written; the temporary file is removed.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The neighbour is opened plainly, not through mkstemp, so that the file gets the permissions a user expects.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
