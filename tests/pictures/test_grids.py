"""The grid of all potentials: every image is in its place, on one scale."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.pictures import constant_images

from fastflow.core.errors import InputError
from fastflow.pictures.grids import save_grid


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_grid_has_every_image_in_its_place_on_one_scale(tmp_path, kind):
    values = np.linspace(0, 1, 2 * 3 * 2).reshape(2, 3, 2)
    file = save_grid(
        kind(constant_images(values)), tmp_path / "grid.png", rows=["0", "1 turn"], columns=["-1", "start"]
    )
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    opaque = pixels[..., 3] == 255
    # Images are runs of opaque columns in the middle of a row; labels are narrower than any image.
    left = 0
    places = []
    middle = opaque[pixels.shape[0] - 40]
    while left < len(middle):
        right = left
        while right < len(middle) and middle[right]:
            right += 1
        if right - left >= 64:
            places += [left, left + 64 + 3] if right - left > 64 else [left]
        left = max(right, left + 1)
    assert len(places) == 6
    for row in range(2):
        y = pixels.shape[0] - 40 - (1 - row) * (64 + 3)
        for column, x in enumerate(places):
            assert abs(int(pixels[y, x + 32, 0]) - round(255 * values[row, column // 2, column % 2])) <= 1


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((1, 1, 1, 8, 8), ["0"], ["start"]), ((2, 1, 1, 1, 8, 8), ["0"], ["start"]), ((1, 1, 2, 1, 8, 8), ["0"], ["a"])],
    ids=["axes", "rows", "columns"],
)
def test_refused_grids(tmp_path, shape, rows, columns):
    with pytest.raises(InputError, match="labels for rows"):
        save_grid(np.zeros(shape), tmp_path / "grid.png", rows=rows, columns=columns)
    assert not list(tmp_path.iterdir())
