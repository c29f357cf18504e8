"""Codes of images by flows, which let factor metrics measure flow models: how far along each path an image lies."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from fastflow.core.checks import check_pixels, is_finite
from fastflow.core.errors import InputError
from fastflow.engine.inputs import check_latents
from fastflow.latents.traversal import Traverses, check_source, flow_of


@torch.no_grad()
def flow_codes(
    source: Traverses,
    images: Tensor,
    *,
    start: Tensor | None = None,
    reach: float = 3.0,
    path_steps: int | None = None,
) -> Tensor:
    """The signed arc length (N, K) float64 along each path, from a common start, of the point nearest to an image.

    Path k goes from the start along its gradient, in `path_steps` steps of equal length in latent space, over the
    length `reach`, and against its gradient over the same length. It is straight between its points. The code of an
    image with latent z is the arc length from the start to the path's point nearest to z, negative on the side against
    the gradient. For straight orthogonal directions through 0 this is the latent's coordinate along each direction,
    clamped to -reach .. reach.

    Args:
        source: a run or a baseline.
        images: images (N, C, H, W) in [0, 1], which a VAE's run encodes to the posterior's mean; or latents (N, D).
        start: the common start (D,); if None it is 0, the mean of standard normal latents.
        reach: how far paths go each way in latent space; 3 covers a standard normal coordinate.
        path_steps: the number of steps each way; the source's own number if None.

    Raises:
        InputError: the source can't encode images, or an argument doesn't fit.
    """
    path_steps = check_source(source, path_steps)
    if not (is_finite(reach, torch.float64) and reach > 0):
        raise InputError(f"reach must be a positive number, got {reach!r}")
    dim, like = source.generator.latent_dim, source.generator.like
    z = check_latents(_encoded(source, images), dim, like, "latents")
    origin = like.new_zeros(1, dim) if start is None else check_latents(start[None], dim, like, "start")
    paced: Any = copy.copy(source)
    paced.step_length = reach / path_steps
    flow = flow_of(paced)  # steps of one length in latent space, which no images are needed for
    codes = []
    for k in range(source.num_paths):
        back, onwards = (
            flow(origin, k, path_steps, direction).latents[0].double() for direction in ("descent", "forward")
        )
        points = torch.cat((back.flip(0), onwards[1:]))  # [2 T + 1, D]
        codes.append(torch.cat([_nearest(part.double(), points) for part in z.split(1024)]) - _length(back))
    return torch.stack(codes, 1)


def _encoded(source: Any, images: Tensor) -> Tensor:
    """The latents of images, or latents as they are."""
    if isinstance(images, Tensor) and images.ndim == 2:
        return images
    vae = getattr(source, "vae", None)
    if vae is None:
        raise InputError(f"{type(source).__name__} has no encoder for images: give their latents (N, D)")
    shape = tuple(source.generator.image_shape)
    if not isinstance(images, Tensor) or images.shape[1:] != shape:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images must be a tensor (N, {', '.join(map(str, shape))}), got {got}")
    check_pixels(images)
    return torch.cat([vae.encode(part)[0] for part in images.split(512)])


def _nearest(z: Tensor, points: Tensor) -> Tensor:
    """The arc lengths (N,) from its first point at which a path (P, D) of straight pieces is nearest to z (N, D)."""
    pieces = points.diff(dim=0)  # [P - 1, D]
    length = pieces.norm(dim=1)
    size = length.square().clamp_min(1e-300)
    # |z - p - s d|^2, where s is the share of the piece d at which it is nearest to z. Products save memory.
    along = z @ pieces.T - (points[:-1] * pieces).sum(1)  # [N, P - 1]
    share = (along / size).clamp(0, 1)
    away = points[:-1].square().sum(1) - 2 * z @ points[:-1].T  # without |z|^2, which is the same for all pieces
    distance = away - 2 * share * along + share.square() * length.square()
    best = distance.argmin(1)
    before = length.cumsum(0) - length
    return before[best] + share.gather(1, best[:, None])[:, 0] * length[best]


def _length(path: Tensor) -> Tensor:
    """The length of a path (P, D) of straight pieces."""
    return path.diff(dim=0).norm(dim=1).sum()
