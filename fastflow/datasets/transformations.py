"""Rotation, scale, translation and hue of batches of images, and sequences of such images; all are differentiable.

A composition of geometric transformations samples the image once: their matrices are multiplied, so that the image
isn't blurred several times.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastflow.core.checks import check_count, check_pixels
from fastflow.core.devices import send
from fastflow.core.errors import InputError

COMPONENTS = ("rotation", "scale", "translation-x", "translation-y", "hue")
"""The components of transformations, which are joined by "+", as in "rotation+scale"."""
ROTATION, SCALE, TRANSLATION, HUE = 80.0, 1.8, 1 / 7, (180.0, 340.0)
"""The components at place 1: degrees, factor, fraction of the width or height, and the first and last hue in degrees.

The translation is MNIST's margin, 4 of 28 pixels.
"""


def rotate(images: Tensor, degrees: float | Tensor) -> Tensor:
    """Images (B, C, H, W), rotated anticlockwise about their centre by degrees, a number or (B,), on black."""
    return _geometry(images, angle=_amounts(images, degrees, "degrees"))


def scale(images: Tensor, factor: float | Tensor) -> Tensor:
    """Images (B, C, H, W), magnified about their centre by a factor, a positive number or (B,)."""
    factor = _amounts(images, factor, "factor")
    if factor.device.type == "cpu" and not bool((factor > 0).all()):
        raise InputError(f"factor must be positive, got {float(factor.min())}")
    return _geometry(images, factor=factor)


def translate(images: Tensor, x: float | Tensor = 0.0, y: float | Tensor = 0.0) -> Tensor:
    """Images (B, C, H, W), moved by x pixels to the right and y pixels down, numbers or (B,), on black."""
    return _geometry(images, x=_amounts(images, x, "x"), y=_amounts(images, y, "y"))


def rotate_hue(images: Tensor, degrees: float | Tensor) -> Tensor:
    """Images (B, 3, H, W) with all hues rotated by degrees, a number or (B,); value and saturation (HSV) stay."""
    amounts = _amounts(images, degrees, "degrees")
    if images.shape[1] != 3:
        raise InputError(f"images must have 3 channels for a hue, got {images.shape[1]}: colour grey images first")
    check_pixels(images)
    return _turn_hue(images[:, None], amounts[:, None])[:, 0]


def color(images: Tensor, hue: float | Tensor) -> Tensor:
    """Grey images (B, 1, H, W), coloured with a hue in degrees, a number or (B,), at full saturation: (B, 3, H, W)."""
    amounts = _amounts(images, hue, "hue")
    if images.shape[1] != 1:
        raise InputError(f"images must be grey, of 1 channel, got {images.shape[1]}")
    check_pixels(images)
    return images * _channel_values(amounts)[..., None, None]


def parse(name: str) -> tuple[str, ...]:
    """The components of a transformation, in the order in which they are applied.

    Raises:
        InputError: a component is unknown, or is there twice.
    """
    components = tuple(name.split("+"))
    for component in components:
        if component not in COMPONENTS:
            raise InputError(
                f"transformation {name!r} has a part {component!r}: it must be one of {', '.join(COMPONENTS)}, or "
                "several of them joined by +"
            )
    if len(set(components)) < len(components):
        raise InputError(f"transformation {name!r} has a part twice: name each part once")
    return components


def transform(images: Tensor, names: tuple[str, ...], transformation: Tensor, place: Tensor) -> Tensor:
    """Images (B, P, C, H, W): image (b, p) is image b, moved along names[transformation[b]] to place[b, p].

    Place 1 is a rotation by 80 degrees, a scale of 1.8, a translation by a seventh of the width or height, or a hue of
    340 degrees; the components of a composition move together. If a name has a hue, all grey images are coloured, with
    hue 180 at place 0, and the hues of coloured images rotate by 0 to 160 degrees. The result is differentiable in
    images and place.

    Args:
        images: (B, C, H, W). names: the transformations.
        transformation: (B,) long, or (B, M) for M transformations, each of which is applied to what the one before
            gives.
        place: (B, P), a fraction of the whole transformation; or (B, P, M).
    """
    _check_images(images)
    plan = _plan(names)
    if transformation.ndim == 1:
        transformation, place = transformation[:, None], place[..., None]
    # How far each step has moved along each component, [B, P, M S, 5].
    moves = send(plan, images).to(images.dtype)[transformation][:, None]  # [B, 1, M, S, 5]
    share = (place.to(images)[..., None, None] * moves).flatten(2, 3)
    moved = _sampled(images, _inverse(share, images.shape[-2:]))
    if not bool(plan[..., -1].any()):
        return moved
    turn = (HUE[1] - HUE[0]) * share[..., -1].sum(-1)
    if images.shape[1] == 1:
        return moved * _channel_values(HUE[0] + turn)[..., None, None]
    if images.shape[1] == 3:
        return _turn_hue(moved, turn)
    raise InputError(f"images must have 1 or 3 channels for a hue, got {images.shape[1]}")


class SampledSequences(NamedTuple):
    """Sequences of images, and the transformation of each."""

    frames: Tensor
    """(B, steps + 1, C, H, W)"""
    transformation: Tensor
    """(B,) long"""


def sequences(images: Tensor, names: tuple[str, ...] | str, steps: int, seed: int = 0) -> SampledSequences:
    """Sequences of `steps` equal steps that begin at the images (B, C, H, W), each along one of the transformations.

    The transformations are drawn with the seed, and are the same on every device. The result is differentiable in the
    images.
    """
    _check_images(images)
    check_pixels(images)
    check_count(steps, "steps")
    names = (names,) if isinstance(names, str) else names
    if not names:
        raise InputError("names must hold at least one transformation")
    rng = torch.Generator().manual_seed(seed)
    transformation = torch.randint(len(names), images.shape[:1], generator=rng).to(images.device)
    place = torch.linspace(0, 1, steps + 1, dtype=images.dtype, device=images.device).expand(len(images), -1)
    return SampledSequences(transform(images, names, transformation, place), transformation)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images must be a float tensor of shape (B, C, H, W), got {got}")


def _amounts(images: Tensor, amount: float | Tensor, name: str) -> Tensor:
    """The amount of each image, (B,)."""
    _check_images(images)
    amounts = torch.as_tensor(amount, dtype=images.dtype, device=images.device)
    if amounts.ndim > 1 or (amounts.ndim and amounts.shape != images.shape[:1]):
        raise InputError(f"{name} must be a number or have shape ({len(images)},), got {tuple(amounts.shape)}")
    return amounts.expand(len(images))


@lru_cache
def _plan(names: tuple[str, ...]) -> Tensor:
    """(K, S, 5) on the CPU: 1 if step s of transformation k is a certain component, otherwise 0."""
    parts = [parse(name) for name in names]
    steps = max(map(len, parts))
    return torch.tensor(
        [[[float(part in components[s : s + 1]) for part in COMPONENTS] for s in range(steps)] for components in parts]
    )


def _geometry(images: Tensor, **amounts: Tensor) -> Tensor:
    """Images (B, C, H, W) after one geometric step of amounts (B,)."""
    zero = images.new_zeros(len(images))
    given = {"angle": zero, "factor": zero + 1, "x": zero, "y": zero, **amounts}
    return _sampled(images, _inverse_step(**given)[:, None])[:, 0]


def _inverse(share: Tensor, size: Sequence[int]) -> Tensor:
    """The inverse maps (B, P, 2, 3) of all steps together, from their shares (B, P, S, 5).

    Args:
        size: the images' height and width.
    """
    angle, factor, x, y, _ = share.unbind(-1)
    steps = _inverse_step(
        angle=ROTATION * angle,
        factor=1 + (SCALE - 1) * factor,
        x=TRANSLATION * size[1] * x,
        y=TRANSLATION * size[0] * y,
    )  # [B, P, S, 2, 3]
    return reduce(_after, steps.unbind(2))


def _inverse_step(angle: Tensor, factor: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The inverses (..., 2, 3) of a rotation, then a scale, then a translation, in pixels from the centre, y down."""
    radians = torch.deg2rad(angle)
    cos, sin = radians.cos() / factor, radians.sin() / factor
    rows = [cos, -sin, -cos * x + sin * y, sin, cos, -sin * x - cos * y]
    return torch.stack(rows, -1).unflatten(-1, (2, 3))


def _after(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine map (..., 2, 3) that applies `inner` and then `outer`; sums are as precise in every matmul mode."""
    linear = (outer[..., :, :2, None] * inner[..., None, :, :]).sum(-2)
    return torch.cat([linear[..., :2], linear[..., 2:] + outer[..., 2:]], -1)


def _sampled(images: Tensor, inverse: Tensor) -> Tensor:
    """Images (B, P, C, H, W): pixel x of image (b, p) is image b at inverse[b, p] x, bilinearly, black outside."""
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2  # [W]
    y = torch.arange(height, dtype=images.dtype, device=images.device)[:, None] - (height - 1) / 2  # [H, 1]
    # grid_sample takes coordinates in halves of the image's side. If sides are powers of two, these are exact, and the
    # identity leaves every bit of the image.
    sides = [1 << (side - 1).bit_length() for side in (width, height)]
    images = F.pad(images, (0, sides[0] - width, 0, sides[1] - height))
    # x and y have a plane each: a last dimension of two would take five times as long.
    planes = torch.stack([row * (2 / side) for row, side in zip(inverse.unbind(2), sides, strict=True)], 1)
    ax, ay, shift = planes[..., None, None].unbind(3)  # [B, 2, P, 1, 1] each
    shift = torch.stack([shift[:, 0] + (width / sides[0] - 1), shift[:, 1] + (height / sides[1] - 1)], 1)
    grid = (ax * x + (ay * y + shift)).movedim(1, -1)  # [B, P, H, W, 2]
    # All places are sampled below each other in one tall output, so that no image is copied.
    out = F.grid_sample(images, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.unflatten(2, (-1, height)).movedim(2, 1)


def _channel_values(hue: Tensor) -> Tensor:
    """The red, green and blue (..., 3) of hues (...) in degrees, at full value and saturation."""
    offset = torch.arange(5, 0, -2, dtype=hue.dtype, device=hue.device)
    k = torch.remainder(offset + hue[..., None] / 60, 6)
    return 1 - torch.minimum(k, 4 - k).clamp(0, 1)


def _turn_hue(images: Tensor, degrees: Tensor) -> Tensor:
    """Images (B, P, 3, H, W) with their hues rotated by degrees (B, P)."""
    high, low = images.amax(2), images.amin(2)  # [B, P, H, W]
    chroma = high - low
    red, green, blue = images.unbind(2)
    # A grey pixel may have any hue; the divisor keeps its gradient finite.
    divisor = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    pure = _channel_values(60 * sector + degrees[..., None, None])  # [B, P, H, W, 3]
    return low[:, :, None] + chroma[:, :, None] * pure.movedim(-1, 2)
