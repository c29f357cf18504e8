"""Ranking: what counts as smooth, and which paths come first."""

import json
import math

import pytest
import torch
from support.runs import contents, sigmoid_generator, small_run

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.metrics.pairs import path_pairs
from fastflow.metrics.ranking import score, smoothness
from fastflow.runs.loading import load_run

BAND = (0.01, 0.1)


def along(values):
    """A path whose images are all of one grey value each."""
    return torch.tensor(values)[None, :, None, None, None].expand(1, len(values), 1, 3, 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.1, 0.2, 0.3], 1.0),
        ([0.3, 0.2, 0.1, 0.0], 1.0),
        ([0.0, 0.1, 0.0, 0.1], 0.0),
        ([0.2, 0.2, 0.2, 0.2], 1.0),
        ([0.0, 0.1, 0.1, 0.2], 1 - 0.2 / 0.2),
        ([0.0, 0.1, 0.3], 1 - 0.1 / 0.3),
    ],
    ids=["up", "down", "to-and-fro", "at-rest", "jerks", "faster"],
)
def test_smoothness_of_known_paths(values, expected):
    assert float(smoothness(along(values))) == pytest.approx(expected, abs=1e-6)


def test_smoothness_lies_between_0_and_1_and_is_of_each_path():
    images = torch.rand(20, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = smoothness(images)
    assert together.shape == (20,)
    assert together.min() >= 0
    assert together.max() <= 1
    torch.testing.assert_close(smoothness(images[7:8]), together[7:8])
    assert smoothness(images[:, :2]).isnan().all()  # a single step has no turn


def test_each_share_counts():
    best = score(1.0, 1.0, 0.03, 4, BAND)
    assert best == 1.0
    assert score(0.25, 1.0, 0.03, 4, BAND) == 0.0  # chance
    assert score(0.1, 1.0, 0.03, 4, BAND) == 0.0
    assert score(1.0, 0.0, 0.03, 4, BAND) == 0.0
    assert score(1.0, 1.0, 0.0, 4, BAND) == 0.0
    assert score(1.0, 1.0, 0.00125, 4, BAND) == pytest.approx(0.5)  # an eighth of the least strength
    assert score(1.0, 1.0, 0.8, 4, BAND) == pytest.approx(0.5)
    assert score(1.0, None, 0.0025, 4, BAND) == pytest.approx(0.5)
    assert score(1.0, 1.0, 0.03, 1, BAND) == 1.0


@pytest.mark.slow
def test_evaluation_ranks_by_what_it_measured(tmp_path):
    run = small_run(tmp_path / "run", steps=3)
    run.bank.out_weight[1] *= 1e-6  # a dead potential
    result = run.evaluate(300, progress=False)
    assert result["ranking"]["order"][-1] == 1
    assert result["ranking"]["scores"][1] < 0.01
    for k in range(3):
        expected = score(
            result["distinctness"]["per_potential"][k], result["smoothness"]["per_potential"][k],
            result["strength"]["per_potential"][k], 3, result["strength"]["target"],
        )  # fmt: skip
        assert result["ranking"]["scores"][k] == expected
    assert [k for k, _ in run.ranking()] == result["ranking"]["order"]
    assert run.ranking()[0][1] == max(result["ranking"]["scores"])
    assert 0.5 < result["smoothness"]["random_directions"] <= 1


@pytest.mark.slow
def test_smoothness_in_the_evaluation_is_that_of_the_potentials_own_paths(tmp_path):
    run = small_run(tmp_path / "run", steps=3, path_steps=5)
    result = run.evaluate(60, progress=False)
    pairs = path_pairs(run, 5, 60, 1)
    for k in range(3):
        assert result["smoothness"]["per_potential"][k] == pytest.approx(
            float(pairs.smoothness[pairs.index == k].mean())
        )


@pytest.mark.slow
def test_paths_of_one_step_are_ranked_without_smoothness(tmp_path):
    run = small_run(tmp_path / "run", steps=2, path_steps=1)
    result = run.evaluate(60, progress=False)
    assert result["smoothness"] == {"per_potential": [None] * 3, "random_directions": None}
    assert all(math.isfinite(value) for value in result["ranking"]["scores"])


@pytest.mark.slow
def test_ranking_evaluates_first_where_that_is_not_done(tmp_path):
    run = small_run(tmp_path / "run")
    ranking = run.ranking(samples=60, progress=False)
    assert sorted(k for k, _ in ranking) == [0, 1, 2]
    before = contents(tmp_path / "run")
    assert run.ranking() == ranking
    assert contents(tmp_path / "run") == before

    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    del record["ranking"], record["digest"]
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="holds no ranking: evaluate the run again"):
        run.ranking()


@pytest.mark.slow
def test_evaluate_prints_the_best_first_with_names_and_attributes(tmp_path, capsys, digits_folder):
    load_run(digits_folder).name(2, "slant")
    (tmp_path / "look.py").write_text("def brightness(images):\n    return images.mean((1, 2, 3))\n")
    words = ["--predictor", f"{tmp_path}/look.py:brightness", "--attributes", "bright"]
    main(["evaluate", str(digits_folder), "--samples", "60", *words])
    lines = [line for line in capsys.readouterr().out.splitlines() if "score" in line]
    order = json.loads((digits_folder / "evaluation.json").read_text())["ranking"]["order"]
    assert [int(line.split()[0]) for line in lines] == order
    (named,) = [line for line in lines if "slant" in line]
    assert named.split()[0] == "2"
    assert all("bright " in line for line in lines)
    assert len(json.loads((digits_folder / "attributes.json").read_text())["correlation"]) == 3


def test_sigmoid_generator_has_smooth_straight_paths():
    from fastflow.baselines import Random

    generator = sigmoid_generator()
    pairs = path_pairs(Random(generator, 2, 0.3), 6, 20, 0)
    assert pairs.smoothness.min() > 0.8
