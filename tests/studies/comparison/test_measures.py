"""Each measure of a comparison is the metric of that name, of the same paths from the same starts."""

import pytest
import torch
from support.runs import sigmoid_generator

import fastflow as ff
from fastflow.baselines import Random
from fastflow.metrics.distinctness import measure_distinctness
from fastflow.metrics.pairs import path_pairs
from fastflow.studies.comparison.attributes import Attributes
from fastflow.studies.comparison.measures import draw_strip, measure

NAMES = ["first", "last"]
PAIRS, STARTS, STEPS, SEED = 120, 6, 4, 5


def corners(images):
    return images.flatten(1)[:, [0, 17, -1]]


@pytest.fixture(scope="module")
def source():
    return Random(sigmoid_generator(), 3, 0.4, seed=2)


@pytest.fixture(scope="module")
def found(source):
    return measure(source, STEPS, Attributes(corners, NAMES, [0, 2]), pairs=PAIRS, starts=STARTS, seed=SEED)


@pytest.mark.slow
def test_each_is_the_metric_of_its_name(source, found):
    metrics, options = ff.metrics, {"path_steps": STEPS, "samples": STARTS, "seed": SEED}
    pure = metrics.purity(source, lambda images: corners(images)[:, [0, 2]], NAMES, **options)
    pairs = path_pairs(source, STEPS, PAIRS, SEED)
    vp = metrics.vp_score_fast(source, path_steps=STEPS, samples=PAIRS, seed=SEED, seeds=1, progress=False)
    expected = {
        "strength": metrics.pixel_change(source, path_steps=STEPS, samples=4 * STARTS, seed=SEED),
        "purity": pure.score,
        "monotonicity": sum(pure.monotonicity) / 3,
        "coverage": pure.coverage,
        "distinctness": measure_distinctness(pairs, 3, SEED).accuracy,
        "vp": vp.score,
        "smoothness": float(pairs.smoothness.mean()),
        "path_length": metrics.path_length(source, **options).score ** 0.5,
        "curvature": metrics.curvature(source, **options).score,
        "consistency": metrics.consistency(source, **options).score,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert len(set(expected.values())) == len(expected)  # or one could stand for another
    assert found["paths"]["change"] == pure.change
    assert found["paths"]["purity"] == pure.purity


def test_the_purest_paths_are_drawn_first(source, found, tmp_path):
    rows = draw_strip(source, STEPS, found["paths"], NAMES, tmp_path / "strip.png")
    paths = found["paths"]
    order = torch.tensor(paths["purity"]).argsort(descending=True).tolist()
    assert rows == [f"{NAMES[paths['top'][k]]} {paths['purity'][k]:.2f}" for k in order]
    assert (tmp_path / "strip.png").is_file()
