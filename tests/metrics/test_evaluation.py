"""What is measured of a run, held to what can be worked out by hand."""

import json

import pytest
import torch
from support.runs import sigmoid_generator, small_run

from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.engine.pde import Wave
from fastflow.metrics.evaluation import evaluate, measure_residual, random_directions
from fastflow.metrics.pairs import draw_places, path_pairs
from fastflow.training.potentials import untrained_potentials


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("evaluated") / "run", steps=20)


@pytest.fixture(scope="module")
def result(run):
    return evaluate(run, 120, progress=False)


@pytest.mark.slow
def test_result_is_the_file_and_finite_json(run, result):
    text = (run.folder / "evaluation.json").read_text()
    assert json.loads(text) == result
    assert "NaN" not in text
    assert "Infinity" not in text


def test_result_has_what_reports_read(run, result):
    assert (result["samples"], result["seed"], result["path_steps"], result["training_steps"]) == (120, 1, 3, 20)
    assert result["strength"]["target"] == [0.01, 0.1]
    assert result["distinctness"]["target"] == 0.95
    assert result["residual"]["target"] == 0.05
    assert result["residual"]["coefficient_target"] == 0.3
    assert result["residual"]["coefficients"] == {"c": run.pde.c.tolist()}
    for part in (result["strength"], result["distinctness"], result["residual"]):
        assert len(part["per_potential"]) == 3


def test_parts_agree_with_the_whole(result):
    strength, distinctness = result["strength"], result["distinctness"]
    assert strength["mean"] == pytest.approx(sum(strength["per_potential"]) / 3)
    confusion = torch.tensor(distinctness["confusion"])
    assert confusion.sum(1).tolist() == [20, 20, 20]
    assert distinctness["accuracy"] == pytest.approx(confusion.diag().sum().item() / 60)
    assert distinctness["per_potential"] == pytest.approx((confusion.diag() / 20).tolist())


def test_random_directions_are_compared_at_equal_strength(result):
    random = result["distinctness"]["random_directions"]
    assert random["strength"] == pytest.approx(result["strength"]["mean"], rel=0.1)
    assert 0 <= random["accuracy"] <= 1


@pytest.mark.slow
def test_same_seed_same_result_and_other_seed_other(run, result):
    again, other = (evaluate(run, 120, seed=seed, progress=False) for seed in (1, 2))
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert other["strength"]["mean"] != result["strength"]["mean"]


@pytest.mark.slow
def test_progress_is_told_on_stdout_only_where_asked(run, capsys):
    evaluate(run, 12, progress=False)
    assert capsys.readouterr() == ("", "")
    evaluate(run, 12)
    told = capsys.readouterr()
    assert told.out.startswith("evaluating: ")
    assert told.err == ""


def test_training_draws_none_of_the_evaluated_latents(run):
    seen = torch.cat([run.generator.sample(120, step_rng(run.config.seed, step)) for step in range(1, 21)])
    z0, _, _ = draw_places(run.generator, 3, 120, 3, run.config.seed)
    assert torch.cdist(z0, seen).min() > 1e-3


def test_two_samples_per_potential_are_needed(run):
    assert len(evaluate(run, 6, progress=False)["distinctness"]["confusion"]) == 3
    with pytest.raises(
        InputError, match="samples must be a whole number of at least 6, two for every potential, got 5"
    ):
        evaluate(run, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64.5,), "samples must be a whole number of at least 6, two for every potential, got 64.5"),
        (("a",), "samples must be a whole number .*, got 'a'"),
        ((6, -1), r"seed must be a whole number in 0\.\.2\^63 - 1, got -1"),
        ((6, 2**63), "seed must be a whole number"),
        ((6, 1.5), "seed must be a whole number .*, got 1.5"),
    ],
)
def test_arguments_are_checked(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.evaluate(*arguments)


@pytest.mark.parametrize("strength", [0.003, 0.03])
def test_random_directions_reach_the_strength_asked_for(strength):
    generator = sigmoid_generator()
    directions = random_directions(generator, 3, strength, 3, seed=0)
    assert float(path_pairs(directions, 3, 2000, seed=9).strength().mean()) == pytest.approx(strength, rel=0.1)


def test_residual_of_an_equation_that_holds_exactly_is_zero(run):
    """Without time and with c = 0, both terms of the wave equation vanish; with any c, the residual is its one term."""
    potentials = untrained_potentials(run.config, run.generator)
    for parameter in (potentials.bank.time_weight_out, potentials.bank.time_bias_out):
        torch.nn.init.zeros_(parameter)
    assert measure_residual(potentials._replace(pde=Wave(0.0)), run, 30, seed=0) == (0.0, [0.0, 0.0, 0.0])
    together, each = measure_residual(potentials._replace(pde=Wave(1.0)), run, 30, seed=0)
    assert [together, *each] == pytest.approx([1.0] * 4)


@pytest.mark.slow
def test_runs_in_float64_are_evaluated_too(tmp_path):
    run = small_run(tmp_path / "run", sigmoid_generator().double())
    assert 0 <= evaluate(run, 24, progress=False)["distinctness"]["accuracy"] <= 1
