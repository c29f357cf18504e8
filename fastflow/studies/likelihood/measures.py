"""The measurements of each VAE that the study of the likelihood trains, on the same held-out images for all."""

from __future__ import annotations

import math
import statistics
import warnings
from typing import Any

import torch
from torch import Tensor

from fastflow.core.files import parse_json
from fastflow.core.rng import step_rng
from fastflow.datasets import Sequences
from fastflow.metrics import (
    LogLikelihood,
    equivariance_error,
    log_likelihood,
    published_figure,
    sequence_log_likelihood,
    straight_directions,
)
from fastflow.runs.run import VAERun
from fastflow.studies.likelihood.parts import REACH, Part, is_withheld
from fastflow.studies.likelihood.variants import Size

START = "start"
"""log p(x_0), the likelihood of a single image."""

MOVED = "moved"
"""log p(x_T | k), that of an image at the end of the longest sequence, given the transformation alone."""
UNKNOWN = "unknown"
"""log p(x_0, .., x_T) of the longest sequence, whose transformation isn't given."""

LONGER = "longer"
"""log p(x_{T+1}, .., x_S | x_0, .., x_T, k) of the images that follow when a path is longer than in training."""
COMPOSED = "composed"
"""log p(x_0, .., x_T | k, l) of images that move along k for the first half of the steps, and then along l."""
UNSEEN = "unseen"
"""log p(x_0, .., x_T | k) of images of a kind that didn't move along k in training."""
LONGER = "longer"
"""log p(x_{T+1}, .., x_S | x_0, .., x_T, k) of the S - T images that follow after the length of the training."""
COMPOSED = "composed"
"""log p(x_0, .., x_T | k, l) of images that move along k for the first half of the steps, and then along l."""
UNSEEN = "unseen"
"""log p(x_0, .., x_T | k) of a kind of images that never moved along k in training."""
_EFFECTIVE = "_effective"


def pair(n: int) -> str:
    """The name of log p(x_0, x_n | k)."""
    return f"pair-{n}"


def sequence(length: int) -> str:
    """The name of log p(x_0, .., x_T | k)."""
    return f"sequence-{length}"


def measure(run: VAERun, train: Sequences, test: Sequences, size: Size) -> dict[str, Any]:
    """Measure the likelihood of held-out images, pairs and sequences, and how well paths follow the transformations.

    Args:
        run: the trained VAE. If it was trained on pairs, sequences aren't measured.
        train: the images that it was trained on; if its latents are independent, straight directions are fitted to
            them.
        test: the held-out images.
        size: how many images and samples to measure with.
    """
    frames, k = held_out(run, test, size)
    whole = run.config.frames == "path"
    starts, _ = held_out(run, test, size, size.images, places=1)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .* the effective sample size is too small")  # the table has it
        _put(found, START, log_likelihood(run.vae, starts[:, 0], size.num_samples))
        last = max(size.lengths)
        for name, places in ((MOVED, (last,)), *((pair(n), (0, n)) for n in size.lengths if n > 1 or not whole)):
            _put(found, name, sequence_log_likelihood(run, frames[:, places], k, size.num_samples, places=places))
        for length in [length for length in size.lengths if length < last] if whole else ():
            _put(found, sequence(length), sequence_log_likelihood(run, frames[:, : length + 1], k, size.num_samples))
        if whole:
            _put_whole(found, run, frames, k, size)
    if sequence(1) in found:  # a path of one step is a pair
        found |= {pair(1) + end: found[sequence(1) + end] for end in ("", _EFFECTIVE)}
    return found | _others(run, train, test, size)


def measure_beyond(run: VAERun, train: Sequences, test: Sequences, size: Size) -> dict[str, Any]:
    """Measure how far a VAE that was trained on parts of its data goes beyond them.

    Args:
        run: the VAE, trained on whole paths.
        train: the part of the data that it was trained on.
        test: all of the held-out data.
        size: as for `measure`.
    """
    last, count = max(size.lengths), len(run.transformations)
    longest, half = int(last / REACH), last // 2
    order, hidden = torch.randperm(len(test), generator=step_rng(0, 0, stream=5)), is_withheld(test)
    rows, strange = (order[which][: size.sequences] for which in (~hidden[order], hidden[order]))
    k, first = torch.arange(len(rows)) % count, torch.zeros_like(strange)
    place = (torch.arange(longest + 1) / run.config.path_frames * float(REACH)).clamp(max=1)
    until_last = place[: last + 1]
    frames = test.frames(rows, k, place.expand(len(rows), -1))
    unseen = test.frames(strange, first, until_last.expand(len(strange), -1))
    two = torch.stack((k, (k + 1) % count), 1)
    each = torch.stack((until_last.clamp(max=place[half]), (until_last - place[half]).clamp(min=0)), 1)
    composed = test.frames(rows, two, each.expand(len(rows), -1, -1))
    along = two.repeat_interleave(torch.tensor([half, last - half]), 1)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .* the effective sample size is too small")  # the table has it
        starts, _ = held_out(run, test, size, size.images, places=1)
        _put(found, START, log_likelihood(run.vae, starts[:, 0], size.num_samples))
        for name, images, potential in (
            (sequence(last), frames[:, : last + 1], k),
            (LONGER, frames, k),
            (COMPOSED, composed, along),
            (UNSEEN, unseen, first),
        ):
            _put(found, name, sequence_log_likelihood(run, images, potential, size.num_samples))
    found[LONGER] -= found[sequence(last)]
    return found | _others(run, train, Part(test, withheld=False), size)


def _others(run: VAERun, train: Sequences, test: Sequences, size: Size) -> dict[str, float]:
    """What is measured beside likelihoods; train and test as the run was trained on them."""
    starts, _ = held_out(run, train, size, size.images, places=1)
    # Independent latents move along straight directions.
    directions = straight_directions(run, train, size.fitted) if run.config.law == "independent" else None
    paths = equivariance_error(run, test, size.paths, directions=directions)
    return {
        "published": published_figure(run.vae, starts[:, 0]),
        "path_error": paths.error,
        "agreement": paths.accuracy,
        "reconstruction_error": paths.floor,
        "still_error": paths.still,
        "engine_share": _engine_share(run),
    }


def held_out(
    run: VAERun, data: Sequences, size: Size, count: int | None = None, places: int | None = None
) -> tuple[Tensor, Tensor]:
    """Paths (N, P, C, H, W) of images, the same for every run, and their transformations (N,)."""
    rng = step_rng(0, 0, stream=5)
    rows = torch.randperm(len(data), generator=rng)[: size.sequences if count is None else count]
    k = torch.arange(len(rows)) % len(data.transformations)
    steps = run.config.path_frames
    place = torch.arange((max(size.lengths) + 1) if places is None else places) / steps
    return data.frames(rows, k, place.expand(len(rows), -1)), k


def _put(found: dict[str, Any], name: str, measured: LogLikelihood) -> None:
    """Add a likelihood, and the median of its effective sample sizes as a share of its samples."""
    found[name] = measured.mean
    found[name + _EFFECTIVE] = statistics.median(measured.effective_sample_size.tolist()) / measured.num_samples


def _put_whole(found: dict[str, Any], run: VAERun, frames: Tensor, k: Tensor, size: Size) -> None:
    """Add the likelihood of whole paths: given each one's transformation, and if the transformation isn't known."""
    count = len(run.transformations)
    kinds = [sequence_log_likelihood(run, frames, torch.full_like(k, kind), size.num_samples) for kind in range(count)]
    each, effective = (torch.stack([getattr(m, part) for m in kinds]) for part in ("each", "effective_sample_size"))
    own, name = k[None], sequence(frames.shape[1] - 1)
    found[name] = float(each.gather(0, own).mean())
    found[name + _EFFECTIVE] = float(effective.gather(0, own).median()) / size.num_samples
    found[UNKNOWN] = float((each.logsumexp(0) - math.log(count)).mean())


def _engine_share(run: VAERun) -> float:
    """The engine's share of a step, the median over the run's metrics log."""
    file = run.folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    return statistics.median(parse_json(line, repr(str(file)), finite=False).get("share_engine", 0.0) for line in lines)
