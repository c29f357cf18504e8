"""What the metrics cost.

python -m benchmarks.studies.metrics

measures every factor metric on 10,000 codes of 64 dimensions that are five factors' random mixtures with noise, then
every measure of paths on random directions of the bundled digits VAE, and a regressor of dSprites' factors, on one
thread; with --published also the published VP score. It prints a table of scores and CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import fastflow as ff
from benchmarks import machine

SIZES = (3, 6, 40, 32, 32)
"""Of factors: those of dSprites."""


def mixtures(count: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes (count, dim) that are random sums of standardised factors with noise of 0.3, and the factors (count, 5)."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(size, size=count) for size in SIZES], 1)
    return factors / factors.std(0) @ rng.normal(size=(len(SIZES), dim)) + 0.3 * rng.normal(size=(count, dim)), factors


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.metrics")
    parser.add_argument("--samples", type=int, default=10_000, help="codes")
    parser.add_argument("--dim", type=int, default=64, help="their width")
    parser.add_argument("--published", action="store_true", help="the published VP score as well, for one seed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = machine.record()
    print(f"{known['cpu']}, {known['instruction_set']}, one thread\n\n| metric | score | CPU seconds |\n|---|---|---|")

    codes, factors = mixtures(options.samples, options.dim)
    metrics = ff.metrics
    for metric in (metrics.mig, metrics.modularity, metrics.sap, metrics.factor_vae, metrics.beta_vae, metrics.dci):
        quiet = {} if metric in (metrics.mig, metrics.modularity) else {"progress": False}
        report(metric.__name__, lambda metric=metric, quiet=quiet: metric(codes, factors, **quiet).score)
    report("sap, shape without order", lambda: metrics.sap(codes, factors, categorical=[0], progress=False).score)

    paths = metrics.match_strength(ff.baselines.Random(ff.generators.load("digits-vae"), 8), 0.02)
    strokes = metrics.stroke_attributes
    report("purity", lambda: metrics.purity(paths, strokes, metrics.STROKE_ATTRIBUTES).score)
    report("attribute_correlation", lambda: metrics.attribute_correlation(paths, strokes).strongest(0)[1])
    report("path_length, pixels", lambda: metrics.path_length(paths).score)
    report("curvature", lambda: metrics.curvature(paths).score)
    report("consistency", lambda: metrics.consistency(paths).score)
    report("vp_score_fast, 3 seeds", lambda: metrics.vp_score_fast(paths, progress=False).score)
    if options.published:
        report("vp_score, 1 seed", lambda: metrics.vp_score(paths, seeds=1).score)  # minutes: its bar tells epochs
    regressor: Any = None

    def trained() -> float:
        nonlocal regressor
        regressor = metrics.factor_regressor(ff.datasets.dsprites(split="test"), progress=False)
        return sum(regressor.told.values()) / len(regressor.told)

    report("factor_regressor, dSprites", trained)
    print("\n" + ", ".join(f"{name} {told:.3f}" for name, told in regressor.told.items()))


def report(name: str, measure: Callable[[], float]) -> None:
    """A line of the table."""
    begun = time.process_time()
    score = measure()
    print(f"| {name} | {score:.4f} | {time.process_time() - begun:.1f} |", flush=True)


if __name__ == "__main__":
    main()
