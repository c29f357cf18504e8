"""Strategies that draw hostile files: real ones changed where their format has a structure, and as plain bytes."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save as save_safetensors
from support.idx import idx_bytes

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Sample(NamedTuple):
    """A file's bytes.

    Attributes:
        data: the bytes.
        what: what was changed.
        original: a real file, for which a reader must give the same; None if it may give something else.
        refused: whether a reader must refuse it.
    """

    data: bytes
    what: str
    original: bytes | None = None
    refused: bool = False


# Plain bytes

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mangled(data: bytes, draw: Draw, *, head: int = 1 << 30) -> Sample:
    """Some bytes changed as bytes: flipped, cut off, repeated, overwritten by numbers that headers trip over."""
    way = draw(st.sampled_from(("flip", "cut", "number", "insert", "repeat", "append", "nothing", "empty")))
    place = draw(st.integers(0, max(0, min(len(data), head) - 1)))
    if way == "flip":
        changed = bytearray(data)
        for at in draw(st.lists(st.integers(0, max(0, len(data) - 1)), min_size=1, max_size=4)):
            changed[at : at + 1] = bytes([draw(st.integers(0, 255))])
        return Sample(bytes(changed), f"flips near {place}")
    if way == "cut":
        return Sample(data[:place], f"cut off at {place}")
    if way == "number":
        width, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
        number = draw(st.sampled_from(_INTERESTING)) % (1 << 8 * width)
        return Sample(data[:place] + number.to_bytes(width, order) + data[place + width :], f"{number} at {place}")
    if way == "insert":
        return Sample(data[:place] + draw(st.binary(min_size=1, max_size=40)) + data[place:], f"bytes at {place}")
    if way == "repeat":
        end = draw(st.integers(place, len(data)))
        return Sample(data[:end] + data[place:end] + data[end:], f"{place} to {end} twice")
    if way == "append":
        return Sample(data + draw(st.binary(min_size=1, max_size=40)), "bytes at the end")
    return Sample(b"", "empty") if way == "empty" else Sample(data, "nothing", data)


# JSON

_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from((2**31, 2**63, 2**64, 10**400, -(2**63) - 1)),
    st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=6),
    st.sampled_from(("", "\x00", "\ud800", "a\nb", "‮", "x" * 10_000, "../../x", "/etc/passwd", "<script>", "\x1b[2J")),
)  # fmt: skip
_NODES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def json_samples(draw: Draw, real: bytes) -> Sample:
    """A JSON document changed in its tree, or in its text."""
    value = json.loads(real)
    if isinstance(value, dict) and draw(st.integers(0, 2)):
        value.pop("digest", None)  # or the digest would be all that is tried
    if draw(st.integers(0, 3)):
        what = []
        for _ in range(draw(st.integers(1, 3))):
            value, how = _changed_tree(value, draw)
            what.append(how)
        try:
            return Sample(json.dumps(value).encode(), "; ".join(what))
        except (ValueError, RecursionError):
            return Sample(b"{", "half an object", refused=True)
    text = json.dumps(value, indent=draw(st.sampled_from((None, 2))))
    return _changed_text(text, draw)


def _changed_tree(value: Any, draw: Draw) -> tuple[Any, str]:
    """The tree with one node replaced, removed or added."""
    value = copy.deepcopy(value)
    parents = [None, *_containers(value)]
    parent = draw(st.sampled_from(parents)) if len(parents) > 1 else None
    if parent is None:
        new = draw(_NODES)
        return new, f"all is {str(new)[:60]!r}"
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    way = draw(st.sampled_from(("replace", "replace", "remove", "add", "nest")))
    if way == "add" or not keys:
        new = draw(_NODES)
        if isinstance(parent, dict):
            key = draw(st.sampled_from(("", "0", "-1", "00", "9" * 5000, "٣", "\ud800", "extra", "__class__")))
            parent[key] = new
            return value, f"{key[:20]!r} more"
        parent.append(new)
        return value, "an element more"
    key = draw(st.sampled_from(keys))
    if way == "remove":
        del parent[key]
        return value, f"no {key!r}"
    if way == "nest":
        depth = draw(st.sampled_from((1, 10, 80)))  # three of the deepest can still be copied
        for _ in range(depth):
            parent[key] = [parent[key]]
        return value, f"{key!r} in {depth} lists"
    parent[key] = draw(_NODES)
    return value, f"{key!r} is {str(parent[key])[:60]!r}"


def _containers(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [value, *(found for one in inner for found in _containers(one))]
    return []


def _changed_text(text: str, draw: Draw) -> Sample:
    way = draw(
        st.sampled_from(("duplicate", "deep", "digits", "literal", "utf-16", "bom", "bytes", "comment", "mangled"))
    )
    if way == "duplicate" and text.startswith("{") and '"' in text:
        key, _, rest = text[text.index('"') :].partition(":")
        node = draw(st.sampled_from(("1", "null", '"x"', "{}")))
        return Sample(f"{{{key}: {node}, {key}:{rest}".encode(), "a key twice", refused=True)
    if way == "deep":
        depth = draw(st.sampled_from((1000, 100_000, 1_000_000)))
        left, right = draw(st.sampled_from((("[", "]"), ('{"a":', "}"))))
        inner = left * depth + "1" + right * depth
        return Sample(f'{{"x": {inner}}}'.encode() if draw(st.booleans()) else inner.encode(), "deep", refused=True)
    if way == "digits" and (found := [k for k, letter in enumerate(text) if letter.isdigit()]):
        place = draw(st.sampled_from(found))
        return Sample((text[:place] + "9" * draw(st.sampled_from((400, 5000))) + text[place:]).encode(), "many digits")
    if way == "literal":
        for old in (": 1", ": 0", ": true", ": null"):
            if old in text:
                new = draw(st.sampled_from(("NaN", "Infinity", "-Infinity", "01", "1e999", "0x1", "'a'", "tru")))
                return Sample(text.replace(old, f": {new}", 1).encode(), new)
    if way in ("utf-16", "bom"):
        return Sample(text.encode("utf-16" if way == "utf-16" else "utf-8-sig"), way)
    if way == "bytes":
        data = text.encode()
        place = draw(st.integers(0, len(data)))
        return Sample(data[:place] + b"\xff\xfe\x80" + data[place:], "not UTF-8", refused=True)
    if way == "comment":
        return Sample(f"// fastflow\n{text}".encode(), "a comment", refused=True)
    return mangled(text.encode(), draw)


# Images

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
SUFFIX = {"JPEG": "jpg", "WEBP": "webp", "TIFF": "tif", "PPM": "ppm"}


@cache
def real_images() -> dict[str, list[bytes]]:
    """Small images of each format, in the modes that it has."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    modes = {
        "PNG": ("L", "RGB", "RGBA", "P", "LA", "1"),
        "GIF": ("L", "P"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("L", "RGB"),
    }
    found: dict[str, list[bytes]] = {}
    for name in FORMATS:
        for mode in modes.get(name, ("L", "RGB")):
            stream = io.BytesIO()
            rgb.convert(mode).save(stream, name)
            found.setdefault(name, []).append(stream.getvalue())
    return found


@st.composite
def image_samples(draw: Draw, name: str) -> Sample:
    """An image of a format, changed in its chunks where it is a PNG, or as bytes, mostly of its header."""
    data = draw(st.sampled_from(real_images()[name]))
    if name == "PNG" and draw(st.booleans()):
        return _changed_png(data, draw)
    return mangled(data, draw, head=draw(st.sampled_from((64, len(data)))))


def _changed_png(data: bytes, draw: Draw) -> Sample:
    chunks = _chunks(data)
    way = draw(st.sampled_from(("size", "kind", "drop", "twice", "swap", "text", "bomb", "wrong sum", "long chunk")))
    place = draw(st.integers(0, len(chunks) - 1))
    if way in ("size", "bomb"):
        sides = st.sampled_from((0, 1, 2, 5000, 9400, 20_000, 2**31 - 1, 2**32 - 1))
        width, height = draw(sides), draw(sides)
        rest = chunks[0][1][8:]
        chunks[0] = (b"IHDR", struct.pack(">II", width, height) + rest)
        if way == "bomb" and width * height <= 4 * 10**8:
            chunks[0] = (b"IHDR", struct.pack(">II", width, height) + b"\x08\0\0\0\0")
            others = [chunk for chunk in chunks[1:] if chunk[0] == b"IEND"]
            chunks = [chunks[0], (b"IDAT", _zeros((width + 1) * height)), *others]
        return Sample(_png(chunks), f"{way} {width} x {height}")
    if way == "kind":
        depth, kind = draw(st.sampled_from((0, 1, 2, 4, 8, 16, 255))), draw(st.sampled_from((0, 1, 2, 3, 4, 6, 7, 255)))
        header = chunks[0][1]
        chunks[0] = (b"IHDR", header[:8] + bytes([depth, kind]) + header[10:])
        return Sample(_png(chunks), f"depth {depth}, kind {kind}")
    if way == "drop":
        dropped = chunks.pop(place)
        return Sample(_png(chunks), f"no {dropped[0]!r}")
    if way == "twice":
        chunks.insert(place, chunks[place])
        return Sample(_png(chunks), f"{chunks[place][0]!r} twice")
    if way == "swap":
        other = draw(st.integers(0, len(chunks) - 1))
        chunks[place], chunks[other] = chunks[other], chunks[place]
        return Sample(_png(chunks), f"{place} and {other} swapped")
    if way == "text":  # which says nothing about pixels
        chunks.insert(1, (b"tEXt", b"Comment\0" + draw(st.binary(max_size=20)).replace(b"\0", b"")))
        return Sample(_png(chunks), "a comment", data)
    name, content = chunks[place]
    if way == "wrong sum":
        return Sample(_png(chunks, wrong=place), f"a wrong sum of {name!r}", refused=name in (b"IHDR", b"IDAT"))
    length = draw(st.sampled_from((2**31 - 1, 2**32 - 1, len(content) + 1)))
    return Sample(_png(chunks, lengths={place: length}), f"{name!r} of {length} bytes")


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def _png(chunks: list[tuple[bytes, bytes]], wrong: int = -1, lengths: dict[int, int] | None = None) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for place, (name, content) in enumerate(chunks):
        crc = zlib.crc32(name + content) ^ (place == wrong)
        parts += [struct.pack(">I", (lengths or {}).get(place, len(content))), name, content, struct.pack(">I", crc)]
    return b"".join(parts)


@cache
def _zeros(count: int) -> bytes:
    """Zeros, compressed."""
    packer, piece, parts = zlib.compressobj(9), bytes(1 << 20), []
    for _ in range(count >> 20):
        parts.append(packer.compress(piece))
    return b"".join((*parts, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()))


# Arrays

_DESCRIPTIONS = (
    "<f4",
    ">f8",
    "<f2",
    "<i8",
    "|b1",
    "<c8",
    "|O",
    "<U5",
    "|S3",
    "<M8[s]",
    "|V7",
    [("a", "<f4")],
    "nonsense",
    "<f99",
)
_SHAPES = ((3, 8), (0, 8), (3, 7), (24,), (), (2**40, 8), (-1, 8), (3, 8, 1), (2**63, 2**63), (3.5, 8), (10**30, 8))


@st.composite
def npy_samples(draw: Draw) -> Sample:
    """An array in NumPy's format with another header, or changed as bytes."""
    values = np.arange(24, dtype=np.float32).reshape(3, 8) / 10
    stream = io.BytesIO()
    np.save(stream, values)
    data = stream.getvalue()
    if draw(st.booleans()):
        return mangled(data, draw, head=draw(st.sampled_from((128, len(data)))))
    header = {
        "descr": draw(st.sampled_from(_DESCRIPTIONS)),
        "fortran_order": draw(st.sampled_from((False, True, 0, "no"))),
        "shape": draw(st.sampled_from(_SHAPES)),
    }
    if not draw(st.integers(0, 5)):
        header[draw(st.sampled_from(("extra", "shape ")))] = 1
    text = draw(st.sampled_from((repr(header), "(" * 90_000, "__import__('os').system('false')", repr(header) * 9)))
    version = draw(st.sampled_from((b"\1\0", b"\2\0", b"\3\0", b"\x09\0", b"\1\1")))
    width = 2 if version[0] == 1 else 4
    length = min(draw(st.sampled_from((len(text), 2**16 - 1, 2**31))), 2 ** (8 * width) - 1)
    packed = b"\x93NUMPY" + version + length.to_bytes(width, "little") + text.encode()
    return Sample(packed + values.tobytes(), f"header {text[:120]}")


@st.composite
def npz_samples(draw: Draw) -> Sample:
    """An archive of arrays: bombs, several members, other names, wrong sums, or changed as bytes."""
    member = draw(npy_samples()) if draw(st.booleans()) else Sample(_npy_of_zeros(3), "zeros")
    way = draw(st.sampled_from(("mangled", "plain", "bomb", "two", "name", "none", "nested")))
    stream = io.BytesIO()
    method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    with zipfile.ZipFile(stream, "w", method) as archive:
        if way == "bomb":
            rows = draw(st.sampled_from((4 * 10**6, 15 * 10**6)))
            return Sample(_npz_bomb(rows), f"a bomb of {rows} rows")
        if way != "none":
            name = (
                draw(st.sampled_from(("../x.npy", "latents", "a/b.npy", "\x00.npy", ""))) if way == "name" else "z.npy"
            )
            archive.writestr(zipfile.ZipInfo(name or "z.npy"), member.data)
        if way == "two":
            archive.writestr("other.npy", member.data)
        if way == "nested":
            archive.writestr("inner.npz", stream.getvalue())
    data = stream.getvalue()
    if way == "mangled":
        return mangled(data, draw)._replace(original=None)
    return Sample(data, f"{way} {member.what}")


def _npy_of_zeros(rows: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((rows, 8), np.float32))
    return stream.getvalue()


@cache
def _npz_bomb(rows: int) -> bytes:
    stream = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, 8)})
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("z.npy", "w") as member:
        member.write(header.getvalue())
        piece = bytes(1 << 20)
        for _ in range(rows * 32 >> 20):
            member.write(piece)
        member.write(bytes(rows * 32 & ((1 << 20) - 1)))
    return stream.getvalue()


@st.composite
def safetensors_samples(draw: Draw, real: bytes | None = None) -> Sample:
    """A safetensors file with a changed header, or changed as bytes."""
    if real is None:
        real = save_safetensors({"z": np.arange(24, dtype=np.float32).reshape(3, 8) / 10})
    (length,) = struct.unpack("<Q", real[:8])
    header, body = json.loads(real[8 : 8 + length]), real[8 + length :]
    way = draw(st.integers(0, 3))
    if way == 0:
        return mangled(real, draw, head=draw(st.sampled_from((8, 8 + length, len(real)))))
    if way == 1:
        name = draw(st.sampled_from(sorted(key for key in header if key != "__metadata__")))
        entry = header[name]
        field = draw(st.sampled_from(("dtype", "shape", "data_offsets", "extra")))
        options: dict[str, tuple[Any, ...]] = {
            "dtype": ("F64", "F16", "I64", "BOOL", "F8_E4M3", "C64", "X", "", 4),
            "shape": ([3, 8, 1], [2**40, 2**40], [-3, -8], [0], [], [24], "3x8", [2**63]),
            "data_offsets": ([0, 2**62], [96, 0], [-8, 88], [0], [1, 97], [0, 0]),
            "extra": (1,),
        }
        entry[field] = draw(st.sampled_from(options[field]))
        text = json.dumps(header).encode()
    else:
        text = draw(json_samples(json.dumps(header).encode())).data
    length = draw(st.sampled_from((len(text), len(text), 2**63 - 1, 2**64 - 1, 100_000_001, 0, 1)))
    return Sample(struct.pack("<Q", length) + text + body, f"header {text[:120]!r} of {length}")


@st.composite
def idx_samples(draw: Draw) -> Sample:
    """An IDX file, plain or compressed: other sizes, bombs, or changed as bytes."""
    data = idx_bytes(np.arange(3 * 7 * 5).reshape(3, 7, 5))
    way = draw(st.sampled_from(("mangled", "sizes", "kind", "gzip", "mangled gzip", "bomb")))
    if way == "mangled":
        return mangled(data, draw, head=draw(st.sampled_from((16, len(data)))))
    if way == "sizes":
        sizes = draw(st.lists(st.sampled_from((0, 1, 3, 2**16, 2**31, 2**32 - 1)), min_size=3, max_size=3))
        return Sample(data[:4] + b"".join(size.to_bytes(4, "big") for size in sizes) + data[16:], f"sizes {sizes}")
    if way == "kind":
        return Sample(bytes(draw(st.lists(st.integers(0, 255), min_size=4, max_size=4))) + data[4:], "another kind")
    if way == "bomb":
        side = draw(st.sampled_from((2000, 12_000)))
        return Sample(_idx_bomb(side), f"a bomb of {side} x {side}")
    packed = gzip.compress(data, mtime=0)
    return mangled(packed, draw) if way == "mangled gzip" else Sample(packed, "compressed", data)


@cache
def _idx_bomb(side: int) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed:
        packed.write(bytes([0, 0, 8, 3]) + (1).to_bytes(4, "big") + 2 * side.to_bytes(4, "big"))
        for _ in range(side):
            packed.write(bytes(side))
    return stream.getvalue()


@st.composite
def hdf5_samples(draw: Draw, real: bytes) -> Sample:
    """An HDF5 file changed as bytes, mostly where its headers lie."""
    return mangled(real, draw, head=draw(st.sampled_from((96, 2048, len(real)))))


# Weights


class _Runs:
    """What a pickle of an attacker holds: it makes a file where it is loaded."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.mark, "w")


@st.composite
def weights_samples(draw: Draw, mark: Path) -> Sample:
    """What torch.save wrote, and what it didn't: pickles that run code, pages, pointers, other dicts."""
    state = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.zeros(2)}
    way = draw(st.sampled_from(("mangled", "legacy", "old pickle", "attack", "other", "text", "inside")))
    stream = io.BytesIO()
    if way == "attack":
        if draw(st.booleans()):
            return Sample(pickle.dumps(_Runs(str(mark))), "a pickle that runs code", refused=True)
        torch.save({"a": _Runs(str(mark))}, stream)
        return Sample(stream.getvalue(), "weights that run code", refused=True)
    if way == "text":
        text = draw(
            st.sampled_from(
                (
                    "<!doctype html><html><body>Sign in</body></html>",
                    "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
                    "",
                    "\x80",
                )
            )
        )
        return Sample(text.encode(), "a text", refused=True)
    if way == "other":
        other = draw(
            st.sampled_from(([1, 2], {"a": 1}, {1: torch.zeros(2)}, torch.zeros(3), None, {"state_dict": 3}, {}))
        )
        torch.save(other, stream)
        return Sample(stream.getvalue(), f"holds {str(other)[:40]}", refused=True)
    if way == "inside":
        torch.save({"epoch": 3, "state_dict": state}, stream)
        plain = io.BytesIO()
        torch.save(state, plain)
        return Sample(stream.getvalue(), "inside a checkpoint", plain.getvalue())
    torch.save(state, stream, _use_new_zipfile_serialization=way == "mangled")
    data = stream.getvalue()
    return mangled(data, draw, head=draw(st.sampled_from((200, len(data)))))
