"""What the engine is worth to a VAE's training: whole steps with it, and with nested autograd in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.studies.nested_walk import in_place_of_the_engine
from fastflow import datasets
from fastflow.training.presets import VAE_PRESETS
from fastflow.training.timers import PhaseTimer
from fastflow.training.vae import VAETraining, resolved, some_images
from fastflow.training.vae_config import VAEConfig

WIDTHS = (16, 32, 64, 128)
"""Of the latents, in the sweep."""


class Measured(NamedTuple):
    """Milliseconds of CPU time, the least of several steps."""

    engine_step: float
    engine_share: float
    nested_step: float

    @property
    def ratio(self) -> float:
        """How many times faster the step is with the engine."""
        return self.nested_step / self.engine_step

    @property
    def ceiling(self) -> float:
        """How many times faster it would be with an engine that took no time (Amdahl, 1967)."""
        return self.nested_step / (self.engine_step * (1 - self.engine_share))


def cases() -> dict[str, VAEConfig]:
    """What is measured, by name: the presets, small and large latents on two kinds of VAE, and the paper's sizes."""
    presets = {
        name: replace(config, objective="paper", companion=False, batch_size=128)
        for name, config in VAE_PRESETS.items()
    }
    found = {f"preset {name}": config for name, config in presets.items()}
    mnist = presets["vae-mnist"]
    for vae, changes in {"mlp": {"network": "mlp", "widths": (400,)}, "conv": {}}.items():
        for width in WIDTHS:
            found[f"MNIST, {vae}, D = {width}"] = replace(mnist, latent_dim=width, **changes)
    paper = {"latent_dim": 324, "hidden": (324, 324)}  # of Song et al.'s public code, for its VAE on MNIST
    return found | {"MNIST, conv, the paper's latents": replace(mnist, **paper)}


def measure(config: VAEConfig, repeats: int) -> Measured:
    """Steps in turn with the engine and without, after it was seen that both compute the same."""
    task = _task(config)
    _check_alike(task)
    steps: list[dict[str, float]] = []
    nested: list[float] = []
    optimizer = torch.optim.Adam(task.module.parameters(), fused=True)
    for step in range(1, repeats + 2):
        task.phases = clock = PhaseTimer(torch.device("cpu"), time.process_time)
        clock.mark("other")
        _take(task, optimizer, step)
        clock.mark("other")
        steps.append(clock.seconds())
        task.phases = PhaseTimer(torch.device("cpu"))  # the clock's last mark would count this step to the next one
        with in_place_of_the_engine():
            begun = time.process_time()
            _take(task, optimizer, step)
            nested.append(time.process_time() - begun)
    fastest = min(steps[1:], key=lambda phases: sum(phases.values()))
    total = sum(fastest.values())
    return Measured(1000 * total, fastest["engine"] / total, 1000 * min(nested[1:]))


def table(found: dict[str, tuple[VAEConfig, Measured]], where: str) -> str:
    """The steps' times and ratios, as Markdown."""
    rows = "".join(
        f"| {name} | {config.network} {', '.join(map(str, config.widths))} | {config.latent_dim} | "
        f"{', '.join(map(str, config.hidden))} | {config.batch_size} | {config.path_steps} | {m.engine_step:.1f} | "
        f"{m.engine_share:.0%} | {m.nested_step:.1f} | {m.ratio:.1f} | {m.ceiling:.1f} |\n"
        for name, (config, m) in found.items()
    )
    return (
        "# A VAE's training step with the engine and with nested autograd in its place\n\n"
        f"{where} Written by `python -m benchmarks.studies.training vae`. Whole steps: images drawn and moved, the "
        "objective, its backward and Adam, in CPU time, the least of several taken in turn. The exact Laplacian in "
        "both, all potentials batched in both; losses and gradients are compared first. MNIST's images are random "
        "pixels here, of its size and transformations. The last column is the ratio of an engine "
        "that took no time: the rest of the step, which is the VAE's, stays.\n\n"
        "| | VAE | D | hidden | batch | T | with the engine, ms | engine's share | nested autograd, ms | ratio | "
        "at most |\n"
        f"|---|---|---|---|---|---|---|---|---|---|---|\n{rows}"
    )


def _task(config: VAEConfig) -> VAETraining:
    data: Any
    if config.data == "mnist":
        pixels = torch.rand(512, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        data = datasets.ImageSequences(pixels, config.transformations or ("rotation", "scale", "hue"), name="mnist")
    else:
        data = datasets.load(config.data, None, "train", config.transformations or None)
    config = resolved(config, data)
    # Nested autograd takes the potentials' samples as a batch of equal parts.
    even = config.batch_size - config.batch_size % config.num_potentials
    return VAETraining(replace(config, batch_size=even), data, some_images(data), torch.device("cpu"))


def _take(task: VAETraining, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad(set_to_none=True)
    task.losses(task.draw(step)).loss.backward()
    task.phases.mark("optimizer")
    optimizer.step()


def _check_alike(task: VAETraining) -> None:
    """Raise AssertionError unless both ways have the same loss and gradients."""

    def gradients(place: Callable[[], Any]) -> list[Tensor]:
        with place():
            loss = task.losses(task.draw(1)).loss
            parameters = [p for p in task.module.parameters() if p.requires_grad]
            return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)]

    engine, nested = gradients(nullcontext), gradients(in_place_of_the_engine)
    for one, other in zip(engine, nested, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
