"""Even steps: the points of a path placed anew, so that each step makes the same visible change."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.generators import Generator
from fastflow.latents.spaces import Features, changes, rounding

EVEN = 1.1
"""The ratio of a path's largest to its smallest step from which on its steps count as equal."""

_ROUNDS = 4


class Evened(NamedTuple):
    """Paths of B latents whose steps make the same visible change."""

    latents: Tensor
    """(B, T + 1, D)"""
    images: Tensor
    """(B, T + 1, C, H, W)"""
    places: Tensor
    """(B, T + 1) float64: where each point lies on the given path, in its steps from the start."""


@torch.no_grad()
def evened(
    generator: Generator,
    latents: Tensor,
    images: Tensor,
    start: int = 0,
    *,
    labels: Tensor | None = None,
    features: Features | None = None,
    moved: Tensor | None = None,
) -> Evened:
    """Place the points of paths anew, so that each step makes the same visible change.

    A path stays the same curve, straight between its given points, with the same first and last point. What comes
    before the start and what comes after it are evened by themselves, so that the start stays where it is.

    The visible change of a step is the mean absolute difference of its two images, on the scale from 0 to 1, or of
    their features. The length of the path in images is taken as linear between neighbouring points. Points are placed
    at equal shares of it and decoded, which measures that length better, until the largest step is at most `EVEN` times
    the smallest, four times at most. Each path keeps its most even points. A path whose images don't move stays as it
    is.

    Args:
        generator: the generator.
        latents: the points (B, T + 1, D) of the paths.
        images: their images (B, T + 1, C, H, W), as the generator decodes them.
        start: the column of the starts.
        labels: each latent's class (B,) long, if the generator has classes.
        features: a function from images (B, C, H, W) in [0, 1] to features (B, ...); pixels are compared if None.
        moved: the visible changes (B, T) of the given steps, if they were measured already: see `spaces.changes`.

    Raises:
        InputError: the features fail or can't be used.
    """
    paths = _Paths(generator, latents, labels, features)
    moved = changes(generator, images, features) if moved is None else moved
    points, shown = latents.clone(), images.clone()
    places = torch.arange(latents.shape[1], dtype=torch.float64, device=latents.device).repeat(len(latents), 1)
    for first, last in ((0, start), (start, latents.shape[1] - 1)):
        if last - first > 1:  # a single step is even
            part = slice(first, last + 1)
            found = paths.evened(shown[:, part], places[:, part], moved[:, first:last])
            points[:, part], shown[:, part], places[:, part] = found
    return Evened(points, shown, places - start)


class _Paths:
    """Paths that are straight between given latents (B, T + 1, D), and what is needed to see their points."""

    def __init__(self, generator: Generator, latents: Tensor, labels: Tensor | None, features: Features | None) -> None:
        self._generator, self._latents, self._labels, self._features = generator, latents, labels, features

    def evened(self, images: Tensor, places: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Even points (B, n, D) with their images and places.

        Args:
            images: the images (B, n, C, H, W) of the points that there are, of which the first and last one stay.
            places: the places (B, n) of these points on the paths.
            moved: the visible changes (B, n - 1) between them.
        """
        best_images, best = images.clone(), places.clone()
        noise = rounding(self._generator, images[:, 0], self._features)
        least = _unevenness(moved)
        rows = torch.arange(len(places), device=places.device)
        for _ in range(_ROUNDS):
            total = moved.sum(1)
            # A comparison with NaN is false: a path whose images aren't finite stays as it is.
            going = (_unevenness(moved) > EVEN) & (total > noise[rows] * moved.shape[1]) & total.isfinite()
            rows, places = rows[going], _equal_shares(places[going], moved[going])
            if not len(rows):
                break
            ends = images[rows, 0], images[rows, -1]
            seen = self._seen(rows, places, ends)
            moved = self._changes(seen)
            ratio = _unevenness(moved)
            better = ratio < least[rows]
            kept = rows[better]
            least[kept], best_images[kept], best[kept] = ratio[better], seen[better], places[better]
        return self._at(torch.arange(len(best), device=best.device), best), best_images, best

    def _at(self, rows: Tensor, places: Tensor) -> Tensor:
        """The points (R, n, D) of paths `rows` (R,) at places (R, n)."""
        before = places.long().clamp_max(self._latents.shape[1] - 2)
        first, second = self._latents[rows[:, None], before], self._latents[rows[:, None], before + 1]
        share = (places - before).to(first)[..., None]
        # Where a point was given, it is taken as it is.
        return torch.where(share == 1, second, first + share * (second - first))

    def _seen(self, rows: Tensor, places: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
        """The images (R, n, C, H, W) at these places, of which the first and the last one are known."""
        decode = self._generator.conditioned(None if self._labels is None else self._labels[rows])
        between = [decode(z) for z in self._at(rows, places)[:, 1:-1].unbind(1)]
        return torch.stack([ends[0], *between, ends[1]], 1)

    def _changes(self, images: Tensor) -> Tensor:
        """The visible changes (R, n - 1) from each of n images to the next."""
        return changes(self._generator, images, self._features)


def _unevenness(changes: Tensor) -> Tensor:
    """The ratio (R,) of the largest to the smallest change of each path (R, n)."""
    return changes.amax(1) / changes.amin(1).clamp_min(torch.finfo(changes.dtype).tiny)


def _equal_shares(places: Tensor, changes: Tensor) -> Tensor:
    """Places (R, n + 1) between which equal shares of the whole change lie, by the changes (R, n) between places."""
    length = torch.nn.functional.pad(changes.cumsum(1), (1, 0))  # [R, n + 1]
    steps = changes.shape[1]
    shares = torch.arange(1, steps, dtype=length.dtype, device=length.device) / steps
    wanted = shares * length[:, -1:]  # [R, n - 1]
    before = (torch.searchsorted(length, wanted, right=True) - 1).clamp_max(steps - 1)
    first, second = places.gather(1, before), places.gather(1, before + 1)
    share = (wanted - length.gather(1, before)) / changes.gather(1, before)
    return torch.cat((places[:, :1], first + share * (second - first), places[:, -1:]), 1)
