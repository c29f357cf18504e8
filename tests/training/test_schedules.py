"""Schedules: factors between points, their use in a training, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file
from support.runs import metrics, sigmoid_generator, small_config, small_run

from fastflow.core.errors import InputError
from fastflow.runs.loading import load_run
from fastflow.training.discover import Discovery
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.schedules import factor_at


def test_factors_lie_on_lines_between_knots():
    points = ((10, 0.0), (20, 1.0), (40, 0.5))
    steps = [1, 10, 15, 20, 30, 40, 99]
    assert [factor_at(points, step) for step in steps] == pytest.approx([0, 0, 0.5, 1, 0.75, 0.5, 0.5])
    assert factor_at((), 7) == 1


def test_each_terms_weight_follows_its_schedule():
    schedules = {f"{term}_schedule": ((1, 0.0), (5, 1.0 + place)) for place, term in enumerate(DiscoverConfig.terms)}
    weights = {f"{term}_weight": 2.0 for term in DiscoverConfig.terms}
    task = Discovery(small_config(**schedules, **weights), sigmoid_generator())
    assert task.draw(1).weights.tolist() == [0.0] * 8
    assert task.draw(3).weights.tolist() == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8])
    assert task.draw(9).weights.tolist() == pytest.approx([2, 4, 6, 8, 10, 12, 14, 16])


def test_learning_rate_follows_its_schedule(tmp_path):
    small_run(tmp_path / "run", learning_rate=0.1, learning_rate_schedule=((2, 1.0), (6, 0.0)), log_every=1)
    rates = [line["learning_rate"] for line in metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.1, 0.1, 0.075, 0.05, 0.025, 0])
    before, after = (
        load_file(tmp_path / "run" / "checkpoints" / f"step-00000{step}" / "weights.safetensors") for step in (3, 6)
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_schedules_survive_json(tmp_path):
    schedule = ((0, 0.0), (5, 2.0))
    small_run(tmp_path / "run", pde_schedule=schedule, learning_rate_schedule=((3, 1.0),))
    assert load_run(tmp_path / "run", sigmoid_generator()).config.pde_schedule == schedule
    small_run(tmp_path / "run", pde_schedule=schedule, learning_rate_schedule=((3, 1.0),), resume=True)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (((5, 1.0), (5, 2.0)), r"steps in rising order, got \[5, 5\]"),
        (((1, -1.0),), "factors of 0 or above"),
        (((1.5, 1.0),), "be a list, each a whole number and a finite number"),
        (((1, 1.0, 2.0),), "be a list, each a whole number and a finite number"),
        ((1, 1.0), "be a list, each a whole number and a finite number"),
    ],
    ids=["order", "negative", "half a step", "triple", "flat"],
)
def test_bad_schedules_are_refused(points, message):
    with pytest.raises(InputError, match=f"pde_schedule must.*{message}"):
        small_config(pde_schedule=points)
