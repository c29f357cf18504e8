"""Real images into a generator's latent space: by its encoder, or by optimisation where it has none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fastflow.core.checks import check_count, check_seed, is_finite
from fastflow.core.errors import InputError
from fastflow.datasets.pictures import SUFFIXES, read_whole_picture
from fastflow.generators import Generator

Images = Tensor | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Images (N, C, H, W), uint8 or floats in [0, 1], of any size; or image files, or folders of them."""

_CANDIDATES = 256  # samples among which the restarts begin at those nearest to an image
_ROWS = 64  # latents that are optimised at once


class Inversion(NamedTuple):
    """The latents of N images."""

    latents: Tensor
    """(N, D), on the generator's device."""
    images: Tensor
    """(N, C, H, W) in [0, 1]: what was inverted, as the generator could draw it."""
    error: Tensor
    """(N,): mean absolute difference of the pixels of the image and of what its latents are decoded to."""
    method: Literal["encoder", "optimization"]
    names: list[str]
    """What each image is called: its file, or "image 0" and so on."""
    note: str
    """What had to be done to the images to fit the generator, or nothing."""

    def summary(self) -> dict[str, Any]:
        """How the images were inverted, and how well, as JSON holds it."""
        return {"names": self.names, "error": self.error.tolist(), "method": self.method}


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

    Without an encoder, Adam minimises the mean squared pixel error plus `prior` times the mean square of the latent,
    which is counted from the samples' mean in their standard deviations. It begins at the `restarts` samples, out of
    256, that look most like the image, and the best latent of all is kept.

    Args:
        images: made to fit the generator where they don't: cut to its aspect, resized, greyed or given channels.
        labels: each image's class (N,) of a generator with classes; the first class if None.
        method: the encoder where there is one, if None.
        steps, restarts, prior, seed: of the optimisation.
        progress: show a progress bar.

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
        z = _optimized(generator, pixels, labels, steps, min(restarts, _CANDIDATES), prior, seed, progress)
    else:
        raise InputError(f"method must be encoder or optimization, got {method!r}")
    with torch.no_grad():
        drawn = generator.scaled(generator.conditioned(labels)(z)).clamp(0, 1)
    return Inversion(z, pixels, (drawn - pixels).abs().flatten(1).mean(1), method, names, note)


def fitting_images(generator: Generator, images: Images) -> tuple[Tensor, list[str], str]:
    """Images as the generator could draw them, (N, C, H, W) in [0, 1], their names, and what was done to them.

    Raises:
        InputError: there are none, or one can't be used.
    """
    channels, height, width = generator.image_shape
    if channels not in (1, 3) and not isinstance(images, Tensor):
        raise InputError(f"the generator draws images of {channels} channels, image files have 1 or 3: pass a tensor")
    found = _checked(images) if isinstance(images, Tensor) else _read(images)
    like, fitted, changed = generator.sample(1), [], []
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
        images = images / 255
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise InputError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
    return [(f"image {row}", image) for row, image in enumerate(images)]


def _read(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[tuple[str, Tensor]]:
    """The images in files, and in folders in the order of their names."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not inside:
            raise InputError(f"{str(path)!r} has no images: expected files ending in {', '.join(SUFFIXES)}")
        files += inside
    if not files:
        raise InputError("images must be at least one file")
    return [(file.name, read_whole_picture(file).float() / 255) for file in files]


def _fitted(image: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An image (C, H, W) in [0, 1] with these channels, cut in its middle to this aspect and resized to this size."""
    if image.shape[0] != channels:
        if {image.shape[0], channels} != {1, 3}:
            raise InputError(f"images of {image.shape[0]} channels can't become the generator's of {channels}")
        if channels == 1:  # ITU-R BT.601's luma, as image readers have it
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


@torch.enable_grad()  # whatever the caller has switched off
def _optimized(
    generator: Generator,
    pixels: Tensor,
    labels: Tensor | None,
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
            # In units of the samples' spread, so that one learning rate fits every generator.
            w = ((near.flatten(0, 1) - centre) / spread).requires_grad_()
            optimizer = torch.optim.Adam([w], lr=0.1)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-3)
            best, least = w.detach().clone(), torch.full_like(w[:, 0], torch.inf).detach()
            for step in range(steps + 1):
                drawn = generator.scaled(decode(centre + spread * w))
                if not drawn.requires_grad:
                    raise InputError(
                        "no gradient passes through the generator, so that it can't be inverted without encode="
                    )
                loss = (drawn - target).square().flatten(1).mean(1) + prior * w.square().mean(1)
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
    """For each image the `restarts` candidates (N, restarts, D) that look most like it, of its class if it has one."""
    nearest = candidates.new_empty(len(pixels), restarts, candidates.shape[1])
    of_class = torch.zeros_like(pixels[:, 0, 0, 0]) if labels is None else labels
    for label in of_class.unique():
        rows = (of_class == label).nonzero()[:, 0]
        distances = []
        for some in candidates.split(_ROWS):
            classes = None if labels is None else label.expand(len(some))
            drawn = generator.scaled(generator.conditioned(classes)(some)).flatten(1)
            distances.append(torch.cdist(pixels[rows].flatten(1), drawn))
        nearest[rows] = candidates[torch.cat(distances, 1).argsort(1)[:, :restarts]]
    return nearest
