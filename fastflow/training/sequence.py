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

_WEIGHTED = ("assignment", *REGULARIZERS)
"""The terms that have a weight."""

_BOUND = ("reconstruction", "start_divergence", "step_divergence", "assignment")
"""The terms whose sum is minus the evidence lower bound."""


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
    """The weights of `assignment` and of the regularizers."""


class Followed(NamedTuple):
    """Where the transitions lead the latents of N = B M sequences, one for each of M transformations of a sample."""

    means: Tensor
    """(N, F - 1, D): the mean of each latent after the first."""
    k: Tensor
    """(N,) long: the transformations."""
    before: Tensor
    """(N, D): the latents from which the step at `place` leads."""
    step: Tensor
    """(N, D): that step."""
    regularizers: dict[str, Tensor]
    """Those that need no images."""


class SequenceTraining(VAETask):
    """The training of a VAE by the objective "sequence"; its arguments are those of `VAETask`."""

    def draw(self, step: int) -> SequenceBatch:
        """Draw this process's part of a step's batch. Every sample has its own image, transformation and place."""
        config, batch = self.config, self.config.batch_size
        rng = step_rng(config.seed, step)
        rows, transformation, place = self.draw_samples(rng)
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
        weights = torch.tensor([config.weight(term, step) for term in _WEIGHTED])
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
        phases.mark("engine")
        with profiled("train.engine"):
            followed = self._follow(z, batch)
        phases.mark("generator")
        # Of each sample (B, M): under each transformation that it may have.
        start_divergence = normal_divergence(posterior.mean[:, 0], posterior.log_variance[:, 0])[:, None]
        if config.later_latents == "moved":
            first = z.repeat_interleave(len(followed.k) // len(z), 0)
            reconstruction = -self._log_density(torch.cat((first, followed.means), 1), batch)
            step_divergence = torch.zeros_like(start_divergence)
        else:
            reconstruction = -self._log_density(z, batch)
            step_divergence = self._step_divergence(posterior, followed, batch)
        each = reconstruction + config.beta * (start_divergence + step_divergence)
        weights: dict[str, Tensor] = dict(zip(_WEIGHTED, batch.weights.unbind(), strict=True))
        # The least E_q[each] + weight KL(q || uniform) over all probabilities q of the transformations, and these q.
        scale = weights["assignment"] if each.shape[1] > 1 else 1.0
        bound = scale * (math.log(each.shape[1]) - (-each / scale).logsumexp(1))
        chosen = torch.softmax(-each / scale, 1).detach()
        terms = {
            "reconstruction": (chosen * reconstruction).sum(1).mean(),
            "start_divergence": start_divergence.mean(),
            "step_divergence": (chosen * step_divergence).sum(1).mean(),
        }
        alone = []
        if self.learned.inference is not None:
            phases.mark("classifier")
            log_inferred = self.learned.inference(batch.images[:, 0], batch.last)
            phases.mark("generator")
            terms["assignment"] = math.log(chosen.shape[1]) - torch.special.entr(chosen).sum(1).mean()
            # It learns what the bound says, and the bound learns nothing from it.
            terms["inference"] = -(chosen * log_inferred).sum(1).mean()
            alone.append(terms["inference"])
        regularizers = dict(followed.regularizers)
        if config.flows and config.jacobian_weight > 0:
            with profiled("train.jacobian"):
                rows = torch.arange(len(chosen), device=chosen.device) * chosen.shape[1] + chosen.argmax(1)
                _, change = generator_change(vae.images, followed.before[rows], followed.step[rows])
            regularizers["jacobian"] = jacobian_loss(change, config.jacobian)
        weighted = [weights[name] * term for name, term in regularizers.items()]
        loss = torch.stack([bound.mean(), *alone, *weighted]).sum()
        with torch.no_grad():
            logged = {name: term.detach() for name, term in {**terms, **regularizers}.items()}
            logged["elbo"] = -torch.stack([terms[name].detach() for name in _BOUND if name in terms]).sum()
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

    def _follow(self, z: Tensor, batch: SequenceBatch) -> Followed:
        """Where latents (B, F, D), or (B, 1, D), lead, under the transformation of each or under all of them."""
        config, potentials = self.config, self.learned.potentials
        k, place = batch.transformation, batch.place
        if self.learned.inference is not None:
            count = config.num_potentials
            k = torch.arange(count, device=z.device).repeat(len(z))
            z, place = z.repeat_interleave(count, 0), place.repeat_interleave(count)
        rows = torch.arange(len(z), device=z.device)
        if config.later_latents == "inferred" and config.frames == "path":
            points = z[:, :-1]
            means, terms = self._next(potentials, points, k)
            before = points[rows, place - 1]
            step = means[rows, place - 1] - before
        else:
            path, terms = self._path(potentials, z[:, 0], k)
            means = path[:, 1:] if config.frames == "path" else path[rows, place][:, None]
            before = path[rows, place - 1]
            step = path[rows, place] - before
        if potentials is not None and config.initial_weight > 0:
            terms["initial"] = initial_loss(potentials.bank, z[:, 0], k, companion=potentials.companion)
        self.phases.mark_backward(means, "engine")
        return Followed(means, k, before, step, terms)

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

    def _step_divergence(self, posterior: Posterior, followed: Followed, batch: SequenceBatch) -> Tensor:
        """KL(q(z_n | x_n) || p(z_n | z_{n-1}, k)), summed over the steps, (B, M)."""
        transition, k = self.learned.transition, followed.k
        count = len(k) // len(batch.place)
        mean, log_variance = (x[:, 1:].repeat_interleave(count, 0) for x in posterior)  # (B M, F - 1, D)
        if self.config.frames == "pairs":
            log_std = transition.jump_log_std(k, batch.place.repeat_interleave(count))
        else:
            log_std = transition.log_std(k, torch.zeros_like(k))  # the same for all steps
        assert log_std is not None
        divergence = normal_divergence(mean - followed.means, log_variance, 2 * log_std[:, None])
        return divergence.sum(1).unflatten(0, (-1, count))

    def _log_density(self, z: Tensor, batch: SequenceBatch) -> Tensor:
        """sum_n log p(x_n | z_n), (B, M), for latents (B M, F, D): M paths of each sample."""
        vae, count = self.learned.vae, len(z) // len(batch.images)
        with profiled("train.decoder"):
            parameters = vae.decode(z.flatten(0, 1))  # in one pass
        images = batch.images.repeat_interleave(count, 0).flatten(0, 1)
        return vae.log_density(parameters, images).unflatten(0, (-1, count, z.shape[1])).sum(2)


def task_kind(config: VAEConfig) -> type[VAETraining] | type[SequenceTraining]:
    """The class of a configuration's training."""
    return SequenceTraining if config.objective == "sequence" else VAETraining
