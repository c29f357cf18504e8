"""Training a VAE from scratch on moving images, with potential flows of its latents (Song et al., ICML 2023)."""

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
from fastflow.training.distributed import SINGLE_PROCESS, ProcessGroup
from fastflow.training.loop import Losses
from fastflow.training.potentials import Potentials, integrate_paths, update_ema
from fastflow.training.timers import PhaseTimer
from fastflow.training.vae_config import VAEConfig
from fastflow.training.vae_models import build_vae_models

HELD_OUT_COUNT = 64
"""How many held-out images a run stores, to start traversals from."""


class Batch(NamedTuple):
    """This process's samples of a step, and the objective's weights in that step."""

    images: Tensor
    """(B, 2, C, H, W): the images at the path's start and after `place` steps. With weak supervision (B, 3, C, H, W):
    the third is the image at the path's end, from which the transformation is inferred."""
    transformation: Tensor
    """(B,) long"""
    place: Tensor
    """(B,) long in 1 .. T"""
    noise: Tensor
    """(2, B, D): standard normal noise for samples of the start's posterior and the moved image's."""
    uniform: Tensor
    """(B, K) in [0, 1): random numbers for the draw of an inferred transformation."""
    weights: Tensor
    """The weights of the objective's terms, in the order of `config.terms`."""


class Posterior(NamedTuple):
    """q(z | x): mean and log-variance, each (B, D)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents (B, D), sampled with standard normal noise (B, D)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


class Transported(NamedTuple):
    """The start's latents after `place` steps along their potentials."""

    z: Tensor
    """(B, D)"""
    step: Tensor
    """(B, D): the last of these steps."""
    path_terms: dict[str, Tensor]
    """The objective's terms that need no images."""
    density_loss: Tensor | None
    """The decrease of the log-density along the path, (B,), if the prior needs it."""


class VAETask:
    """What the trainings of a VAE share. The module holds everything that is learned, and a moving average if asked.

    Args:
        config: a configuration returned by `resolved`.
        device: the device to train on, where the data set makes its images.
        held_out: images (N, C, H, W) that the run stores, to start traversals from.
        group: the processes that train together; each takes its part of the batch.
    """

    user_terms = ()

    def __init__(
        self,
        config: VAEConfig,
        data: Sequences,
        held_out: Tensor,
        device: torch.device,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.config, self.data, self.group = config, data, group
        self.phases = PhaseTimer(device)
        self.learned = build_vae_models(config, data.image_shape)
        modules = self.learned.modules()
        self.average = copy.deepcopy(self.learned) if config.ema else None
        if self.average is not None:
            modules["average"] = nn.ModuleDict(self.average.modules()).requires_grad_(False)
        self.held_out = HeldOutImages(held_out)
        self.module = nn.ModuleDict({**modules, "kept": self.held_out}).to(device)  # the name in checkpoints

    def draw_samples(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A batch's rows of the data, transformations, and places in 1 .. T, each (B,) long on the CPU."""
        config, batch = self.config, self.config.batch_size
        rows = torch.randint(len(self.data), (batch,), generator=rng)
        # Every transformation gets the same share of a batch.
        transformation = torch.randperm(batch, generator=rng) % len(config.transformations)
        place = torch.randint(1, config.path_frames + 1, (batch,), generator=rng)
        return rows, transformation, place

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the moving average."""
        if self.average is not None:
            update_ema(self.average.modules(), self.learned.modules(), self.config.ema, step)


class VAETraining(VAETask):
    """The training of a VAE by the objective "paper"; its arguments are those of `VAETask`."""

    def draw(self, step: int) -> Batch:
        """Draw this process's part of a step's batch. Every sample has its own image, transformation and place."""
        config, batch = self.config, self.config.batch_size
        rng = step_rng(config.seed, step)
        rows, transformation, place = self.draw_samples(rng)
        noise = torch.randn(batch, 2, config.latent_dim, generator=rng)
        uniform = torch.rand(batch, config.num_potentials, generator=rng)
        # All processes draw the whole batch, so that it is the same for any number of processes.
        mine = self.group.rows(batch)
        parts = (x[mine] for x in (rows, transformation, place, noise, uniform))
        rows, transformation, place, noise, uniform = (send(x, self.held_out.images) for x in parts)
        weights = torch.tensor([config.weight(term, step) for term in config.terms])
        places = [torch.zeros_like(place), place]
        if self.learned.inference is not None:
            places.append(torch.full_like(place, config.path_steps))
        images = self.data.frames(rows, transformation, torch.stack(places, 1) / config.path_steps)
        return Batch(
            images=images,
            transformation=transformation,
            place=place,
            noise=noise.transpose(0, 1),
            uniform=uniform,
            weights=send(weights, images),
        )

    def losses(self, batch: Batch) -> Losses:
        """The objective on a batch."""
        config, phases, vae, prior = self.config, self.phases, self.learned.vae, self.learned.prior
        start, moved = batch.images[:, 0], batch.images[:, 1]
        phases.mark("generator")
        with profiled("train.encoder"):
            encoded = vae.encode(torch.cat((start, moved)))
        first, second = (Posterior(*parts) for parts in zip(*(x.chunk(2) for x in encoded), strict=True))
        latents = [first.sample(batch.noise[0]), second.sample(batch.noise[1])]
        transported = None
        if self.learned.potentials is not None:
            phases.mark_backward(latents[0], "generator")
            transported = self._transport(self.learned.potentials, latents[0], batch)
            latents.append(transported.z)
        phases.mark("generator")
        with profiled("train.decoder"):
            decoded = vae.decode(torch.cat(latents)).split(len(start))  # in one pass
        log_given = [vae.log_density(p, x) for p, x in zip(decoded, (start, moved, moved), strict=False)]
        # The log-variance of the moved latents' prior, (B, 1).
        prior_log_variance = torch.zeros_like(encoded[0][: len(start), :1])
        if prior is not None:
            prior_log_variance = prior.log_variance(config.dt * batch.place)[:, None]
        divergence = [normal_divergence(*first), normal_divergence(*second, prior_log_variance)]
        terms = {
            name: (config.beta * d - g).mean()
            for name, d, g in zip(("start", "moved"), divergence, log_given, strict=False)
        }
        if transported is not None:
            terms["transport"] = -log_given[2].mean()
            if transported.density_loss is not None:
                log_posterior = normal_log_density(latents[0], *first) - transported.density_loss
                mean = torch.zeros_like(prior_log_variance)
                log_prior = normal_log_density(transported.z, mean, prior_log_variance)
                terms["transport"] = terms["transport"] + config.beta * (log_posterior - log_prior).mean()
            terms["matching"] = (transported.z - second.mean).square().sum(1).mean()
            terms |= transported.path_terms
            if config.jacobian_weight > 0:
                with profiled("train.jacobian"):
                    _, change = generator_change(vae.images, transported.z - transported.step, transported.step)
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

    def _transport(self, potentials: Potentials, z0: Tensor, batch: Batch) -> Transported:
        """Let the start's latents (B, D) flow, each along its own potential or the one that is inferred for it."""
        config, phases, count = self.config, self.phases, self.config.num_potentials
        terms, index, choice = {}, batch.transformation, None
        if self.learned.inference is not None:
            phases.mark("classifier")
            log_probability = self.learned.inference(batch.images[:, 0], batch.images[:, 2])
            choice = gumbel_softmax(log_probability, batch.uniform, config.temperature)  # (B, K)
            index = choice.argmax(1)
            terms["assignment"] = (log_probability.exp() * (log_probability + math.log(count))).sum(1).mean()
        phases.mark("engine")
        with profiled("train.engine"):
            diffuses = self.learned.prior is not None
            if choice is None:
                paths = integrate_paths(potentials, config, z0, index, self.group, with_laplacian=diffuses)
                path, laplacian = paths.path, paths.laplacian
            else:
                # Each sample needs its paths along all potentials, so that the choice among them has a gradient.
                starts = z0.repeat_interleave(count, 0)  # (B * K, D)
                each = torch.arange(count, device=z0.device).repeat(len(z0))
                paths = integrate_paths(potentials, config, starts, each, self.group, with_laplacian=diffuses)
                path = torch.einsum("bk,bktd->btd", choice, paths.path.unflatten(0, (-1, count)))
                laplacian = paths.laplacian
                if laplacian is not None:
                    laplacian = torch.einsum("bk,bkt->bt", choice, laplacian.unflatten(0, (-1, count)))
            terms["pde"] = paths.residual
            terms["initial"] = initial_loss(potentials.bank, z0, index, companion=potentials.companion)
            rows = torch.arange(len(z0), device=z0.device)
            before, z = path[rows, batch.place - 1], path[rows, batch.place]
            density_loss = None
            if laplacian is not None:
                # By the continuity equation, d/dt log q = -div v along a path; a companion has no divergence.
                density_loss = config.dt * laplacian.cumsum(1)[rows, batch.place - 1]
        phases.mark_backward(z, "engine")
        return Transported(z, z - before, terms, density_loss)


class HeldOutImages(nn.Module):
    """Held-out images, rounded to 256 levels, which a run stores with its weights."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", (images * 255).round().to(torch.uint8))


def resolved(config: VAEConfig, data: Sequences) -> VAEConfig:
    """The configuration, completed by the data set: its transformations, and the number of potentials if that is 0.

    Raises:
        InputError: the configuration has other transformations, or supervision is full and the number of potentials
            isn't that of the transformations.
    """
    names = tuple(data.transformations)
    if config.transformations not in ((), names):
        raise InputError(
            f"transformations must be those of the data set, {', '.join(names)}, or be left out, got "
            f"{', '.join(config.transformations)}"
        )
    count = config.num_potentials or len(names)
    if config.supervision == "full" and count != len(names):
        raise InputError(
            f"num_potentials must be {len(names)}, one for each transformation ({', '.join(names)}), got {count}; "
            "another number needs supervision weak"
        )
    return replace(config, transformations=names, num_potentials=count)


@torch.no_grad()
def some_images(data: Sequences, count: int = HELD_OUT_COUNT) -> Tensor:
    """Starting images (N, C, H, W), evenly spread over a data set."""
    rows = torch.linspace(0, len(data) - 1, min(count, len(data))).long()
    return data.frames(rows, torch.zeros_like(rows), torch.zeros(len(rows), 1))[:, 0]


def gumbel_softmax(log_probability: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """One-hot samples (B, K) of the straight-through Gumbel-softmax (Jang et al.; Maddison et al., ICLR 2017)."""
    gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))
    soft = torch.softmax((log_probability + gumbel) / temperature, 1)
    hard = functional.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
    return hard + soft - soft.detach()
