"""Runs: what their folders hold, their evaluation, and their report."""

import json

import pytest
from support.runs import contents, metrics, small_run

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.metrics.evaluation import evaluate
from fastflow.runs.loading import load_run
from fastflow.training.discover import Discovery


def test_folder_holds_what_is_documented(digits_folder):
    record = json.loads((digits_folder / "config.json").read_text())
    assert record["kind"] == "discover"
    assert record["generator"]["name"] == "digits-vae"
    assert record["config"]["num_potentials"] == 3
    assert {"fastflow", "torch", "numpy", "python", "platform"} <= set(record["versions"])
    assert [line["step"] for line in metrics(digits_folder)] == [2, 4, 6]
    assert sorted(path.name for path in digits_folder.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl"]


def measured(run):
    result = evaluate(run, 60, progress=False)
    del result["seconds"]
    return result


@pytest.mark.slow
def test_evaluation_is_of_the_trained_weights(tmp_path):
    trained = small_run(tmp_path / "run", generators.load("digits-vae"), steps=30)
    expected = measured(trained)
    assert measured(load_run(tmp_path / "run")) == expected

    untrained = load_run(tmp_path / "run")
    fresh = Discovery(untrained.config, untrained.generator)
    untrained.bank.load_state_dict(fresh.bank.state_dict())
    untrained.pde.load_state_dict(fresh.pde.state_dict())
    found = measured(untrained)
    assert found["strength"]["per_potential"] != expected["strength"]["per_potential"]
    assert found["residual"]["after"] == found["residual"]["before"] == expected["residual"]["before"]
    assert expected["residual"]["after"] != expected["residual"]["before"]


# The report


@pytest.mark.slow
def test_run_in_hand_is_reported_without_its_generator_having_a_name(tmp_path):
    run = small_run(tmp_path / "run")
    page = run.report(samples=24, progress=False)
    assert page == tmp_path / "run" / "report.html"
    assert "<html" in page.read_text(encoding="utf-8")
    names = ("evaluation.json", "traversals/index.json")
    first = {name: contents(tmp_path / "run")[name] for name in names}
    assert all(json.loads(text)["training_steps"] == 6 for text in first.values())
    run.report(progress=False)
    assert {name: contents(tmp_path / "run")[name] for name in names} == first

    later = small_run(tmp_path / "run", resume=True, steps=8)
    later.report(samples=24, progress=False)
    assert all(json.loads((tmp_path / "run" / name).read_text())["training_steps"] == 8 for name in names)


@pytest.mark.slow
def test_run_evaluates_itself(tmp_path):
    result = small_run(tmp_path / "run").evaluate(samples=24, seed=2, progress=False)
    assert (result["samples"], result["seed"]) == (24, 2)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == result


def test_report_reads_the_names_before_it_measures(digits_folder):
    (digits_folder / "names.json").write_text('{"0": "turn", "1": "turn"}')
    with pytest.raises(InputError, match="gives two potentials the same name"):
        load_run(digits_folder).report(samples=24, progress=False)
    assert not (digits_folder / "evaluation.json").exists()


def test_run_says_what_it_is(digits_folder):
    assert repr(load_run(digits_folder)) == f"Run({str(digits_folder)!r}, step=6, 3 potentials)"
