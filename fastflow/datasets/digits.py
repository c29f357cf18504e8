"""Handwritten digits: those of UCI out of scikit-learn, and any folder of IDX files, such as MNIST's."""

from __future__ import annotations

from pathlib import Path

import torch

from fastflow.core.errors import InputError
from fastflow.core.plugins import imported
from fastflow.datasets.base import Split, check_split, rows_of
from fastflow.datasets.idx import read_pair
from fastflow.datasets.images import IMAGE_TRANSFORMATIONS, ImageSequences

_STEMS = {"train": "train", "test": "t10k"}  # what the files of a split begin with


def digits(split: Split = "train", transformations: tuple[str, ...] = IMAGE_TRANSFORMATIONS) -> ImageSequences:
    """UCI's 1,797 digits of 8 x 8 pixels (E. Alpaydin, C. Kaynak; CC BY 4.0), from scikit-learn.

    The test split is the fifth that the bundled digits VAE never saw.

    Raises:
        InputError: scikit-learn isn't installed, or an argument can't be used.
    """
    check_split(split)
    data = imported("sklearn.datasets", "metrics", "data set digits").load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = order[: len(order) // 5] if split == "test" else order[len(order) // 5 :]
    note = f"digits of scikit-learn; the {split} split is {len(rows)} of {len(images)}, drawn with seed 0"
    return ImageSequences(images[rows], transformations, name="digits", note=note, labels=labels[rows].long())


def mnist(
    root: Path | str, split: Split = "train", transformations: tuple[str, ...] = IMAGE_TRANSFORMATIONS
) -> ImageSequences:
    """The images of a folder of IDX files: MNIST, Fashion-MNIST, KMNIST, or others of their names.

    With all four files, the splits are theirs. Where only two are there, the test split is 15% of their images, drawn
    with seed 0, and the train split the rest, and `note` says so.

    Raises:
        InputError: files are missing or damaged, or an argument can't be used.
    """
    check_split(split)
    root = Path(root)
    pairs = {stem: pair for stem in _STEMS.values() if (pair := _pair(root, stem))}
    if not pairs:
        raise InputError(
            f"{str(root)!r} has no IDX files: expected train-images-idx3-ubyte and train-labels-idx1-ubyte, or "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each as it is or with .gz"
        )
    if len(pairs) == len(_STEMS):
        images, labels = read_pair(*pairs[_STEMS[split]])
        note = f"{len(images)} images of {str(root)!r}, the files of the {split} split"
    else:
        ((stem, pair),) = pairs.items()
        whole = read_pair(*pair)
        rows = rows_of(split, len(whole.images))
        images, labels = whole.images[rows], whole.labels[rows]
        note = (
            f"{len(rows)} of {len(whole.images)} images of {str(root)!r}, drawn with seed 0 for the {split} split: it "
            f"has only {stem} files"
        )
    return ImageSequences(images, transformations, name="mnist", note=note, labels=labels)


def _pair(root: Path, stem: str) -> tuple[Path, Path] | None:
    """The files of a split, images and labels; None where neither is there."""
    images, labels = _find(root, f"{stem}-images", "idx3-ubyte"), _find(root, f"{stem}-labels", "idx1-ubyte")
    if images and labels:
        return images, labels
    if there := images or labels:
        missing = "labels" if images else "images"
        raise InputError(f"{str(root)!r} has {there.name} but not the {missing} that belong to it")
    return None


def _find(root: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{mark}{kind}{suffix}" for mark in "-." for suffix in ("", ".gz")]
    return next((root / name for name in names if (root / name).is_file()), None)
