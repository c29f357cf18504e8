"""Small IDX files, written as they should be."""

import gzip
from pathlib import Path

import numpy as np


def idx_bytes(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_pair(folder: Path, stem: str, count: int, *, compressed: bool = True, seed: int = 0, mark: str = "-") -> None:
    """Random images of 7 x 5 and labels, named as MNIST's are."""
    rng = np.random.default_rng(seed)
    arrays = {"images": rng.integers(0, 256, (count, 7, 5)), "labels": rng.integers(0, 10, count)}
    for kind, values in arrays.items():
        file = folder / f"{stem}-{kind}{mark}idx{values.ndim}-ubyte{'.gz' if compressed else ''}"
        content = idx_bytes(values)
        file.write_bytes(gzip.compress(content) if compressed else content)
