"""Loading data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastflow.core.devices import torch_as_usual
from fastflow.core.errors import InputError
from fastflow.datasets.base import Sequences, Split
from fastflow.datasets.digits import digits, mnist
from fastflow.datasets.dsprites import dsprites
from fastflow.datasets.pictures import image_folder
from fastflow.datasets.rendered import falcor3d, isaac3d, shapes3d

_IN_FOLDERS: dict[str, Callable[..., Sequences]] = {
    "mnist": mnist,
    "images": image_folder,
    "shapes3d": shapes3d,
    "falcor3d": falcor3d,
    "isaac3d": isaac3d,
}
DATASETS = ("digits", "dsprites", *_IN_FOLDERS)


@torch_as_usual()
def load(
    name: str,
    root: Path | str | None = None,
    split: Split = "train",
    transformations: tuple[str, ...] | None = None,
    *,
    size: int | None = None,
    color: bool | None = None,
) -> Sequences:
    """A data set of starting images that move along transformations; docs/datasets.md says where to get the files.

    Args:
        name: "digits", "mnist" (any folder of IDX files), "dsprites", "images" (a folder of image files), "shapes3d",
            "falcor3d" or "isaac3d".
        root: the folder of the data set's files. dSprites are drawn without one, and the digits come with scikit-learn.
        split: "train" or "test".
        transformations: the names of the transformations; the data set's default if None.
        size: for "images", "falcor3d" and "isaac3d": the side to which images are resized, 64 by default.
            For "dsprites": 64, the default, or 32.
        color: for "images": whether images keep their colours, which is the default.

    Raises:
        InputError: there is no such data set, its files are missing or damaged, or an argument can't be used.
    """
    if name not in DATASETS:
        raise InputError(f"data set must be one of {', '.join(DATASETS)}, got {name!r}")
    given: dict[str, Any] = {"transformations": transformations, "size": size, "color": color}
    options = {option: value for option, value in given.items() if value is not None}
    for option, takers in (("size", ("images", "dsprites", "falcor3d", "isaac3d")), ("color", ("images",))):
        if option in options and name not in takers:
            raise InputError(f"data set {name} takes no {option}, which is for {', '.join(takers)}")
    if transformations is not None:
        options["transformations"] = tuple(transformations)
    if name == "digits":
        return digits(split, **options)
    if name == "dsprites":
        return dsprites(root, split, **options)
    if root is None:
        raise InputError(f"data set {name} needs the folder of its files: name it as root, or with --data-root")
    return _IN_FOLDERS[name](root, split, **options)
