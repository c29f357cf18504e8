"""Small files in the layout of the official dSprites file."""

import math

import numpy as np

from fastflow.datasets.dsprites import FACTORS, OFFICIAL_FILE

SIZES = tuple(FACTORS.values())
SMALL = {"color": 1, "shape": 3, "scale": 2, "orientation": 3, "position-x": 4, "position-y": 5}


def arrays():
    """The arrays of a small file, by name."""
    sizes = tuple(SMALL.values())
    count = math.prod(sizes)
    images = np.random.default_rng(0).integers(0, 2, (count, 64, 64)).astype(np.uint8)
    classes = np.stack(np.unravel_index(np.arange(count), sizes), -1).astype(np.int64)
    metadata = np.array({"title": "dSprites"}, dtype=object)
    return {"metadata": metadata, "imgs": images, "latents_classes": classes, "latents_values": classes.astype(float)}


def written(folder, save=np.savez_compressed, **changes):
    """A small file with some arrays changed, or left out where they are None."""
    file = folder / OFFICIAL_FILE
    save(file, **{name: value for name, value in {**arrays(), **changes}.items() if value is not None})
    return file
