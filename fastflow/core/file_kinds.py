"""What a file really is, whatever its name says: for error messages about files that hold something else."""

from __future__ import annotations

import re
import zipfile
from html import unescape
from pathlib import Path

from fastflow.core.files import DAMAGED_ZIP

_READ = 4096  # bytes from the beginning that tell what a file is

# The first bytes of kinds of files, and what those files are.
_MAGIC = (
    (b"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (b"BZh", "it is compressed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "it is compressed by xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstandard: unpack it first"),
    (b"7z\xbc\xaf", "it is a 7z archive: unpack it first"),
    (b"Rar!", "it is a RAR archive: unpack it first"),
    (b"\x89HDF", "it is an HDF5 file, such as Keras writes"),
    (b"\x93NUMPY", "it is an array of NumPy"),
    (b"\x89PNG", "it is an image"),
    (b"\xff\xd8\xff", "it is an image"),
    (b"GIF8", "it is an image"),
    (b"%PDF", "it is a PDF"),
    (b"\x7fELF", "it is a program for Linux"),
    (b"MZ", "it is a program for Windows"),
    (b"GGUF", "it is a GGUF file, such as llama.cpp reads"),
    (b"\x00\x05\x16\x07", "it holds what macOS notes about another file: take the one without ._ before its name"),
)  # fmt: skip


_WEB_PAGE = re.compile(
    r"(<\?xml[^>]*>|<!--.*?-->|\s)*<(!doctype\s+html|html|head|body|title|script|meta)\b", re.IGNORECASE | re.DOTALL
)
_TORCH = "it is a file of torch.save: give it a name that ends in .pt"
_TORCH_BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, which older files begin with
_ONNX = re.compile(rb"\x08[\x01-\x1f][\x12:]", re.DOTALL)  # the version of its format, then its producer or its graph


def what_it_is(file: Path) -> str | None:
    """A clause on what a file is and what to do about it, if it is neither weights nor damaged ones; None if not known.

    It never raises an error: a file that can't be read isn't known.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(_READ)
    except OSError:
        return None
    if not start:
        return "it is empty: download or save it again"
    if not start.strip(b"\0"):
        return "it holds nothing but zeros: download or save it again"
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "it is a pointer of Git LFS, which stands for the file: fetch the file itself with git lfs pull"
    for magic, words in _MAGIC:
        if start.startswith(magic):
            return words
    if start.startswith(b"PK"):
        return _archive_words(file)
    if file.suffix == ".safetensors":
        if start.startswith(b"\x80\x02"):
            return _TORCH
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "it is a file of safetensors: give it a name that ends in .safetensors"
    if re.match(rb"\x80[\x02-\x05]", start) and not start.startswith(_TORCH_BEFORE_ZIP):
        return (
            "it is a pickle that torch.save didn't write, and could run code: load it in a program that you trust, and "
            "save the module's state_dict() with torch.save"
        )
    if start[4:8] == b"TFL3":
        return "it is a model of TensorFlow Lite"
    if _ONNX.match(start):
        return "it seems to be a model in ONNX, through which no gradient passes: take the one that it was made of"
    if start[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    return _text_words(start)


def _archive_words(file: Path) -> str | None:
    """What a file is that begins as a zip archive does; None for one of torch.save."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except DAMAGED_ZIP:
        return "it begins as an archive and is cut off or damaged: download or save it again"
    inside = {name.partition("/")[2] for name in names}
    if "archive_format" in inside or "serialized_exported_program.json" in names:  # new and old ones
        return "it is a program of torch.export: name it alone, without an architecture before it"
    if any(name.startswith("code/") for name in inside):
        return "it is a program of TorchScript: name it alone, without an architecture before it"
    if "data.pkl" in inside:
        return _TORCH if file.suffix == ".safetensors" else None
    if names and all(name.endswith(".npy") for name in names):
        return "it is an archive of NumPy's arrays"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"it is a zip archive of other things ({shown or 'nothing'}): unpack it first"


def _text_words(start: bytes) -> str | None:
    """What a file is that begins with a text; None if it doesn't."""
    try:
        text = start.decode("utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "ignore")
    except UnicodeError:
        return None
    plain = text.strip()
    if _WEB_PAGE.match(plain):
        title = re.search(r"<title[^>]*>\s*(.*?)\s*</title", plain, re.I | re.S)
        words = f", {' '.join(unescape(title[1]).split())!r}" if title and title[1] else ""
        return f"it is a web page{words}: download the file itself, and see in a browser what the page says"
    if re.match(r'\{\s*"(metadata|weight_map)"', plain) and '"weight_map"' in plain:
        return "it is the index of weights that lie in several files beside it: join them in one file first"
    if any(not (character.isprintable() or character.isspace()) for character in plain) or "\ufffd" in plain:
        return None
    if len(text.encode()) < len(start) - 4:  # much of it is no UTF-8
        return None
    line = " ".join(plain.splitlines()[0].split()) if plain else ""
    shown = line if len(line) <= 60 else line[:59] + "…"
    return f"it is a text that begins with {shown!r}: download or save the file itself again"
