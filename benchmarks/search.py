"""What settings of the flows do on generators, beside the targets of a discovery.

python -m benchmarks.search COMPARISON...

reads folders that `fastflow compare` wrote, of one generator each and with the same methods, and prints a table for
each: the means over its seeds, and for flows the normalised residual of the worst potential of any seed, measured at
4,096 points on their paths.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import fastflow as ff
from fastflow.files import read_json
from fastflow.metrics.evaluation import measure_residual
from fastflow.studies.methods import FLOWS
from fastflow.studies.statistics import table_row, table_rows

MEASURES = ("distinctness", "purity", "monotonicity", "vp", "curvature", "consistency")
"""Those that are printed, of a comparison's."""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search")
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
        worst = ""
        if method.partition(",")[0] == FLOWS:
            worst = f"{max(worst_residual(folder, method, seed, samples) for seed in record['seeds']):.3f}"
        rows.append(table_row(f"`{method}`", worst, *cells))
    return table_rows(["", "worst residual", *titles], rows)


def worst_residual(folder: Path, method: str, seed: int, samples: int) -> float:
    """The normalised residual of the worst potential that a method trained with a seed."""
    run = ff.load_run(folder / "runs" / method / f"seed-{seed}")
    return max(measure_residual(run.potentials, run, samples, seed=1)[1])


if __name__ == "__main__":
    main()
