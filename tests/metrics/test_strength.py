"""What a step changes, and methods brought to the same change."""

import pytest
import torch
from support.runs import sigmoid_generator, small_run

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.latents.traversal import Traverses


def ramp(z):
    """Images whose brightness is the latents' mean, so that a step's pixel change is known."""
    return z.mean(1)[:, None, None, None].expand(-1, 1, 8, 8)


@pytest.fixture
def directions():
    return ff.baselines.Random(from_callable(ramp, 4, value_range=(-50.0, 50.0)), 3, 5.0)


def test_change_is_the_mean_over_pixels_steps_and_paths(directions):
    expected = (5.0 * directions.directions.mean(1).abs() / 100).mean()
    assert ff.metrics.pixel_change(directions, path_steps=4, samples=300) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("strength", [0.003, 0.03])
def test_directions_reach_the_strength_asked_for(strength):
    directions = ff.baselines.Random(sigmoid_generator(), 3, 0.123)
    found = ff.metrics.match_strength(directions, strength, path_steps=3)
    assert ff.metrics.pixel_change(found, path_steps=3, samples=2000, seed=9) == pytest.approx(strength, rel=0.1)
    assert directions.step_length == 0.123
    assert found.directions is directions.directions


@pytest.mark.parametrize("length", [900.0, 1e3, 1e6])
def test_steps_that_are_far_too_long_are_shortened(length):
    directions = ff.baselines.Random(sigmoid_generator(), 3, length)
    found = ff.metrics.match_strength(directions, 0.003, path_steps=3)
    assert ff.metrics.pixel_change(found, path_steps=3) == pytest.approx(0.003, rel=0.05)


def test_a_runs_flow_reaches_another_methods_strength(tmp_path):
    run = small_run(tmp_path / "run")
    assert isinstance(run, Traverses)
    assert (run.num_paths, run.path_steps, run.step_length) == (3, 3, None)
    found = ff.metrics.match_strength(run, 0.02)
    assert ff.metrics.pixel_change(found) == pytest.approx(0.02, rel=0.02)
    assert run.step_length is None
    z0 = run.generator.sample(5)
    steps = found.traverse(z0, 1, even=False).latents.diff(dim=1)
    torch.testing.assert_close(steps.norm(dim=2), torch.full((5, 3), found.step_length))
    own = run.traverse(z0, 1, 1).latents.diff(dim=1)[:, 0]
    torch.testing.assert_close(steps[:, 0] / found.step_length, own / own.norm(dim=1, keepdim=True))


def test_same_seed_same_length_and_other_seed_other(directions):
    one, again, other = (ff.metrics.match_strength(directions, 0.01, samples=20, seed=s).step_length for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_what_cannot_be_is_refused(directions):
    with pytest.raises(
        InputError, match=r"no step length gives Random a pixel change of 0\.9 per step: the nearest, .*"
    ):
        ff.metrics.match_strength(directions, 0.9)
    for strength in (0, -0.1, float("nan"), "0.1"):
        with pytest.raises(InputError, match="strength must be a positive number"):
            ff.metrics.match_strength(directions, strength)
    for source in (directions.generator, None):
        with pytest.raises(InputError, match="the source must be a run, a baseline"):
            ff.metrics.pixel_change(source)
    with pytest.raises(InputError, match="path_steps must be a whole number of at least 1, got 0"):
        ff.metrics.pixel_change(directions, path_steps=0)
    with pytest.raises(InputError, match="samples must be a whole number of at least 1, got 0"):
        ff.metrics.pixel_change(directions, samples=0)
