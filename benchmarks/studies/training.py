"""What a step of a training costs, and where its time goes.

python -m benchmarks.studies.training share     the phases' shares at K = 32, D = 128, batch 128, T = 10, on a generator
                                                of the size of SNGAN's for 64 x 64 images, or on --generator NAME
python -m benchmarks.studies.training cost      how a step grows with K, D, H, T and the batch
python -m benchmarks.studies.training reach     how soon 16 potentials on --generator NAME are told apart with an
                                                accuracy of 0.9 while they change the images by 0.01 per step
python -m benchmarks.studies.training vae       whole steps of VAEs with the engine, and with nested autograd instead

All train on one thread through the loop that every run uses, print a table, and write it to --out, by default into
results/<processor>/. Times are CPU time; those of a step are its fastest interval's: a busy machine only ever adds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.studies import vae_step
from fastflow import generators
from fastflow.generators import SNGAN, SNGAN64, Generator
from fastflow.training.discover import Discovery
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.loop import Trainer
from fastflow.training.timers import PHASES, PhaseTimer

SHARE = DiscoverConfig(
    num_potentials=32, hidden=(128, 128), batch_size=128, path_steps=10, classifier="lenet", log_every=1
)
"""The paper's sizes for SNGAN on AnimeFaces; D is the generator's."""

REACH = DiscoverConfig(
    num_potentials=16, batch_size=64, learning_rate=3e-3, jacobian_weight=0.3, steps=480, log_every=16
)
"""Settings in a hurry; a line is the mean of 1,024 samples."""

GOAL = {"accuracy": 0.9, "strength": 0.01}

BASE = DiscoverConfig(num_potentials=16, hidden=(64, 64), batch_size=128, path_steps=10, log_every=5)
BASE_DIM = 64
SWEEPS: dict[str, tuple[int, ...]] = {
    "K": (4, 16, 32, 64),
    "D": (16, 64, 128, 256),
    "H": (32, 64, 128, 256),
    "T": (5, 10, 20, 40),
    "batch": (64, 128, 256, 512),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.training", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("share", "cost", "reach", "vae"))
    parser.add_argument(
        "--generator", help="a generator's name, or FILE.py:FUNCTION: in place of SNGAN's for share, needed by reach"
    )
    parser.add_argument("--latent-dim", type=int, help="where FUNCTION maps latents to images itself")
    parser.add_argument(
        "--intervals",
        type=int,
        default=None,
        help="of which the fastest counts; 3 for share, 8 for cost, 5 steps for vae",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / machine.folder_name())
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.what == "share":
        if options.generator is None:
            generator = generators.from_callable(SNGAN(SNGAN64), 128, value_range=(-1.0, 1.0), name="sngan64")
        else:
            generator = generators.load(options.generator, options.latent_dim)
        text = share_table(generator, measure(SHARE, generator, options.intervals or 3))
    elif options.what == "reach":
        if options.generator is None:
            parser.error("reach needs a --generator")
        generator = generators.load(options.generator, options.latent_dim)
        text = reach_table(generator, [reach(replace(REACH, seed=seed), generator) for seed in range(3)])
    elif options.what == "vae":
        found = {
            name: (config, vae_step.measure(config, options.intervals or 5))
            for name, config in vae_step.cases().items()
        }
        text = vae_step.table(found, _where())
    else:
        text = cost_table(sweep(options.intervals or 8))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"training-{options.what}.md").write_text(text)
    print(text, end="")


def measure(config: DiscoverConfig, generator: Generator, intervals: int) -> dict[str, float]:
    """Milliseconds of a step, and of each phase in it, in the fastest interval; one goes before, uncounted."""
    config = replace(config, steps=config.log_every * (intervals + 1))
    spent, _ = _train(config, generator)
    fastest = min(spent[1:], key=lambda phases: sum(phases.values()))
    found = {phase: 1000 * fastest[phase] / config.log_every for phase in PHASES}
    return {"step": sum(found.values()), **found}


def reach(config: DiscoverConfig, generator: Generator) -> list[dict[str, float]]:
    """The lines of metrics.jsonl up to the first that meets the goal, or all; CPU time until then as "seconds"."""
    spent, lines = _train(config, generator)
    seconds = list(accumulate(sum(phases.values()) for phases in spent))
    lines = [{**line, "seconds": until} for line, until in zip(lines, seconds, strict=True)]
    return lines[: next((place for place, line in enumerate(lines) if _meets_goal(line)), len(lines)) + 1]


def _meets_goal(line: dict[str, float]) -> bool:
    return all(line[name] >= least for name, least in GOAL.items())


def _train(config: DiscoverConfig, generator: Generator) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """CPU time by phase, and metrics, of every interval of a training."""
    config = replace(config, checkpoint_every=10**9)
    task, clock = Discovery(config, generator), _Clock()
    task.phases = clock
    with tempfile.TemporaryDirectory() as folder:
        Trainer(task, config, Path(folder)).run(progress=False)
        return clock.intervals, [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


class _Clock(PhaseTimer):
    """CPU time, of which other processes take none, interval by interval."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), time.process_time)
        self.intervals: list[dict[str, float]] = []

    def seconds(self) -> dict[str, float]:
        self.intervals.append(super().seconds())
        return self.intervals[-1]


def sweep(intervals: int, sweeps: dict[str, tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """For each size of each sweep, the sizes and the milliseconds of a step and its engine phase."""
    rows = []
    for name, values in (SWEEPS if sweeps is None else sweeps).items():
        for value in values:
            sizes = {
                "K": BASE.num_potentials, "D": BASE_DIM, "H": BASE.hidden[0], "T": BASE.path_steps,
                "batch": BASE.batch_size, name: value,
            }  # fmt: skip
            config = replace(
                BASE,
                num_potentials=sizes["K"],
                hidden=(sizes["H"], sizes["H"]),
                path_steps=sizes["T"],
                batch_size=sizes["batch"],
            )
            found = measure(config, small_generator(sizes["D"]), intervals)
            rows.append({"varied": name, **sizes, "step": found["step"], "engine": found["engine"]})
            print(f"{name} = {value}: {found['step']:.1f} ms, engine {found['engine']:.1f} ms", flush=True)
    return rows


def small_generator(dim: int) -> Generator:
    """One layer from latents to 16 x 16 images: next to no time, so that the engine's can be seen."""
    weight = torch.randn(dim, 256, generator=torch.Generator().manual_seed(0)) / dim**0.5
    return generators.from_callable(lambda z: torch.sigmoid(z @ weight).unflatten(1, (1, 16, 16)), dim)


def share_table(generator: Generator, found: dict[str, float]) -> str:
    """The phases' times and shares, as Markdown."""
    rows = "".join(f"| {phase} | {found[phase]:.1f} | {found[phase] / found['step']:.1%} |\n" for phase in PHASES)
    shape = " x ".join(map(str, generator.image_shape))
    return (
        f"# Where a training step's time goes\n\n{_where()} Written by `python -m benchmarks.studies.training share`, "
        f"on {generator.name}: K = {SHARE.num_potentials}, D = {generator.latent_dim}, H = {SHARE.hidden[0]}, batch "
        f"{SHARE.batch_size}, T = {SHARE.path_steps}, {SHARE.classifier} classifier, images {shape}. CPU time, "
        "backward included.\n\n"
        f"| phase | ms | share |\n|---|---|---|\n{rows}| step | {found['step']:.1f} | |\n"
    )


def reach_table(generator: Generator, found: list[list[dict[str, float]]]) -> str:
    """When each seed met the goal, as Markdown."""
    rows = "".join(
        f"| {seed} | {'yes' if _meets_goal(line) else 'no'} | {line['seconds']:.1f} | {line['step']} | "
        f"{line['accuracy']:.3f} | {line['strength']:.4f} | {line['pde']:.3f} |\n"
        for seed, (*_, line) in enumerate(found)
    )
    shape = " x ".join(map(str, generator.image_shape))
    return (
        f"# How soon the potentials are told apart\n\n{_where()} Written by `python -m "
        f"benchmarks.studies.training reach --generator NAME`, "
        f"images {shape}, D = {generator.latent_dim}: K = {REACH.num_potentials}, hidden "
        f"{', '.join(map(str, REACH.hidden))}, T = {REACH.path_steps}, batch {REACH.batch_size}, learning rate "
        f"{REACH.learning_rate}, jacobian_weight {REACH.jacobian_weight}, the {REACH.classifier} classifier, the exact "
        f"Laplacian. The first {REACH.log_every} steps, or {REACH.log_every * REACH.batch_size:,} samples, whose mean "
        f"training accuracy is at least {GOAL['accuracy']} and whose mean pixel change per step is at least "
        f"{GOAL['strength']}; CPU time since the first step, everything included.\n\n"
        "| seed | met | CPU s | steps | accuracy | pixel change | normalised residual |\n"
        "|---|---|---|---|---|---|---|\n"
        f"{rows}"
    )


def cost_table(rows: list[dict[str, Any]]) -> str:
    """The times of a step by what is varied, as Markdown."""
    lines = "".join(
        f"| {row['varied']} | {row['K']} | {row['D']} | {row['H']}, {row['H']} | {row['T']} | {row['batch']} | "
        f"{row['step']:.1f} | {row['engine']:.1f} |\n"
        for row in rows
    )
    return (
        f"# What a training step costs\n\n{_where()} Written by `python -m benchmarks.studies.training cost`: a "
        "generator of one layer and 16 x 16 images, the small classifier; CPU time, backward and optimizer "
        "included.\n\n"
        f"| varied | K | D | hidden | T | batch | step, ms | engine, ms |\n|---|---|---|---|---|---|---|---|\n{lines}"
    )


def _where() -> str:
    found = machine.record()
    return (
        f"{found['cpu']} ({found['instruction_set']}), one thread, float32; torch {found['versions']['torch']}, "
        f"revision {found['revision']}."
    )


if __name__ == "__main__":
    main()
