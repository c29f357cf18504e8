"""What a run had learned at several points of its training, with random directions at equal strength beside it.

python -m benchmarks.studies.discoveries RUN --steps 10000 30000 --pictures docs/images/mnist

evaluates those checkpoints on latents that training never saw (as `fastflow evaluate` does, images rounded to 8 bits),
prints a table, and draws the best potentials of the last one, and as many random directions from the same starts, as
NAME.png and NAME-random.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from fastflow.metrics.evaluation import evaluate, random_directions
from fastflow.pictures.strips import save_strip
from fastflow.runs.loading import load_run
from fastflow.runs.run import Run

PATHS = 6


def main(arguments: list[str] | None = None) -> None:
    """Evaluate, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.discoveries")
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--steps", type=int, nargs="+", required=True, help="which of its checkpoints")
    parser.add_argument("--samples", type=int, default=4096, help="pairs of images")
    parser.add_argument("--seed", type=int, default=1, help="of the latents and of the fresh classifier")
    parser.add_argument("--pictures", type=Path, help="where the pictures go: NAME, for NAME.png and NAME-random.png")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    options = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for step in options.steps:
            run = checkpoint_as_run(options.run, step, Path(folder) / str(step))
            found.append(evaluate(run, options.samples, options.seed, progress=False))
            print(row(found[-1]) if len(found) > 1 else HEADER + row(found[-1]), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
        if options.pictures is not None:
            draw(run, found[-1], options.seed, options.pictures)


def checkpoint_as_run(folder: Path, step: int, out: Path) -> Run:
    """The run as it stood at one of its checkpoints, in a folder of its own."""
    name = f"checkpoints/step-{step:06d}"
    if not (folder / name).is_dir():
        raise SystemExit(f"{str(folder)!r} has no checkpoint of step {step}")
    shutil.copytree(folder / name, out / name)
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    return load_run(out)


HEADER = (
    "| steps | pixel change per step | told apart | normalised residual | smoothness "
    "| random: told apart | random: smoothness |\n"
    "|---|---|---|---|---|---|---|\n"
)


def row(found: dict[str, Any]) -> str:
    """A line of the table: means, and over the potentials the range or the worst."""
    strength, distinct, residual, smooth = (
        found[name] for name in ("strength", "distinctness", "residual", "smoothness")
    )
    each = strength["per_potential"]
    mean_smooth = sum(smooth["per_potential"]) / len(smooth["per_potential"])
    return (
        f"| {found['training_steps']:,} | {strength['mean']:.4f} ({min(each):.4f} to {max(each):.4f}) "
        f"| {distinct['accuracy']:.3f} (worst {min(distinct['per_potential']):.3f}) "
        f"| {residual['after']:.4f} (worst {max(residual['per_potential']):.4f}) "
        f"| {mean_smooth:.2f} (worst {min(smooth['per_potential']):.2f}) "
        f"| {distinct['random_directions']['accuracy']:.3f} | {smooth['random_directions']:.2f} |"
    )


def draw(run: Run, found: dict[str, Any], seed: int, name: Path) -> None:
    """A strip of the best potentials, a start for each, and one of random directions from the same starts."""
    best = torch.tensor(found["ranking"]["order"][:PATHS])
    z0, steps = run.generator.starts(len(best), seed), run.config.path_steps
    random = random_directions(run.generator, len(best), found["strength"]["mean"], steps, seed)
    for file, source, index in (
        (name.with_name(f"{name.name}.png"), run, best),
        (name.with_name(f"{name.name}-random.png"), random, torch.arange(len(best))),
    ):
        images = source.traverse(z0, index, steps).images
        save_strip(images, file, start=0, value_range=run.generator.value_range)


if __name__ == "__main__":
    main()
