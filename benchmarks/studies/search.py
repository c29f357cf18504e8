"""What settings of the flows do on generators, beside the targets of a discovery.

python -m benchmarks.studies.search COMPARISON...

reads folders that `fastflow compare` wrote and prints a table for each: the means over its seeds, and for flows the
normalised residual of the worst potential of any seed, at 4,096 points on their paths, and how nearly they are straight
directions: the cosine between a path's whole changes of the latent from two starts, which is 1 for those.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import fastflow as ff
from fastflow.core.files import read_json
from fastflow.latents.traversal import Traverses
from fastflow.metrics.evaluation import measure_residual
from fastflow.metrics.held_out import held_out_paths
from fastflow.studies.comparison.methods import FLOWS
from fastflow.studies.statistics import table_row, table_rows

MEASURES = ("distinctness", "purity", "monotonicity", "vp", "curvature", "consistency")
"""Those that are printed, of a comparison's."""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.search")
    parser.add_argument("comparisons", nargs="+", type=Path, metavar="COMPARISON", help="a comparison's folder")
    parser.add_argument("--samples", type=int, default=4096, help="points of the residual")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for folder in options.comparisons:
        record = read_json(folder / "results.json")
        print(f"{folder.name}, {len(record['seeds'])} seeds\n\n{table(folder, record, options.samples)}\n", flush=True)


def table(folder: Path, record: dict[str, Any], samples: int) -> str:
    """A row for each method that isn't left out."""
    titles = [record["measures"][name]["title"] for name in MEASURES]
    rows = []
    for method in record["methods"]:
        if method in record["left_out"]:
            continue
        found = [record["measures"][name] for name in MEASURES]
        cells = [f"{each['methods'][method]['mean']:.{each['digits']}f}" for each in found]
        worst = same = ""
        if method.partition(",")[0] == FLOWS:
            runs = [ff.load_run(folder / "runs" / method / f"seed-{seed}") for seed in record["seeds"]]
            worst = f"{max(max(measure_residual(run.potentials, run, samples, seed=1)[1]) for run in runs):.3f}"
            same = f"{sum(map(straightness, runs)) / len(runs):.3f}"
        rows.append(table_row(f"`{method}`", worst, same, *cells))
    return table_rows(["", "worst residual", "straightness", *titles], rows)


@torch.no_grad()
def straightness(source: Traverses, samples: int = 256) -> float:
    """The mean over paths of the cosine between the latent's whole changes along a path from two different starts."""
    paths = held_out_paths(source, source.path_steps, samples, 1)
    changes = [path.latents[:, -1] - path.latents[:, 0] for _, path in paths]
    units = functional.normalize(torch.cat(changes).double(), dim=1).view(source.num_paths, samples, -1)
    # The sum over pairs of different starts is that over all, |sum u|^2, less each with itself.
    return float((units.sum(1).square().sum(1) - samples).mean() / (samples * (samples - 1)))


if __name__ == "__main__":
    main()
