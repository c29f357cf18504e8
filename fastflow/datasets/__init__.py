"""Data that moves along known transformations, for training and for measuring; `load` it by name."""

from fastflow.datasets.base import First, Sequences, Split
from fastflow.datasets.digits import digits, mnist
from fastflow.datasets.dsprites import dsprites
from fastflow.datasets.factors import FactorImages, FactorSequences
from fastflow.datasets.images import ImageSequences
from fastflow.datasets.loading import DATASETS, load
from fastflow.datasets.pictures import image_folder
from fastflow.datasets.rendered import falcor3d, isaac3d, shapes3d
from fastflow.datasets.transformations import color, rotate, rotate_hue, scale, sequences, transform, translate

__all__ = [
    "DATASETS",
    "FactorImages",
    "FactorSequences",
    "First",
    "ImageSequences",
    "Sequences",
    "Split",
    "color",
    "digits",
    "dsprites",
    "falcor3d",
    "image_folder",
    "isaac3d",
    "load",
    "mnist",
    "rotate",
    "rotate_hue",
    "scale",
    "sequences",
    "shapes3d",
    "transform",
    "translate",
]
