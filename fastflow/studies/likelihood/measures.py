"""The measurements of each VAE that the study of the likelihood trains, on the same held-out images for all."""

from __future__ import annotations

from typing import Any

import torch

from fastflow.core.files import parse_json
from fastflow.core.rng import step_rng
from fastflow.datasets import Sequences
from fastflow.metrics import equivariance_error, log_likelihood, pair_log_likelihood, straight_directions
from fastflow.runs.run import VAERun
from fastflow.studies.likelihood.variants import Size


def measure(run: VAERun, train: Sequences, test: Sequences, size: Size) -> dict[str, Any]:
    """Measure the likelihood of held-out images, and how well paths follow the data's transformations.

    The likelihoods are those of images at their start, of moved images, and of a start and its moved image together.

    Args:
        run: the trained VAE.
        train: the images that it was trained on; for a run without flows, straight directions are fitted to them.
        test: the held-out images.
        size: how many images and samples to measure with.
    """
    count, steps = len(test.transformations), run.config.path_steps
    rng = step_rng(0, 0, stream=5)  # the same images for every run
    rows = torch.randperm(len(test), generator=rng)[: size.images]
    k = torch.arange(len(rows)) % count
    n = torch.randint(1, steps + 1, k.shape, generator=rng)
    pairs = test.frames(rows, k, torch.stack((torch.zeros(len(n)), n / steps), 1))
    start, moved = (log_likelihood(run.vae, x, size.num_samples).mean for x in pairs.unbind(1))
    # A VAE without flows moves its latents along straight directions.
    directions = None if run.config.flows else straight_directions(run, train, size.fitted)
    paths = equivariance_error(run, test, size.paths, directions=directions)
    found = {
        "start": start,
        "moved": moved,
        "separate": start + moved,  # under two independent latents
        "pair": pair_log_likelihood(run, pairs, k, n, size.num_samples, directions=directions).mean,
        "path_error": paths.error,
        "agreement": paths.accuracy,
        "reconstruction_error": paths.floor,
        "still_error": paths.still,
    }
    if run.config.flows:
        found["engine_share"] = _last_line(run)["share_engine"]
    return found


def _last_line(run: VAERun) -> dict[str, Any]:
    """The last entry of the run's metrics log."""
    file = run.folder / "metrics.jsonl"
    return parse_json(file.read_text(encoding="utf-8").splitlines()[-1], repr(str(file)), finite=False)
