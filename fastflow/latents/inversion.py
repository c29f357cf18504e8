"""Inversion: the latents of real images, by the generator's encoder or, if it has none, by optimization."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fastflow.core.checks import check_count, check_seed, is_finite, warn_of_nearly_black
from fastflow.core.devices import torch_as_usual
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.datasets.pictures import image_files, read_whole_picture
from fastflow.generators import Generator

Images = Tensor | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Images (N, C, H, W) of any size, uint8 or floats in [0, 1]; or image files, or folders of image files.

Where a file's image is transparent, it shows black.
"""

_CANDIDATES = 256  # the optimization starts at those of so many samples that look most like the image
_ROWS = 64  # latents that are optimized at once


class Inversion(NamedTuple):
    """The latents of N images."""

    latents: Tensor
    """(N, D), on the generator's device."""
    images: Tensor
    """(N, C, H, W) in [0, 1]: the inverted images, resized and cut to fit the generator."""
    error: Tensor
    """(N,): mean absolute difference between the pixels of the image and of its decoded latents."""
    method: Literal["encoder", "optimization"]
    names: list[str]
    """The images' names: their files, or "image 0" and so on."""
    note: str
    """How the images were changed to fit the generator; empty if they weren't."""

    def summary(self) -> dict[str, Any]:
        """The images' names, errors and method of inversion, for JSON."""
        return {"names": self.names, "error": self.error.tolist(), "method": self.method}


@torch_as_usual()
def invert(
    generator: Generator,
    images: Images,
    *,
    labels: Tensor | None = None,
    method: Literal["encoder", "optimization"] | None = None,
    steps: int = 300,
    restarts: int = 4,
    prior: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> Inversion:
    """Find latents that a generator decodes to these images.

    Without an encoder, Adam minimizes the mean squared pixel error plus `prior` times the mean square of the latent,
    standardized by the mean and the standard deviation of samples. It starts at the `restarts` samples, out of 256,
    that look most like the image, and returns the best of all latents.

    Args:
        images: the images. Those that don't fit the generator are cut to its aspect ratio, resized, and converted to
            its number of channels.
        labels: each image's class (N,), if the generator has classes; the first class if None.
        method: "encoder" or "optimization"; if None, the encoder if there is one.
        steps, restarts, prior, seed: the optimization's steps, starts, weight of the prior, and random seed.
        progress: whether to show a progress bar.

    Raises:
        InputError: an image can't be read or an argument can't be used; or no gradient passes through the generator.
    """
    pixels, names, note = fitting_images(generator, images)
    labels = None if labels is None else generator.check_labels(labels, pixels[:, 0, 0])
    if method is None:
        method = "optimization" if generator.encoder is None else "encoder"
    if method == "encoder":
        with torch.no_grad():
            z = generator.encode(pixels)
    elif method == "optimization":
        check_count(steps, "steps")
        check_count(restarts, "restarts")
        check_seed(seed)
        if not is_finite(prior, torch.float32) or prior < 0:
            raise InputError(f"prior must be a number of at least 0, got {prior!r}")
        z = _optimized(
            generator,
            pixels,
            labels,
            steps=steps,
            restarts=min(restarts, _CANDIDATES),
            prior=prior,
            seed=seed,
            progress=progress,
        )
    else:
        raise InputError(f"method must be encoder or optimization, got {method!r}")
    with torch.no_grad():
        decoded = generator.scaled(generator.conditioned(labels)(z)).clamp(0, 1)
    error = (decoded - pixels).abs().flatten(1).mean(1)
    return Inversion(latents=z, images=pixels, error=error, method=method, names=names, note=note)


def fitting_images(generator: Generator, images: Images) -> tuple[Tensor, list[str], str]:
    """Images (N, C, H, W) in [0, 1], changed to fit the generator, their names, and a note on the changes.

    Raises:
        InputError: there are no images, or one can't be used.
    """
    channels, height, width = generator.image_shape
    if channels not in (1, 3) and not isinstance(images, Tensor):
        raise InputError(
            f"the generator makes images of {channels} channels, and image files have 1 or 3: pass a tensor"
        )
    found = _checked(images) if isinstance(images, Tensor) else _read(images)
    like, fitted, changed = generator.like, [], []
    for name, image in found:
        fits = _fitted(image.to(like.device), channels, height, width)
        fitted.append(fits.to(like.dtype))
        if image.shape != fits.shape:
            changed.append((name, image.shape))
    note = ""
    if changed:
        name, shape = changed[0]
        note = (
            f"{len(changed)} of {len(found)} images were made to fit the generator's {channels} x {height} x {width}: "
            f"{name} has {' x '.join(map(str, shape))}"
        )
    return torch.stack(fitted), [name for name, _ in found], note


def _checked(images: Tensor) -> list[tuple[str, Tensor]]:
    """Images (N, C, H, W) in [0, 1], one by one."""
    if images.ndim != 4 or not images.numel():
        raise InputError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        warn_of_nearly_black(images)
        images = images / 255
    if not images.is_floating_point():
        raise InputError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise InputError(
            f"images must be uint8, or floats in [0, 1], got {images.dtype} from {float(images.min()):.4g} to "
            f"{float(images.max()):.4g}: scale them first, as (images - low) / (high - low)"
        )
    return [(f"image {row}", image) for row, image in enumerate(images)]


def _read(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[tuple[str, Tensor]]:
    """The images in files, and in folders in the order of their names."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files: list[Path] = []
    for path in map(Path, paths):
        files += image_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError("images must be at least one file")
    return [(file.name, read_whole_picture(file).float() / 255) for file in files]


def _fitted(image: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An image (C, H, W) in [0, 1], converted to so many channels, cropped in its middle, and resized."""
    if image.shape[0] != channels:
        if {image.shape[0], channels} != {1, 3}:
            raise InputError(
                f"images of {image.shape[0]} channels can't be converted to the generator's {channels}: pass images of "
                f"{channels} channels"
            )
        if channels == 1:  # the luma of ITU-R BT.601, which image readers use
            image = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        else:
            image = image.expand(3, -1, -1)
    _, tall, wide = image.shape
    if (tall, wide) == (height, width):
        return image
    cut_tall, cut_wide = min(tall, round(wide * height / width)), min(wide, round(tall * width / height))
    cut_tall, cut_wide = max(1, cut_tall), max(1, cut_wide)
    top, left = (tall - cut_tall) // 2, (wide - cut_wide) // 2
    middle = image[None, :, top : top + cut_tall, left : left + cut_wide]
    size = (height, width)
    return functional.interpolate(middle, size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def _optimized(
    generator: Generator,
    pixels: Tensor,
    labels: Tensor | None,
    *,
    steps: int,
    restarts: int,
    prior: float,
    seed: int,
    progress: bool,
) -> Tensor:
    """Latents (N, D) of images (N, C, H, W) in [0, 1]."""
    candidates = generator.sample(_CANDIDATES, seed)
    centre, spread = candidates.mean(0), candidates.std(0).clamp_min(1e-6)
    chunks = torch.arange(len(pixels), device=pixels.device).split(max(1, _ROWS // restarts))
    found = []
    with tqdm(total=steps * len(chunks), desc="inverting", disable=not progress, leave=False) as bar:
        for rows in chunks:
            target = pixels[rows].repeat_interleave(restarts, 0)
            classes = None if labels is None else labels[rows].repeat_interleave(restarts)
            decode = generator.conditioned(classes)
            near = _nearest(generator, candidates, pixels[rows], None if labels is None else labels[rows], restarts)
            # Standardized, so that one learning rate fits every generator.
            w = ((near.flatten(0, 1) - centre) / spread).requires_grad_()
            optimizer = torch.optim.Adam([w], lr=0.1)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-3)
            best, least = w.detach().clone(), torch.full_like(w[:, 0], torch.inf).detach()
            for step in range(steps + 1):
                with explaining("the generator, whose images are differentiated,"):
                    decoded = generator.scaled(decode(centre + spread * w))
                if not decoded.requires_grad:
                    raise InputError(
                        "no gradient passes through the generator, so that it can't be inverted by optimization: give "
                        "it an encode= function, or let gradients pass"
                    )
                loss = (decoded - target).square().flatten(1).mean(1) + prior * w.square().mean(1)
                better = loss.detach() < least
                best[better], least[better] = w.detach()[better], loss.detach()[better]
                if step < steps:
                    optimizer.zero_grad(set_to_none=True)
                    loss.sum().backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
            chosen = least.view(-1, restarts).argmin(1) + restarts * torch.arange(len(rows), device=least.device)
            found.append(centre + spread * best[chosen])
    return torch.cat(found)


@torch.no_grad()
def _nearest(generator: Generator, candidates: Tensor, pixels: Tensor, labels: Tensor | None, restarts: int) -> Tensor:
    """For each image the `restarts` candidates (N, restarts, D) that look most like it, when decoded in its class."""
    nearest = candidates.new_empty(len(pixels), restarts, candidates.shape[1])
    of_class = torch.zeros_like(pixels[:, 0, 0, 0]) if labels is None else labels
    for label in of_class.unique():
        rows = (of_class == label).nonzero()[:, 0]
        distances = []
        for some in candidates.split(_ROWS):
            classes = None if labels is None else label.expand(len(some))
            decoded = generator.scaled(generator.conditioned(classes)(some)).flatten(1)
            distances.append(torch.cdist(pixels[rows].flatten(1), decoded))
        nearest[rows] = candidates[torch.cat(distances, 1).argsort(1)[:, :restarts]]
    return nearest
