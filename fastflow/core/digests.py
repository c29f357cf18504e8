"""Digests, by which a file that has changed since it was written is noticed.

A folder of several files has a list of their digests, which `sha256sum -c` reads as well. A single JSON record has its
digest as its last entry.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import InputError

LIST = "digests.sha256"
"""The name of the file with the digests of the other files of its folder."""

_PREFIX = "sha256:"  # a digest in a JSON record, and nothing else in one, begins with it


def digest_of(data: bytes) -> str:
    """The SHA-256 of some bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def state_digest(states: Iterable[Mapping[str, Tensor]]) -> str:
    """The SHA-256 of the names, types, shapes and values of modules' weights, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for state in states:
        for name, tensor in state.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # A copy: a tensor of one element may have a stride of 0, and then can't be viewed as bytes.
            flat = tensor.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the digests of a folder's files, by name, and after them the digest of this list."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    (folder / LIST).write_text(f"{lines}# {digest_of(lines.encode())}\n", encoding="utf-8")


def check_regular(file: Path) -> None:
    """Raise OSError for a pipe, on which a reader may wait for ever, or a device, which may never end."""
    mode = file.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, whoever reads it says that it is one
        raise OSError(errno.EINVAL, "it is a pipe or a device, expected a file", str(file))


def read_digests(folder: Path) -> dict[str, str] | None:
    """The digests of a folder's files, by name; None if the folder has no list of them.

    Raises:
        InputError: the list can't be read, or has changed since it was written.
    """
    file = folder / LIST
    try:
        check_regular(file)
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{str(file)!r} can't be read: {error.strerror}") from error
    lines, mark, last = data.rpartition(b"# ")
    if not mark or last != f"{digest_of(lines)}\n".encode():
        raise InputError(f"{str(file)!r} can't be read: it has changed since it was written")
    listed = (line.partition("  ") for line in lines.decode("utf-8", "replace").splitlines())
    return {name: digest for digest, _, name in listed}


def read_whole(file: Path, digests: Mapping[str, str] | None) -> tuple[bytes, str]:
    """The bytes of a file, and their digest.

    Args:
        file: the file.
        digests: the digests of its folder's files, as `read_digests` gives them; without them nothing is checked.

    Raises:
        InputError: the bytes aren't those that were written, or the list doesn't name the file.
        OSError: the file can't be read.
    """
    check_regular(file)
    data = file.read_bytes()
    digest = digest_of(data)
    if digests is not None and digests.get(file.name) != digest:
        raise InputError(f"{str(file)!r} can't be read: it has changed since it was written")
    return data, digest


def sealed(record: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """A JSON record with its digest as the last entry, "digest". An entry "seconds" isn't covered by it.

    Args:
        record: the record, without a digest.
        without: the entries that may change later.
    """
    return {**record, "digest": _record_digest(record, without)}


def unsealed(record: Mapping[str, Any], file: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """A record that was read from a file, without its digest.

    Records that have none are those of earlier versions, and of people: they are taken as they are.

    Args:
        record: the record.
        file: its file, for the message.
        without: the entries that may have changed.

    Raises:
        InputError: the record has changed since it was written.
    """
    entries = {key: value for key, value in record.items() if key != "digest"}
    # A digest under another name is one whose name has changed.
    renamed = any(isinstance(value, str) and re.match(_PREFIX, value) for value in entries.values())
    expected = _record_digest(entries, without)
    if renamed or record.get("digest", expected) != expected:
        raise InputError(
            f'{str(file)!r} has changed since it was written: restore it, or remove its entry "digest" if you '
            "changed it yourself"
        )
    return entries


def _record_digest(record: Mapping[str, Any], without: Collection[str]) -> str:
    # The same findings have the same digest, however long they took.
    entries = {key: value for key, value in record.items() if key not in (*without, "seconds")}
    return _PREFIX + digest_of(json.dumps(entries).encode())
