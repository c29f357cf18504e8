"""Checks of pixels."""

import pytest
import torch

from fastflow.core.checks import check_pixels, warn_of_nearly_black
from fastflow.core.errors import InputError


@pytest.mark.parametrize("images", [torch.zeros(2, 3), torch.rand(4, 5), torch.full((3,), 1.04), torch.empty(0)])
def test_pixels_in_their_range_pass(images):
    check_pixels(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.linspace(-1, 1, 50), r"x must lie in \[0, 1\], got -1 to 1: scale them first"),
        (torch.linspace(0, 255, 50), r"x must lie in \[0, 1\], got 0 to 255: scale them first"),
        (
            torch.zeros(3, dtype=torch.uint8),
            r"x must be floats in \[0, 1\], got torch.uint8: divide 8-bit images by 255",
        ),
    ],
)
def test_pixels_of_another_range_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        check_pixels(images, "x")


def test_eight_bit_masks_of_zeros_and_ones_are_told_of():
    with pytest.warns(UserWarning, match="hold 0 and 1 only, which is black: 255 is white"):
        warn_of_nearly_black(torch.tensor([0, 1], dtype=torch.uint8))
    warn_of_nearly_black(torch.tensor([0, 2], dtype=torch.uint8))
    warn_of_nearly_black(torch.zeros(4, dtype=torch.uint8))
    warn_of_nearly_black(torch.tensor([0.0, 1.0]))
