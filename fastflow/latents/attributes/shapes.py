"""The shape of drawn strokes, whatever their place, size, slant and strength: what stays when a digit stays itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from fastflow.core.checks import check_pixels
from fastflow.latents.attributes.strokes import moments

_SIDE = 14
"""The rows and columns of points at which a shape is looked at."""

_REACH = 1.9
"""How far these points lie from the centroid, in standard deviations: a bar ends at 1.73 of them."""

_LEAST_VARIANCE = 0.01


def shape(images: Tensor) -> Tensor:
    """The shape (B, 196) of bright strokes on black, in a frame of its own.

    An image is looked at through a grid of points that lies around its centroid, is as wide and high as the strokes,
    and leans as they do: the width, height and slant of `stroke_attributes`. So the shape stays while strokes are
    moved, stretched or slanted. It is blurred a little and divided by its mean, so that thicker or brighter strokes
    change it little, and another digit much. Its gradient is finite everywhere.

    Args:
        images: (B, C, H, W) in [0, 1]; channels are averaged.

    Raises:
        InputError: the images have another range.
    """
    check_pixels(images)
    grey = images.mean(1)
    height, width = grey.shape[-2:]
    _, cx, cy, sxx, sxy, syy = (moment[:, None, None] for moment in moments(grey))
    lean = sxy / syy
    place = torch.linspace(-_REACH, _REACH, _SIDE, dtype=grey.dtype, device=grey.device)
    down = syy.sqrt() * place[:, None].expand(_SIDE, _SIDE)  # [B, S, S]
    right = (sxx - sxy * lean).clamp_min(_LEAST_VARIANCE).sqrt() * place + lean * down
    # grid_sample counts from the image's middle, in halves of its sides.
    points = torch.stack(((cx + right) / (width / 2), (cy + down) / (height / 2)), -1)
    seen = grid_sample(grey[:, None], points, align_corners=False)
    seen = avg_pool2d(seen, 3, 1, padding=1)
    return (seen / seen.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)).flatten(1)
