"""Discovery: learn K potentials whose flows change a pretrained generator's images in K distinct ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastflow.core.devices import send
from fastflow.core.errors import InputError
from fastflow.core.nvtx import profiled
from fastflow.core.plugins import first_line
from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.generators.change import generator_change
from fastflow.latents.classifiers import make_classifier, try_classifier
from fastflow.latents.guidance import Guidance, Guide, check_features
from fastflow.latents.losses import (
    balance_loss,
    classifier_loss,
    guidance_loss,
    initial_loss,
    jacobian_loss,
    log_change,
)
from fastflow.latents.spaces import Features
from fastflow.training.distributed import SINGLE_PROCESS, ProcessGroup
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.loop import Losses
from fastflow.training.potentials import build_potentials, integrate_paths, update_ema
from fastflow.training.timers import PhaseTimer


class Batch(NamedTuple):
    """This process's samples of a step, and the objective's weights in that step."""

    z0: Tensor
    """(B, D)"""
    potential: Tensor
    """(B,) long"""
    place: Tensor
    """(B,) long: each sample's step on its path."""
    weights: Tensor
    """The weights of the objective's terms, in the order of `config.terms`."""
    labels: Tensor | None = None
    """(B,) long: each sample's class, if the generator has classes."""
    guided: Tensor | None = None
    """(G,) long: the rows whose potential is guided by where its path leads, if any potentials are."""
    free: Tensor | None = None
    """(B - G,) long: the other rows, likewise."""


class Discovery:
    """The training task of a discovery. Its module holds the potentials, the classifier, and a moving average if asked.

    Args:
        classifier: replaces the configuration's; a module from two batches of images in [0, 1] to logits (B, K).
        guide: the attributes that the first potentials change, one each; the other potentials are free.
        keep: functions whose features stay along guided paths.
        group: the processes that train together; each takes its part of the batch.

    Raises:
        InputError: there are more guided attributes than potentials, or `Guidance` refuses them.
    """

    user_terms = ("guidance", "hold", "keep")

    def __init__(
        self,
        config: DiscoverConfig,
        generator: Generator,
        *,
        classifier: nn.Module | None = None,
        guide: Guide | None = None,
        keep: Sequence[Features] = (),
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.config, self.generator, self.guide, self.keep, self.group = config, generator, guide, keep, group
        if guide is not None and len(guide.names) > config.num_potentials:
            raise InputError(
                f"guide names {len(guide.names)} attributes, {', '.join(guide.names)}: num_potentials must be at least "
                f"as many, got {config.num_potentials}"
            )
        self.phases = PhaseTimer(generator.like.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.potentials = build_potentials(config, generator.latent_dim)
            if classifier is None:
                classifier = make_classifier(config.classifier, generator.image_shape, config.num_potentials)
            self.guidance = None
            if guide is not None and config.guidance_loss == "path":
                rate = config.guide_rate if config.guidance == "follow" else -config.guide_rate
                self.guidance = Guidance(generator, guide, keep, rate)
        self.bank, self.pde, self.companion = self.potentials
        self.classifier = classifier
        modules = {**self.potentials.modules(), "classifier": classifier}
        self.average = copy.deepcopy(self.potentials) if config.ema else None
        if self.average is not None:
            modules["average"] = nn.ModuleDict(self.average.modules()).requires_grad_(False)
        self.module = nn.ModuleDict(modules).to(generator.like)

    def draw(self, step: int) -> Batch:
        """Draw this process's part of a step's batch. Every sample has its own start, potential and time."""
        config, batch = self.config, self.config.batch_size
        rng = step_rng(config.seed, step)
        z0 = self.generator.sample(batch, rng)
        # Every potential gets the same share of a batch: random ones would leave some without samples in small batches.
        index = torch.randperm(batch, generator=rng) % config.num_potentials
        place = torch.randint(config.path_steps, (batch,), generator=rng)
        labels = self.generator.draw_labels(batch, rng)
        # All processes draw the whole batch, so that it is the same for any number of processes.
        mine = self.group.rows(batch)
        weights = torch.tensor([config.weight(term, step) for term in config.terms], dtype=z0.dtype)
        index, place = index[mine], place[mine]
        rows: list[Tensor] = []
        if self.guidance is not None:  # found here, where no device has to be waited for
            guided = index < len(self.guidance)
            rows = [send(chosen.nonzero().flatten(), z0) for chosen in (guided, ~guided)]
        index, place, weights = (send(x, z0) for x in (index, place, weights))
        return Batch(z0[mine], index, place, weights, None if labels is None else labels[mine], *rows)

    def losses(self, batch: Batch) -> Losses:
        """The objective on a batch."""
        phases = self.phases
        z0, index, place, weights, labels, _, free = batch
        decode = self.generator.conditioned(labels)
        phases.mark("engine")
        with profiled("train.engine"):
            pde_term, path = self._residual(z0, index)
            if free is None:
                initial_term = initial_loss(self.bank, z0, index, companion=self.companion)
            else:  # guided potentials change their attribute from the first step on
                at_rest = initial_loss(self.bank, z0[free], index[free], companion=self.companion) if len(free) else 0.0
                initial_term = pde_term.new_zeros(()) + at_rest * (len(free) / len(z0))
            samples = torch.arange(len(z0), device=z0.device)
            z, z_next = path[samples, place], path[samples, place + 1]
        phases.mark_backward(z_next, "engine")

        terms = {"pde": pde_term, "initial": initial_term}
        if free is not None and not len(free):
            return self._guided_alone(batch, terms, z, z_next)

        phases.mark("generator")
        with profiled("train.generator"):
            images, change = generator_change(decode, z, z_next - z, forward_mode=self.generator.forward_mode)
            next_images = decode(z_next)
        phases.mark_backward(next_images, "generator")

        phases.mark("classifier")
        scaled, next_scaled = map(self.generator.scaled, (images, next_images))
        pair = scaled, next_scaled
        if self.guidance is not None:
            # What guided potentials change is given: their paths aren't drawn to what the classifier tells apart best,
            # nor to the largest change.
            guided = index < len(self.guidance)
            pair = _held(scaled, guided), _held(next_scaled, guided)
        with profiled("train.classifier"):
            logits = self.classifier(*pair)
            classifier_term = classifier_loss(logits, index)
        terms |= {"jacobian": self._reward(batch, change), "classifier": classifier_term}
        if self.guidance is not None:
            terms |= self._path_terms(self.guidance, batch, next_scaled, z_next)
        elif self.guide is not None:
            terms["guidance"] = self._cosine(self.guide, scaled, z, z_next - z, index)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == index).to(z.dtype).mean()
            strength = (next_scaled - scaled).abs().mean()
        return _losses(terms, weights, accuracy=accuracy, strength=strength)

    def _reward(self, batch: Batch, change: Tensor) -> Tensor:
        """The reward for visible changes (B, C, H, W). Free paths beside guided ones should move as much as these."""
        if batch.free is None or batch.guided is None:
            return jacobian_loss(change, self.config.jacobian)
        with torch.no_grad():  # the mean over all processes' guided samples
            logs = log_change(change[batch.guided])
            total, count = self.group.mean(torch.stack((logs.sum(), logs.new_tensor(float(len(logs)))))).unbind()
        if not len(batch.free):
            return change.new_zeros(())
        return balance_loss(change[batch.free], total / count) * (len(batch.free) / len(change))

    def _guided_alone(self, batch: Batch, terms: dict[str, Tensor], z: Tensor, z_next: Tensor) -> Losses:
        """The same where every potential is guided, so that nothing is left for the classifier to keep apart.

        Args:
            batch: the batch.
            terms: the objective's terms so far.
            z, z_next: the latents (B, D) after `place` and after place + 1 steps.
        """
        assert self.guidance is not None
        decode = self.generator.conditioned(batch.labels)
        self.phases.mark("generator")
        with profiled("train.generator"):
            next_images = decode(z_next)
            with torch.no_grad():
                images = decode(z)
        self.phases.mark_backward(next_images, "generator")
        self.phases.mark("classifier")
        scaled, next_scaled = map(self.generator.scaled, (images, next_images))
        nothing = z.new_zeros(())
        terms |= {"jacobian": nothing, "classifier": nothing}
        terms |= self._path_terms(self.guidance, batch, next_scaled, z_next)
        return _losses(terms, batch.weights, strength=(next_scaled.detach() - scaled).abs().mean())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the moving average."""
        if self.average is not None:
            update_ema(self.average.modules(), self.potentials.modules(), self.config.ema, step)

    def _residual(self, z0: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The equation's term of the objective on paths from z0 (B, D), and the paths (B, T + 1, D)."""
        paths = integrate_paths(self.potentials, self.config, z0, index, self.group)
        return paths.residual, paths.path

    def _path_terms(self, guidance: Guidance, batch: Batch, images: Tensor, z: Tensor) -> dict[str, Tensor]:
        """The objective's terms that judge paths by their latents z (B, D) and images after place + 1 steps."""
        rows, steps = batch.guided, batch.place + 1
        self.phases.mark("generator")
        with torch.no_grad():
            before = self.generator.scaled(self.generator.conditioned(batch.labels)(batch.z0))
        self.phases.mark("classifier")
        found = guidance.terms(before[rows], images[rows], batch.potential[rows], steps[rows])
        share = self._share(len(guidance))
        terms = {name: each.sum() / len(z) / share for name, each in found._asdict().items()}
        bounds = guidance.bounds(before, images, z)
        terms["shell"] = bounds.shell.mean()
        if guidance.features:
            terms["keep"] = bounds.keep.mean()  # the last in `config.terms`
        return terms

    def _cosine(self, guide: Guide, images: Tensor, z: Tensor, velocity: Tensor, index: Tensor) -> Tensor:
        """The mean guidance loss of the steps of guided potentials."""
        values = guide(images)[:, list(guide.columns)]  # (B, P)
        count = len(guide.columns)
        guided = index < count
        chosen = values.gather(1, index.clamp_max(count - 1)[:, None])
        self.phases.mark("generator")
        (gradient,) = torch.autograd.grad(chosen.sum(), z, retain_graph=True)
        self.phases.mark("classifier")
        each = guidance_loss(velocity, gradient, self.config.guidance)
        return (guided * each).mean() / self._share(count)

    def _share(self, count: int) -> float:
        """The share of a whole batch, of which this process has a part, whose potential is one of the first: `draw`."""
        batch, potentials = self.config.batch_size, self.config.num_potentials
        return sum(-(-(batch - k) // potentials) for k in range(count)) / batch


def _losses(terms: dict[str, Tensor], weights: Tensor, **logged: Tensor) -> Losses:
    """The weighted sum of terms, which are in the order of their weights, and what is logged."""
    loss = (weights[: len(terms)] * torch.stack(list(terms.values()))).sum()
    return Losses(loss, {name: term.detach() for name, term in terms.items()} | logged)


def _held(x: Tensor, rows: Tensor) -> Tensor:
    """Images (B, C, H, W) or their changes, of which these rows (B,) pass no gradient."""
    return torch.where(rows[:, None, None, None], x.detach(), x)


def check_task(task: Discovery) -> None:
    """Try the generator and the user's functions on the first step's batch; raise InputError if one fails.

    Gradients must pass through the generator, forwards and backwards, and the functions must return values of the right
    form. The training's random numbers and the classifier's buffers stay as they were.
    """
    generator, batch = task.generator, task.draw(1)
    devices = [batch.z0.device] if batch.z0.is_cuda else []
    with torch.random.fork_rng(devices), _restored_buffers(task.classifier):
        images = _check_differentiable(generator, batch.z0, batch.labels)
        scaled = generator.scaled(images.detach())
        try_classifier(task.classifier, scaled, task.config.num_potentials)
        for features in task.keep:
            check_features(features, scaled.clone())


@contextmanager
def _restored_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers that a forward pass changes, such as the statistics of batch normalization."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers() if not is_lazy(buffer)]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _check_differentiable(generator: Generator, z: Tensor, labels: Tensor | None) -> Tensor:
    """The images of latents z; raise InputError unless they can be differentiated with respect to z."""
    z, decode = z.detach().requires_grad_(), generator.conditioned(labels)
    try:
        images, change = generator_change(decode, z, torch.ones_like(z), forward_mode=generator.forward_mode)
        if images.requires_grad:  # as a step does it: some operations fail only in their backward
            torch.autograd.grad(images.sum() + change.sum(), z, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = f"differentiation failed: {first_line(error)}"
    else:
        if not images.requires_grad:
            reason = "its images carry no gradient; leave out torch.no_grad, detach and NumPy"
        elif not bool((change.detach() != 0).any()):
            reason = "its images don't change with the latents"
        else:
            return images
    raise InputError(f"the generator can't be learned on: {reason}")
