"""A small grid of factors, its labels and images."""

import math

import numpy as np

SMALL = {"lighting": 3, "camera-x": 1, "camera-y": 4, "color": 2}
COUNT = math.prod(SMALL.values())


def labels(factors=None, low=-0.5, high=2.0):
    """Labels (N, F) of a grid, evenly spaced."""
    sizes = tuple((factors or SMALL).values())
    values = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), -1)
    return low + (high - low) * values / np.maximum(np.array(sizes) - 1, 1)


def pixels(side=6):
    return np.random.default_rng(0).integers(0, 256, (COUNT, side, side, 3)).astype(np.uint8)
