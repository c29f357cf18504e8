"""The training of a VAE by the evidence lower bound of sequences, whose latents follow each other by a transition.

The model is z_0 ~ N(0, I), z_n ~ N(mean_k(z_{n-1}), diag sigma_k^2), and x_n from the decoder at z_n.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.core.devices import send
from fastflow.core.nvtx import profiled
from fastflow.core.rng import step_rng
from fastflow.generators.change import generator_change
from fastflow.generators.likelihoods import normal_divergence
from fastflow.latents.losses import initial_loss, jacobian_loss
from fastflow.training.loop import Losses
from fastflow.training.potentials import Potentials, integrate_paths, residual_term
from fastflow.training.vae import Posterior, VAETask, VAETraining
from fastflow.training.vae_config import REGULARIZERS, VAEConfig

_TERMS = ("assignment", *REGULARIZERS)
"""The terms that have a weight."""


class SequenceBatch(NamedTuple):
    """This process's samples of a step, and the weights of the terms that have one."""

    images: Tensor
    """(B, F, C, H, W): the images of a sample, the first at the path's start."""
    last: Tensor
    """(B, C, H, W): the image at the path's end, from which a transformation is inferred."""
    transformation: Tensor
    """(B,) long"""
    place: Tensor
    """(B,) long in 1 .. T: the place of a pair's second image; on a whole path, that of the step whose change of the
    images is rewarded."""
    noise: Tensor
    """(B, F, D): standard normal noise for samples of the posteriors."""
    alone: Tensor
    """(B,) bool: whether the first latent's posterior sees the first image only, whatever the configuration says."""
    weights: Tensor
    """The weights of the terms `assignment`, `pde`, `initial` and `jacobian`."""


class Followed(NamedTuple):
    """Where the transitions lead the latents of N sequences, and what that costs beside the bound."""

    means: Tensor
    """(N, F - 1, D): the mean of each latent after the first."""
    before: Tensor
    """(N, D): the latents from which the step at `place` leads."""
    step: Tensor
    """(N, D): that step."""
    terms: dict[str, Tensor]
    """The regularizers that need no images."""


class SequenceTraining(VAETask):
    """The training of a VAE by the objective "sequence"; its arguments are those of `VAETask`."""

    def draw(self, step: int) -> SequenceBatch:
        """Draw this process's part of a step's batch. Every sample has its own image, transformation and place."""
        config, batch = self.config, self.config.batch_size
        rng = step_rng(config.seed, step)
        rows = torch.randint(len(self.data), (batch,), generator=rng)
        # Every transformation gets the same share of a batch.
        transformation = torch.randperm(batch, generator=rng) % len(config.transformations)
        place = torch.randint(1, config.path_frames + 1, (batch,), generator=rng)
        frames = 2 if config.frames == "pairs" else config.path_frames + 1
        noise = torch.randn(batch, frames, config.latent_dim, generator=rng)
        alone = torch.arange(batch) % 2 == 0
        # All processes draw the whole batch, so that it is the same for any number of processes.
        mine = self.group.rows(batch)
        parts = (x[mine] for x in (rows, transformation, place, noise, alone))
        rows, transformation, place, noise, alone = (send(x, self.held_out.images) for x in parts)
        if config.frames == "pairs":
            places = torch.stack((torch.zeros_like(place), place, torch.full_like(place, config.path_frames)), 1)
            places = places if self.learned.inference is not None else places[:, :2]
        else:
            places = torch.arange(frames, device=place.device).expand(len(place), -1)
        images = self.data.frames(rows, transformation, places / config.path_frames)
        weights = torch.tensor([config.weight(term, step) for term in _TERMS])
        return SequenceBatch(
            images=images[:, :frames],
            last=images[:, -1],
            transformation=transformation,
            place=place,
            noise=noise,
            alone=alone,
            weights=send(weights, images),
        )

    def losses(self, batch: SequenceBatch) -> Losses:
        """Minus the evidence lower bound of the samples, and the regularizers."""
        config, phases, vae = self.config, self.phases, self.learned.vae
        phases.mark("generator")
        with profiled("train.encoder"):
            posterior = self._infer(batch)
        z = posterior.sample(batch.noise[:, : posterior.mean.shape[1]])  # (B, F, D), or (B, 1, D) if they are moved
        phases.mark_backward(z, "generator")
        log_choice = self._choose(batch)  # (B, M): the log-probabilities of each sample's transformations
        choice = log_choice.exp()
        with profiled("train.engine"):
            followed, k = self._follow(z, batch, choices=choice.shape[1])
        phases.mark("generator")
        start_divergence = normal_divergence(posterior.mean[:, 0], posterior.log_variance[:, 0])
        if config.later_latents == "moved":
            candidates = z.repeat_interleave(choice.shape[1], 0)
            reconstruction = -self._log_density(torch.cat((candidates, followed.means), 1), batch, choice)
            step_divergence = torch.zeros_like(start_divergence)
        else:
            reconstruction = -self._log_density(z, batch)
            step_divergence = (choice * self._step_divergence(posterior, followed, k, batch)).sum(1)
        terms = {
            "reconstruction": reconstruction.mean(),
            "start_divergence": start_divergence.mean(),
            "step_divergence": step_divergence.mean(),
        }
        bound = terms["reconstruction"] + config.beta * (terms["start_divergence"] + terms["step_divergence"])
        elbo = sum(terms.values())
        if self.learned.inference is not None:
            terms["assignment"] = (choice * (log_choice + math.log(config.num_potentials))).sum(1).mean()
            elbo = elbo + terms["assignment"]
        terms |= followed.terms
        if config.flows and config.jacobian_weight > 0:
            with profiled("train.jacobian"):
                rows = torch.arange(len(choice), device=choice.device) * choice.shape[1] + choice.argmax(1)
                _, change = generator_change(vae.images, followed.before[rows], followed.step[rows])
            terms["jacobian"] = jacobian_loss(change, config.jacobian)
        weights = dict(zip(_TERMS, batch.weights.unbind(), strict=True))
        loss = torch.stack([bound, *(weights[name] * terms[name] for name in _TERMS if name in terms)]).sum()
        with torch.no_grad():
            logged = {name: term.detach() for name, term in terms.items()}
            logged["elbo"] = -torch.as_tensor(elbo).detach()
            if vae.noise_std is not None:
                logged["noise_std"] = vae.noise_std.detach()
        return Losses(loss, logged)

    def _infer(self, batch: SequenceBatch) -> Posterior:
        """The posteriors (B, F, D) of the images' latents; (B, 1, D), of the first, if the others are moved."""
        images = batch.images
        seen = images[:, :1] if self.config.later_latents == "moved" else images
        mean, log_variance = (x.unflatten(0, seen.shape[:2]) for x in self.learned.vae.encode(seen.flatten(0, 1)))
        if self.learned.refinement is not None:
            together = ~batch.alone[:, None]
            changes = (together * change for change in self.learned.refinement(images))
            mean, log_variance = (
                torch.cat((x[:, :1] + change[:, None], x[:, 1:]), 1)
                for x, change in zip((mean, log_variance), changes, strict=True)
            )
        return Posterior(mean, log_variance)

    def _choose(self, batch: SequenceBatch) -> Tensor:
        """The log-probabilities (B, K) of the samples' transformations; (B, 1) zeros where these are given."""
        if self.learned.inference is None:
            return torch.zeros_like(batch.noise[:, 0, :1])
        self.phases.mark("classifier")
        return self.learned.inference(batch.images[:, 0], batch.last)

    def _follow(self, z: Tensor, batch: SequenceBatch, choices: int) -> tuple[Followed, Tensor]:
        """Where latents lead, under the transformation of each or under all of them, and these transformations.

        Args:
            z: (B, F, D), or (B, 1, D).
            choices: M, how many transformations a sample may have.

        Returns:
            What follows for N = B M sequences, sample by sample, and the transformations (N,).
        """
        config, potentials, count = self.config, self.learned.potentials, choices
        self.phases.mark("engine")
        k, place = batch.transformation, batch.place
        if self.learned.inference is not None:
            z, place = z.repeat_interleave(count, 0), place.repeat_interleave(count)
            k = torch.arange(count, device=z.device).repeat(len(batch.place))
        rows = torch.arange(len(z), device=z.device)
        if config.later_latents == "inferred" and config.frames == "path":
            points = z[:, :-1]
            means, terms = self._next(potentials, points, k)
            at = place - 1
            before, step = points[rows, at], means[rows, at] - points[rows, at]
        else:
            path, terms = self._path(potentials, z[:, 0], k)
            means = path[:, 1:] if config.frames == "path" else path[rows, place][:, None]
            before, step = path[rows, place - 1], path[rows, place] - path[rows, place - 1]
        if potentials is not None and config.initial_weight > 0:
            terms["initial"] = initial_loss(potentials.bank, z[:, 0], k, companion=potentials.companion)
        self.phases.mark_backward(means, "engine")
        return Followed(means, before, step, terms), k

    def _next(self, potentials: Potentials | None, points: Tensor, k: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The means (N, T, D) after each of points (N, T, D), and the equation's residual there.

        One call of the engine gives both if a transition is a single Euler step.
        """
        config, transition = self.config, self.learned.transition
        if potentials is None or config.pde_weight == 0:
            return transition.means(points, k), {}
        bank, pde, companion = potentials
        visited, count = points.flatten(0, 1), points.shape[1]
        each = k.repeat_interleave(count)
        times = config.dt * config.frame_steps * torch.arange(count, device=points.device, dtype=points.dtype)
        place = torch.arange(count, device=points.device).repeat(len(points))
        jet = bank.jet(visited, (times, place), each, laplacian=config.laplacian)
        terms = {"pde": residual_term(pde, config, jet, visited, times[place], each, self.group)}
        if config.method != "euler" or config.frame_steps > 1 or config.step_length is not None:
            return transition.means(points, k), terms
        velocity = jet.grad if companion is None else jet.grad + companion(visited, (times, place), each)
        return points + config.dt * velocity.view_as(points), terms

    def _path(self, potentials: Potentials | None, z0: Tensor, k: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The paths (N, T + 1, D) from latents (N, D), without noise, and the equation's residual on them."""
        config = self.config
        if potentials is None or config.pde_weight == 0:
            return self.learned.transition.path(z0, k, config.path_frames), {}
        paths = integrate_paths(potentials, config, z0, k, self.group)
        return paths.path[:, :: config.frame_steps], {"pde": paths.residual}

    def _step_divergence(self, posterior: Posterior, followed: Followed, k: Tensor, batch: SequenceBatch) -> Tensor:
        """KL(q(z_n | x_n) || p(z_n | z_{n-1}, k)), summed over the steps, for each sample and choice of k, (B, M)."""
        transition, count = self.learned.transition, len(k) // len(batch.place)
        mean, log_variance = (x[:, 1:].repeat_interleave(count, 0) for x in posterior)  # (B M, F - 1, D)
        if self.config.frames == "pairs":
            log_std = transition.jump_log_std(k, batch.place.repeat_interleave(count))
        else:
            log_std = transition.log_std(k, torch.zeros_like(k))  # the same for all steps
        assert log_std is not None
        divergence = normal_divergence(mean - followed.means, log_variance, 2 * log_std[:, None])
        return divergence.sum(1).unflatten(0, (-1, count))

    def _log_density(self, z: Tensor, batch: SequenceBatch, choice: Tensor | None = None) -> Tensor:
        """sum_n log p(x_n | z_n) for each sample, (B,).

        Args:
            z: latents (B, F, D); with `choice`, (B M, F, D), those under each of a sample's transformations.
            choice: the probabilities (B, M) by which these are averaged.
        """
        vae, images = self.learned.vae, batch.images
        if choice is not None:
            images = images.repeat_interleave(choice.shape[1], 0)
        with profiled("train.decoder"):
            parameters = vae.decode(z.flatten(0, 1))  # in one pass
        each = vae.log_density(parameters, images.flatten(0, 1)).unflatten(0, z.shape[:2]).sum(1)
        return each if choice is None else (choice * each.unflatten(0, choice.shape)).sum(1)


def task_kind(config: VAEConfig) -> type[VAETraining] | type[SequenceTraining]:
    """The class of a configuration's training."""
    return SequenceTraining if config.objective == "sequence" else VAETraining
