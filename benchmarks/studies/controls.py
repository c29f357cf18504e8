"""Are a discovery's controls worth using? Flows beside every rival, on a generator of digits, at equal visible change.

python -m benchmarks.studies.controls found --generator mlp:mlp-0.pth --lenet mnist_lenet.pth --seeds 0 1 2 --out found

trains a discovery with the default settings for each seed, moves its rivals as far as the flows go, and measures all of
them from the same starts: the purity of seventeen attributes (seven of strokes, and the probabilities of ten digits),
how often the digit stays, the latents' norm, how well the paths are told apart, how even their steps are, and whether a
path hardly moves or repeats another one.

python -m benchmarks.studies.controls guided --generator mlp:mlp-0.pth --lenet mnist_lenet.pth --out guided

trains potentials that are guided by thickness and slant, and compares them with rivals that call the formulas at every
step, which the flows don't; and then the flows with `hold`, which do.

A generator is one of fastflow's own names, or mlp:FILE or conv:FILE for the GANs of `benchmarks.studies.generators`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import fastflow as ff
from benchmarks.studies.comparison import LeNet
from benchmarks.studies.generators import NETS, load
from fastflow.generators import Generator
from fastflow.generators.state_dicts import load_weights, read_state_dict
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.latents.traversal import Traverses
from fastflow.metrics.distinctness import measure_distinctness
from fastflow.metrics.pairs import path_pairs
from fastflow.metrics.strength import nearest_strength, pixel_change
from fastflow.studies.comparison.methods import METHODS
from fastflow.studies.statistics import estimate, holm
from fastflow.training.config_file import from_dict
from fastflow.training.flow_config import DiscoverConfig

STEPS, STARTS = 10, 96
GUIDED = ["thickness", "slant"]
RIVALS = ("random", "pca", "sefa", "warped", "jacobian")
STILL, SAME = 0.2, 0.95
"""A path is dead below this share of the paths' median change, and repeats another above this cosine of changes."""


class Judge(NamedTuple):
    """What images are judged by."""

    names: list[str]
    lenet: nn.Module | None
    """A classifier of digits, for images of 28 x 28."""

    def __call__(self, images: Tensor) -> Tensor:
        """The attributes (B, A) of images (B, 1, H, W) in [0, 1]."""
        values = stroke_attributes(images)
        return values if self.lenet is None else torch.cat((values, self.digits(images)), 1)

    def digits(self, images: Tensor) -> Tensor:
        """The probabilities (B, 10) of the digits."""
        assert self.lenet is not None
        return self.lenet(images)


def make_judge(generator: Generator, lenet: Path | None) -> Judge:
    """The judge for a generator's images."""
    if tuple(generator.image_shape) != (1, 28, 28) or lenet is None:
        return Judge(list(STROKE_ATTRIBUTES), None)
    network = LeNet()
    load_weights(network, read_state_dict(lenet), f"weights file {str(lenet)!r}")
    names = [*STROKE_ATTRIBUTES, *(f"digit {digit}" for digit in range(10))]
    return Judge(names, network.requires_grad_(False).eval())


def find_generator(spec: str) -> Generator:
    """The generator that `spec` names."""
    kind, _, file = spec.partition(":")
    return load(kind, Path(file)) if kind in NETS else ff.generators.load(spec)


def settings(words: list[str]) -> dict[str, Any]:
    """The settings in words NAME=VALUE."""
    return {name: json.loads(value) for name, _, value in (word.partition("=") for word in words)}


@torch.no_grad()
def judged(source: Traverses, judge: Judge, seed: int, *, own: list[int] | None = None) -> dict[str, Any]:
    """What `STARTS` paths along each potential or direction do, all from the same starts.

    Args:
        source: the paths.
        judge: measures the images.
        seed: the seed of the starts, which no training draws.
        own: the attribute that each path is meant to change; the one that it changes most if None.
    """
    generator, rows = source.generator, []
    z0 = generator.sample(STARTS, 1_000_000 + seed)
    spread = judge(generator.scaled(generator.decode(generator.sample(512, 0)))).std(0)
    names = [name for name, std in zip(judge.names, spread.tolist(), strict=True) if std > 1e-6]
    columns = torch.tensor([judge.names.index(name) for name in names])
    mean_changes = []
    for k in range(source.num_paths):
        found = source.traverse(z0, k, STEPS)
        images = generator.scaled(found.images).clamp(0, 1)
        steps = images.diff(dim=1).abs().flatten(2).mean(2)  # [N, T]
        values = judge(images.flatten(0, 1)).view(STARTS, STEPS + 1, -1)
        change = (values - values[:, :1])[:, :, columns] / spread[columns]  # [N, T + 1, A]
        end = change[:, -1].abs().mean(0)
        chosen = int(end.argmax()) if own is None else names.index(judge.names[own[k]])
        row = {
            "attribute": names[chosen],
            "own": float(change[:, -1, chosen].mean()),
            "purity": float(end[chosen] / end.sum()),
            "strength": float(steps.mean()),
            "norm": float(found.latents[:, -1].norm(dim=1).mean()),
            "uneven": float((steps.amax(1) / steps.amin(1).clamp_min(1e-9)).median()),
            "along": change[:, 1:, chosen].quantile(0.5, dim=0).tolist(),
        }
        if judge.lenet is not None:
            digits = judge.digits(images[:, [0, -1]].flatten(0, 1)).argmax(1).view(STARTS, 2)
            row["kept"] = float((digits[:, 0] == digits[:, 1]).float().mean())
        rows.append(row)
        mean_changes.append((images[:, -1] - images[:, 0]).flatten(1))
    pairwise = [
        [float(functional.cosine_similarity(one, other, dim=1).mean()) for other in mean_changes]
        for one in mean_changes
    ]
    usual = statistics.median(row["strength"] for row in rows)
    return {
        "paths": rows,
        "dead": sum(row["strength"] < STILL * usual for row in rows),
        "same": sum(pairwise[i][j] > SAME for i in range(len(rows)) for j in range(i)),
    }


def told_apart(source: Traverses, seed: int) -> float:
    """The accuracy of a new classifier that names the path from two consecutive images."""
    return measure_distinctness(path_pairs(source, STEPS, 4096, seed), source.num_paths, seed).accuracy


def found(options: argparse.Namespace) -> None:
    """Discoveries beside rivals that know no attribute."""
    generator = find_generator(options.generator)
    judge = make_judge(generator, options.lenet)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        config = from_dict(DiscoverConfig, {**settings(options.set), "seed": seed}, "--set")
        begun = time.process_time()
        extra = {} if options.guide is None else {"guide": options.guide or None}
        run = ff.discover(generator, config, options.out / f"flows-{seed}", resume=True, progress=False, **extra)
        taken = time.process_time() - begun
        strength = pixel_change(run, path_steps=STEPS, seed=seed)
        for name in ("flows", *options.rivals):
            source: Traverses = run
            if name != "flows":
                source = METHODS[name].make(generator, config, options.out / f"{name}-{seed}")
                source = nearest_strength(source, strength, path_steps=STEPS, seed=seed)
            result = judged(source, judge, seed) | {"told_apart": told_apart(source, seed), "cpu_s": taken}
            results.setdefault(name, []).append(result)
            print(row(f"{name} {seed}", result), flush=True)
            (options.out / "found.json").write_text(json.dumps(results, indent=1))
    for name, each in results.items():
        print(summary(name, each))
    print_tests(results)


def print_tests(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print how much purer the flows are than each rival, and p, paired by the seed and after Holm's correction."""
    ours = [mean(result, "purity") for result in results["flows"]]
    rivals = {name: each for name, each in results.items() if name != "flows"}
    differences = [
        estimate([own - mean(result, "purity") for own, result in zip(ours, each, strict=True)])
        for each in rivals.values()
    ]
    for name, found in zip(rivals, holm(differences), strict=True):
        print(f"purity above {name}: {found.mean:+.3f}, p = {found.p:.4f}")


def mean(result: dict[str, Any], name: str) -> float:
    """The mean of a number over the paths."""
    return statistics.fmean(path[name] for path in result["paths"])


def row(title: str, result: dict[str, Any]) -> str:
    """One line of what `judged` found."""
    kept = f"kept {mean(result, 'kept'):.2f} " if "kept" in result["paths"][0] else ""
    return (
        f"{title:14} purity {mean(result, 'purity'):.3f} {kept}norm {mean(result, 'norm'):5.2f} "
        f"told apart {result['told_apart']:.3f} uneven {mean(result, 'uneven'):4.2f} "
        f"strength {mean(result, 'strength'):.4f} dead {result['dead']} same {result['same']}"
    )


def summary(name: str, each: list[dict[str, Any]]) -> str:
    """The means over the seeds, as a row of a table in Markdown."""
    measures = [name for name in ("purity", "kept", "norm", "uneven", "strength") if name in each[0]["paths"][0]]
    numbers = [statistics.fmean(mean(result, name) for result in each) for name in measures]
    rest = [statistics.fmean(result[name] for result in each) for name in ("told_apart", "dead", "same")]
    return f"| `{name}` | " + " | ".join(f"{number:.3f}" for number in (*numbers, *rest)) + " |"


def guided(options: argparse.Namespace) -> None:
    """Guided potentials beside rivals that call the predictor at every step; then the same flows with hold."""
    generator = find_generator(options.generator)
    judge = make_judge(generator, options.lenet)
    shapes = StrokesOnly(judge.lenet)
    results: list[dict[str, Any]] = []
    for seed in options.seeds:
        config = from_dict(
            DiscoverConfig, {"num_potentials": len(GUIDED), **settings(options.set), "seed": seed}, "--set"
        )
        keep = () if judge.lenet is None or options.no_keep else (judge.digits, "shape")
        run = ff.discover(
            generator, config, options.out / f"flows-{seed}", guide=GUIDED, keep=keep, resume=True, progress=False
        )
        rivals: dict[str, Traverses] = {
            "ascent": ff.baselines.Ascent(generator, stroke_attributes),
            "orthogonal": ff.baselines.OrthogonalAscent(generator, stroke_attributes),
            "regression": ff.baselines.Regression(generator, stroke_attributes),
        }
        for k, name in enumerate(GUIDED):
            column = shapes.names.index(name)
            for title, source, against in (
                ("flow", One(run, k), rivals),
                ("flow, hold", One(run, k, hold=["strokes"]), {"orthogonal": rivals["orthogonal"]}),
            ):
                strength = pixel_change(source, path_steps=STEPS, seed=seed)
                sources: dict[str, Traverses] = {title: source}
                for rival_name, method in against.items():
                    one = One(method, column)
                    sources[rival_name] = nearest_strength(one, strength, path_steps=STEPS, seed=seed)
                for method_name, method in sources.items():
                    found = judged(method, shapes, seed, own=[column])["paths"][0]
                    results.append({"seed": seed, "attribute": name, "method": method_name, "beside": title, **found})
                    print(guided_row(results[-1], config.guide_rate), flush=True)
                    (options.out / "guided.json").write_text(json.dumps(results, indent=1))


def guided_row(found: dict[str, Any], rate: float) -> str:
    """One line of what `guided` found; for the flow also its change after each step, relative to what is asked."""
    along = " ".join(f"{change / (rate * (step + 1)):.2f}" for step, change in enumerate(found["along"]))
    return (
        f"{found['seed']} {found['attribute']:10} {found['method']:11} own {found['own']:5.2f} "
        f"purity {found['purity']:.3f} kept {found.get('kept', float('nan')):.2f} norm {found['norm']:5.2f} "
        f"strength {found['strength']:.4f}" + (f"  along {along}" if found["method"] == "flow" else "")
    )


class StrokesOnly(Judge):
    """A judge whose attributes are those of strokes alone; digits are only told."""

    def __new__(cls, lenet: nn.Module | None) -> StrokesOnly:
        return super().__new__(cls, list(STROKE_ATTRIBUTES), lenet)

    def __call__(self, images: Tensor) -> Tensor:
        return stroke_attributes(images)


class One:
    """One path of several, as a source of its own.

    Args:
        source: the run or baseline.
        index: the number of the path.
        options: further arguments of its `traverse`.
    """

    num_paths, path_steps = 1, STEPS

    def __init__(self, source: Any, index: int, **options: Any) -> None:
        self.source, self.index, self.options, self.generator = source, index, options, source.generator

    @property
    def step_length(self) -> float | None:
        return self.source.step_length

    @step_length.setter
    def step_length(self, value: float | None) -> None:
        self.source = copy.copy(self.source)
        self.source.step_length = value

    def traverse(self, z0: Tensor, index: Any, steps: int, *arguments: Any, **options: Any) -> Any:
        del index
        return self.source.traverse(z0, self.index, steps, *arguments, **options, **self.options)


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.controls")
    commands = parser.add_subparsers(required=True)
    for name, run in (("found", found), ("guided", guided)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--generator", required=True)
        command.add_argument("--lenet", type=Path, help="weights of `comparison.LeNet`")
        command.add_argument("--seeds", type=int, nargs="+", default=[0])
        command.add_argument("--set", nargs="*", default=[], help="settings of the discovery, NAME=JSON")
        command.add_argument("--out", type=Path, required=True)
        if name == "found":
            command.add_argument("--rivals", nargs="*", default=list(RIVALS))
            command.add_argument("--guide", nargs="*", help="in place of the default; nothing for free potentials")
        else:
            command.add_argument("--no-keep", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    options.run(options)


if __name__ == "__main__":
    main()
