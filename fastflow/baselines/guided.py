"""Paths along attributes: by an attribute's gradient at every step, or by a linear fit to it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.baselines.base import Baseline
from fastflow.baselines.directions import CHUNK, Straight, unit
from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import InputError
from fastflow.generators import Generator
from fastflow.latents.held import slopes_of, unit_or_zero, without
from fastflow.latents.predictors import Predictor, check_predictor, predicted


class Ascent(Baseline):
    """Steps of equal length along an attribute's gradient, which the predictor gives anew at every step.

    Path k climbs attribute k. Each step costs a pass forward and a pass back through generator and predictor.

    Args:
        generator: the generator whose latent space is traversed.
        predictor: a differentiable function from images (B, C, H, W) in [0, 1] to attributes (B,) or (B, P); K is P.
        step_length: the length of one step in latent space.

    Raises:
        InputError: the predictor's values carry no gradient.
    """

    def __init__(self, generator: Generator, predictor: Predictor, step_length: float = 0.1) -> None:
        images = generator.scaled(generator.decode(generator.sample(2))).detach()
        check_predictor(predictor, images.clone())
        super().__init__(generator, predicted(predictor, images).shape[1], step_length)
        self.predictor = predictor

    def path(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """Latents (B, steps + 1, D) from z0 (B, D); see `Baseline.path`. Where there is no slope a path stays."""
        points, paths = [z0], index.expand(len(z0)).split(CHUNK)
        labels = self.labels_of(len(z0), CHUNK)
        for _ in range(steps):
            parts = zip(points[-1].split(CHUNK), paths, labels, strict=True)
            slope = torch.cat([self._slope(*part) for part in parts])
            points.append(points[-1] + self.step_length * unit_or_zero(slope))
        return torch.stack(points, 1)

    def _slope(self, z: Tensor, index: Tensor, labels: Tensor | None) -> Tensor:
        """The direction of a step, (B, D), of any length."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = self._values(z, labels)
            (slope,) = torch.autograd.grad(values.gather(1, index[:, None]).sum(), z)
        return slope

    def _values(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The attributes (B, P) of latents' images."""
        return predicted(self.predictor, self.generator.scaled(self.generator.conditioned(labels)(z)))


class OrthogonalAscent(Ascent):
    """The same along the part of an attribute's gradient that is orthogonal to the gradients of all the others.

    So, to first order, no other attribute changes. Each step costs a pass back for each attribute. The arguments are
    those of `Ascent`.
    """

    def _slope(self, z: Tensor, index: Tensor, labels: Tensor | None) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = self._values(z, labels)
            slopes = slopes_of(values, z)
        rows = torch.arange(len(z), device=z.device)
        own, others = slopes[rows, index], slopes.clone()
        others[rows, index] = 0
        return without(own, others)


class Regression(Straight):
    """Straight paths along the weights of linear regressions of attributes on latents.

    Direction k is the least-squares solution w of a_k(z) = w z + c over `samples` latents, scaled to length 1.

    Args:
        generator, step_length: as for `Ascent`.
        predictor: as for `Ascent`; it needs no gradient.
        seed: random seed of the samples.
        samples: the number of latents.

    Raises:
        InputError: an attribute doesn't vary over the samples.
    """

    def __init__(
        self,
        generator: Generator,
        predictor: Predictor,
        step_length: float = 0.1,
        seed: int = 0,
        *,
        samples: int = 4096,
    ) -> None:
        check_count(samples, "samples")
        check_seed(seed)
        z = generator.sample(samples, seed)
        with torch.no_grad():
            images = (generator.scaled(generator.decode(part)) for part in z.split(CHUNK))
            values = torch.cat([predicted(predictor, part) for part in images]).double()
        super().__init__(generator, values.shape[1], step_length)
        centred = (z - z.mean(0)).double()
        weights = torch.linalg.lstsq(centred, values - values.mean(0)).solution.T  # (P, D)
        if not bool((weights.norm(dim=1) > 0).all()):
            raise InputError("the predictor's attributes must vary over the generator's samples")
        self.directions = unit(weights).to(z)
