"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastflow.datasets.base import Sequences, Split
from fastflow.datasets.digits import digits, mnist
from fastflow.datasets.dsprites import dsprites
from fastflow.errors import InputError


def load(
    name: str, root: Path | str | None = None, split: Split = "train", transformations: tuple[str, ...] | None = None
) -> Sequences:
    """A data set of starting images that move along transformations.

    Args:
        name: "digits", "mnist" (any folder of IDX files) or "dsprites".
        root: the folder of its files. dSprites without one are drawn, and the digits come with scikit-learn.
        split: "train" or "test".
        transformations: which ones, by name, or None for those that the data set has by itself; see docs/datasets.md.

    Raises:
        InputError: there is no such data set, its files are missing or damaged, or an argument can't be used.
    """
    rooted: dict[str, Callable[..., Sequences]] = {"mnist": mnist, "dsprites": dsprites}
    known = ("digits", *rooted)
    if name not in known:
        raise InputError(f"data set must be one of {', '.join(known)}, got {name!r}")
    chosen = {} if transformations is None else {"transformations": tuple(transformations)}
    if name == "digits":
        return digits(split, **chosen)
    if root is None and name != "dsprites":
        raise InputError(f"data set {name} needs the folder of its files: name it as root, or with --data-root")
    return rooted[name](root, split, **chosen)
