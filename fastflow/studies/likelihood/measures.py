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
from fastflow.studies.likelihood.variants import Size

START = "start"
"""log p(x_0), the likelihood of a single image."""

MOVED = "moved"
"""log p(x_T | k), that of an image at the end of the longest sequence, given the transformation alone."""
UNKNOWN = "unknown"
"""log p(x_0, .., x_T) of the longest sequence, whose transformation isn't given."""
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
    frames, k = _held_out(run, test, size)
    whole = run.config.frames == "path"
    starts, _ = _held_out(run, test, size, size.images, places=1)
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
    found["published"] = published_figure(run.vae, _held_out(run, train, size, size.images, places=1)[0][:, 0])
    # Independent latents move along straight directions.
    directions = straight_directions(run, train, size.fitted) if run.config.law == "independent" else None
    paths = equivariance_error(run, test, size.paths, directions=directions)
    return {
        **found,
        "path_error": paths.error,
        "agreement": paths.accuracy,
        "reconstruction_error": paths.floor,
        "still_error": paths.still,
        "engine_share": _last_line(run).get("share_engine", 0.0),
    }


def _held_out(
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


def _last_line(run: VAERun) -> dict[str, Any]:
    """The last entry of the run's metrics log."""
    file = run.folder / "metrics.jsonl"
    return parse_json(file.read_text(encoding="utf-8").splitlines()[-1], repr(str(file)), finite=False)
