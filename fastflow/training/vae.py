"""A VAE trained from scratch on moving images, its latents carried along potential flows (Song et al., ICML 2023)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.core.devices import send
from fastflow.core.errors import InputError
from fastflow.core.nvtx import profiled
from fastflow.core.rng import step_rng
from fastflow.datasets import Sequences
from fastflow.generators.change import generator_change
from fastflow.generators.likelihoods import normal_divergence, normal_log_density
from fastflow.latents.losses import initial_loss, jacobian_loss
from fastflow.training.distributed import ALONE, Team
from fastflow.training.loop import Losses
from fastflow.training.potentials import Potentials, follow, walk
from fastflow.training.timers import Phases
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_models import untrained

KEPT = 64
"""Images that a run keeps, to start traversals from."""


class Batch(NamedTuple):
    """This process's samples of a step, and the weights of the objective's terms in it."""

    images: Tensor
    """(B, 2, C, H, W): at the path's start and after `place` steps; (B, 3, C, H, W) with its end, which tells an
    inference what moved it."""
    transformation: Tensor
    """(B,) long"""
    place: Tensor
    """(B,) long in 1 .. T"""
    noise: Tensor
    """(2, B, D), standard normal: of the start's and the moved image's posterior."""
    uniform: Tensor
    """(B, K) in [0, 1): of the draw of an inferred transformation."""
    weights: Tensor
    """Of the terms, in the order of the configuration's."""


class Posterior(NamedTuple):
    """q(z | x): mean and log-variance, each (B, D)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents (B, D) of standard normal noise (B, D)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


class Carried(NamedTuple):
    """The start's latents after `place` steps along their potentials."""

    z: Tensor
    """(B, D)"""
    step: Tensor
    """(B, D): the last step to there."""
    path_terms: dict[str, Tensor]
    """The terms of the objective that need no image."""
    growth: Tensor | None
    """What the start's log-density has lost on the way, (B,), where the prior needs it."""


class VAETraining:
    """The task of a VAE's training: its module holds all that is learned, and a moving average where asked.

    Args:
        config: a resolved one, see `resolved`.
        device: where to train; the data make their images there.
        held_out: images (N, C, H, W) that the run keeps, to start traversals from.
        team: the processes that train together; each takes its part of the batch.
    """

    foreign = ()

    def __init__(
        self, config: VAEConfig, data: Sequences, held_out: Tensor, device: torch.device, team: Team = ALONE
    ) -> None:
        self.config, self.data, self.team = config, data, team
        self.phases = Phases(device)
        self.learned = untrained(config, data.image_shape)
        modules = self.learned.modules()
        self.average = copy.deepcopy(self.learned) if config.ema else None
        if self.average is not None:
            modules["average"] = nn.ModuleDict(self.average.modules()).requires_grad_(False)
        self.kept = Kept(held_out)
        self.module = nn.ModuleDict({**modules, "kept": self.kept}).to(device)

    def draw(self, step: int) -> Batch:
        """This process's part of a step's batch; every sample has its own image, transformation and place."""
        config, batch = self.config, self.config.batch_size
        rng = step_rng(config.seed, step)
        rows = torch.randint(len(self.data), (batch,), generator=rng)
        # Every transformation gets its share of every batch.
        transformation = torch.randperm(batch, generator=rng) % len(config.transformations)
        place = torch.randint(1, config.path_steps + 1, (batch,), generator=rng)
        noise = torch.randn(batch, 2, config.latent_dim, generator=rng)
        uniform = torch.rand(batch, config.num_potentials, generator=rng)
        # All processes draw the whole batch, so that their parts are the same rows for any number of them.
        mine = self.team.share(batch)
        parts = (x[mine] for x in (rows, transformation, place, noise, uniform))
        rows, transformation, place, noise, uniform = (send(x, self.kept.images) for x in parts)
        weights = torch.tensor([config.weight(term, step) for term in config.terms])
        places = [torch.zeros_like(place), place]
        if self.learned.inference is not None:
            places.append(torch.full_like(place, config.path_steps))
        images = self.data.frames(rows, transformation, torch.stack(places, 1) / config.path_steps)
        return Batch(images, transformation, place, noise.transpose(0, 1), uniform, send(weights, images))

    def losses(self, batch: Batch) -> Losses:
        """The objective on a batch."""
        config, phases, vae, prior = self.config, self.phases, self.learned.vae, self.learned.prior
        start, moved = batch.images[:, 0], batch.images[:, 1]
        phases.mark("generator")
        with profiled("train.encoder"):
            encoded = vae.encode(torch.cat((start, moved)))
        first, second = (Posterior(*parts) for parts in zip(*(x.chunk(2) for x in encoded), strict=True))
        latents = [first.sample(batch.noise[0]), second.sample(batch.noise[1])]
        carried = None
        if self.learned.potentials is not None:
            phases.mark_backward(latents[0], "generator")
            carried = self._carry(self.learned.potentials, latents[0], batch)
            latents.append(carried.z)
        phases.mark("generator")
        with profiled("train.decoder"):
            decoded = vae.decode(torch.cat(latents)).split(len(start))  # in one pass
        log_given = [vae.log_density(p, x) for p, x in zip(decoded, (start, moved, moved), strict=False)]
        # The log-variance of the moved latents' prior, (B, 1).
        spread = torch.zeros_like(encoded[0][: len(start), :1])
        if prior is not None:
            spread = prior.log_variance(config.dt * batch.place)[:, None]
        divergence = [normal_divergence(*first), normal_divergence(*second, spread)]
        terms = {
            name: (config.beta * d - g).mean()
            for name, d, g in zip(("start", "moved"), divergence, log_given, strict=False)
        }
        if carried is not None:
            terms["transport"] = -log_given[2].mean()
            if carried.growth is not None:
                log_posterior = normal_log_density(latents[0], *first) - carried.growth
                log_prior = normal_log_density(carried.z, torch.zeros_like(spread), spread)
                terms["transport"] = terms["transport"] + config.beta * (log_posterior - log_prior).mean()
            terms["matching"] = (carried.z - second.mean).square().sum(1).mean()
            terms |= carried.path_terms
            if config.jacobian_weight > 0:
                with profiled("train.jacobian"):
                    _, change = generator_change(vae.images, carried.z - carried.step, carried.step)
                terms["jacobian"] = jacobian_loss(change, config.jacobian)
        weights = dict(zip(config.terms, batch.weights.unbind(), strict=True))
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        with torch.no_grad():
            logged = {name: term.detach() for name, term in terms.items()}
            logged["elbo"] = 0.5 * (log_given[0] - divergence[0] + log_given[1] - divergence[1]).mean()
            logged["divergence"] = 0.5 * (divergence[0] + divergence[1]).mean()
            if vae.noise_std is not None:
                logged["noise_std"] = vae.noise_std.detach()
        return Losses(loss, logged)

    @torch.no_grad()
    def stepped(self, step: int) -> None:
        """Let the moving average follow."""
        if self.average is not None:
            follow(self.average.modules(), self.learned.modules(), self.config.ema, step)

    def _carry(self, potentials: Potentials, z0: Tensor, batch: Batch) -> Carried:
        """Let the start's latents (B, D) flow, each along its own potential or the one that is inferred for it."""
        config, phases, count = self.config, self.phases, self.config.num_potentials
        terms, index, choice = {}, batch.transformation, None
        if self.learned.inference is not None:
            phases.mark("classifier")
            log_probability = self.learned.inference(batch.images[:, 0], batch.images[:, 2])
            choice = _drawn(log_probability, batch.uniform, config.temperature)  # (B, K)
            index = choice.argmax(1)
            terms["assignment"] = (log_probability.exp() * (log_probability + math.log(count))).sum(1).mean()
        phases.mark("engine")
        with profiled("train.engine"):
            diffuses = self.learned.prior is not None
            if choice is None:
                walked = walk(potentials, config, z0, index, self.team, with_laplacian=diffuses)
                path, laplacian = walked.path, walked.laplacian
            else:
                # Of each sample, the paths along all potentials: the choice among them is what has a gradient.
                starts = z0.repeat_interleave(count, 0)  # (B * K, D)
                each = torch.arange(count, device=z0.device).repeat(len(z0))
                walked = walk(potentials, config, starts, each, self.team, with_laplacian=diffuses)
                path = torch.einsum("bk,bktd->btd", choice, walked.path.unflatten(0, (-1, count)))
                laplacian = walked.laplacian
                if laplacian is not None:
                    laplacian = torch.einsum("bk,bkt->bt", choice, laplacian.unflatten(0, (-1, count)))
            terms["pde"] = walked.residual
            terms["initial"] = initial_loss(potentials.bank, z0, index, companion=potentials.companion)
            rows = torch.arange(len(z0), device=z0.device)
            before, z = path[rows, batch.place - 1], path[rows, batch.place]
            growth = None
            if laplacian is not None:
                # By the continuity equation, d/dt log q = -div v along a path; a companion has no divergence.
                growth = config.dt * laplacian.cumsum(1)[rows, batch.place - 1]
        phases.mark_backward(z, "engine")
        return Carried(z, z - before, terms, growth)


class Kept(nn.Module):
    """Images that a run keeps, of 256 levels, with its weights."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", (images * 255).round().to(torch.uint8))


def resolved(config: VAEConfig, data: Sequences) -> VAEConfig:
    """The configuration with the data's transformations, and with a potential for each of them where none are counted.

    Raises:
        InputError: the data have others, or there is another number of potentials although the transformation is known.
    """
    names = tuple(data.transformations)
    if config.transformations not in ((), names):
        raise InputError(f"the data set moves by {', '.join(names)}, and not by {', '.join(config.transformations)}")
    count = config.num_potentials or len(names)
    if config.supervision == "full" and count != len(names):
        raise InputError(
            f"num_potentials must be {len(names)}, one for each transformation ({', '.join(names)}), got {count}; "
            "another number needs supervision weak"
        )
    return replace(config, transformations=names, num_potentials=count)


@torch.no_grad()
def some_images(data: Sequences, count: int = KEPT) -> Tensor:
    """Images (N, C, H, W) of a data set at their start, spread over it."""
    rows = torch.linspace(0, len(data) - 1, min(count, len(data))).long()
    return data.frames(rows, torch.zeros_like(rows), torch.zeros(len(rows), 1))[:, 0]


def _drawn(log_probability: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """One-hot draws (B, K) by the gumbel-softmax, straight through (Jang et al.; Maddison et al., ICLR 2017)."""
    gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))
    soft = torch.softmax((log_probability + gumbel) / temperature, 1)
    hard = functional.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
    return hard + soft - soft.detach()
