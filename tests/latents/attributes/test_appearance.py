"""Attributes of any image, by hand."""

import pytest
import torch

from fastflow.metrics import appearance, appearance_names


def test_by_hand():
    images = torch.zeros(1, 3, 4, 8)
    images[:, 0, :2, 4:] = 0.9  # red, up on the right
    brightness, contrast, left_right, up_down, background, sharpness, warmth = appearance(images.double())[0].tolist()
    grey = torch.tensor([0.3] * 8 + [0.0] * 24, dtype=torch.float64)
    assert brightness == pytest.approx(0.3 / 4)
    assert contrast == pytest.approx(float(grey.std(correction=0)))
    assert left_right == pytest.approx(0.15)
    assert up_down == pytest.approx(-0.15)
    assert background == pytest.approx(0.3 * 5 / 20)
    edges = 2 * 0.3 + 4 * 0.3  # two pixels to the right, four down
    assert sharpness == pytest.approx(edges / 32 / contrast)
    assert warmth == pytest.approx(0.9 / 4)


def test_grey_images_have_no_warmth_and_black_ones_no_sharpness():
    values = appearance(torch.zeros(2, 1, 5, 5))
    assert values.shape == (2, 6)
    assert not values.any()
    assert len(appearance_names(1)) == 6
    assert len(appearance_names(3)) == appearance(torch.rand(1, 3, 8, 8)).shape[1] == 7


def test_dtype_is_the_images():
    assert appearance(torch.rand(1, 1, 8, 8)).dtype == torch.float32
