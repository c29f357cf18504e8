"""Do few samples, many samples and annealed importance sampling agree on the likelihoods of a study's trainings?

python -m benchmarks.studies.likelihood_check study --data mnist=data/mnist dsprites

For each data set and variant: the mean over the same held-out images, and sequences, by each way of measuring, with its
standard error by the samples alone. Then how far the ways lie apart in standard errors of that difference, less the gap
that so few samples are expected to leave.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from fastflow import datasets
from fastflow.metrics import LogLikelihood, log_likelihood, sequence_log_likelihood
from fastflow.runs.loading import load_run
from fastflow.runs.run import VAERun
from fastflow.studies.likelihood.measures import held_out
from fastflow.studies.likelihood.variants import SIZES

SIZE = SIZES["small"]
Measure = Callable[..., LogLikelihood]
WAYS = {"few": "importance", "many": "importance", "annealed": "annealed"}


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.likelihood_check", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--data", nargs="+", default=["mnist=data/mnist", "dsprites"], help="NAME or NAME=FOLDER")
    parser.add_argument("--variants", nargs="+", default=["plain", "affine", "companion"], help="which to measure")
    parser.add_argument("--items", type=int, default=32, help="how many images, and how many sequences")
    parser.add_argument("--samples", type=int, nargs=3, default=(64, 1024, 32), help="few, many, annealed chains")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    options = parser.parse_args(arguments)
    print("| data | variant | of | few | gap | many | annealed | few to many | many to annealed | effective | CPU s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, _, root in (spec.partition("=") for spec in options.data):
        for variant in options.variants:
            folder = options.study / "runs" / name / "paths" / variant / f"seed-{options.seed}"
            run = load_run(folder)
            assert isinstance(run, VAERun)
            for what, measure in measures(run, name, root or None, options.items).items():
                print(f"| {name} | `{variant}` | {what} | {row(measure, options.samples)}", flush=True)


def measures(run: VAERun, name: str, root: str | None, count: int) -> dict[str, Measure]:
    """How to measure held-out images and sequences, which the study measures too."""
    names = run.config.transformations
    data = datasets.load(name, root, "test", names, size=SIZE.sides.get(name))
    frames, k = held_out(run, data, SIZE, count)
    whole = f"x_0..x_{max(SIZE.lengths)}"
    return {
        "x_0": lambda samples, **options: log_likelihood(run.vae, frames[:, 0], samples, **options),
        whole: lambda samples, **options: sequence_log_likelihood(run, frames, k, samples, **options),
    }


def row(measure: Measure, samples: tuple[int, int, int]) -> str:
    """The cells of one measurement."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .* the effective sample size is too small")  # the table has it
        found = [
            measure(count, seed=place, method=method)
            for place, (count, method) in enumerate(zip(samples, WAYS.values(), strict=True))
        ]
    errors = [math.sqrt(float(each.each_standard_error.square().sum())) / len(each.each) for each in found]
    cells = [f"{each.mean:.2f} ± {error:.2f}" for each, error in zip(found, errors, strict=True)]
    cells.insert(1, f"{found[0].gap:.2f}")
    for one, two in ((0, 1), (1, 2)):
        expected = found[one].gap - found[two].gap
        apart = (found[two].mean - found[one].mean - expected) / math.hypot(errors[one], errors[two])
        cells.append(f"{apart:+.1f}")
    effective = float(found[0].effective_sample_size.median()) / samples[0]
    return " | ".join([*cells, f"{effective:.2f}", f"{time.process_time() - started:.0f}"]) + " |"


if __name__ == "__main__":
    main()
