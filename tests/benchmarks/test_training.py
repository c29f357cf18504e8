"""The cost of a training step, at tiny sizes: what is varied, and where the time goes."""

from dataclasses import replace

import pytest

from benchmarks.studies import nested_walk, training, vae_step
from fastflow.training.timers import PHASES


def test_sweep_varies_one_size_at_a_time(monkeypatch):
    seen = []

    def measure(config, generator, intervals):
        seen.append((config.num_potentials, generator.latent_dim, config.hidden, config.path_steps, config.batch_size))
        return {"step": 2.0, "engine": 1.0}

    monkeypatch.setattr(training, "measure", measure)
    rows = training.sweep(1, {"K": (3,), "D": (5,), "H": (7,), "T": (2,), "batch": (17,)})
    assert seen == [
        (3, 64, (64, 64), 10, 128),
        (16, 5, (64, 64), 10, 128),
        (16, 64, (7, 7), 10, 128),
        (16, 64, (64, 64), 2, 128),
        (16, 64, (64, 64), 10, 17),
    ]
    table = training.cost_table(rows)
    assert "| H | 16 | 64 | 7, 7 | 10 | 128 | 2.0 | 1.0 |" in table


def test_measured_phases_add_up_to_the_step():
    config = replace(training.BASE, num_potentials=3, hidden=(8,), batch_size=12, path_steps=2, log_every=1)
    found = training.measure(config, training.small_generator(4), 2)
    assert sum(found[phase] for phase in PHASES) == pytest.approx(found["step"])
    assert all(found[phase] > 0 for phase in PHASES)
    assert "| engine |" in training.share_table(training.small_generator(4), found)


def test_reach_ends_with_the_first_line_that_meets_the_goal(monkeypatch):
    lines = [
        {"step": 16, "accuracy": 0.95, "strength": 0.009, "pde": 0.5},
        {"step": 32, "accuracy": 0.91, "strength": 0.012, "pde": 0.25},
        {"step": 48, "accuracy": 0.99, "strength": 0.02, "pde": 0.1},
    ]
    spent = [{"engine": 1.0, "other": 0.5}] * 3
    monkeypatch.setattr(training, "_train", lambda config, generator: (spent, lines))
    found = training.reach(training.REACH, training.small_generator(4))
    assert [line["step"] for line in found] == [16, 32]
    assert found[-1]["seconds"] == 3.0
    monkeypatch.setattr(training, "_train", lambda config, generator: (spent[:1], lines[:1]))
    missed = training.reach(training.REACH, training.small_generator(4))
    table = training.reach_table(training.small_generator(4), [found, missed])
    assert "| 0 | yes | 3.0 | 32 | 0.910 | 0.0120 | 0.250 |" in table
    assert "| 1 | no | 1.5 | 16 |" in table


def test_reach_reads_what_the_training_logged():
    config = replace(training.REACH, num_potentials=3, hidden=(8,), batch_size=12, steps=4, log_every=2)
    found = training.reach(config, training.small_generator(4))
    assert [line["step"] for line in found] == [2, 4][: len(found)]
    assert found[0]["seconds"] > 0


def test_vae_steps_are_compared_only_where_both_ways_compute_the_same(monkeypatch):
    small = {"latent_dim": 3, "widths": (8,), "hidden": (5, 4), "path_steps": 2, "batch_size": 7}
    config = replace(vae_step.cases()["preset vae-digits"], **small)
    found = vae_step.measure(config, 1)
    assert found.engine_step > 0
    assert 0 < found.engine_share < 1
    assert found.ratio == found.nested_step / found.engine_step
    table = vae_step.table({"small": (config, found)}, "Here.")
    assert "| small | mlp 8 | 3 | 5, 4 | 7 | 2 |" in table
    other = nested_walk.initial_loss
    monkeypatch.setattr(nested_walk, "initial_loss", lambda *arguments, **_: 2 * other(*arguments))
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        vae_step.measure(config, 1)


def test_vae_steps_are_measured_at_every_preset():
    assert {config.data for config in vae_step.cases().values()} == {"digits", "mnist", "dsprites"}
