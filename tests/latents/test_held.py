"""Attributes that are held still while a path is followed."""

import json
from dataclasses import replace

import pytest
import torch
from support.runs import sigmoid_generator, small_run

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.latents import held
from fastflow.latents.guidance import guide_by
from fastflow.latents.held import Held, slopes_of, without


def halves(images):
    return torch.stack((images[..., :3, :].mean((-3, -2, -1)), images[..., 3:, :].mean((-3, -2, -1))), -1)


def test_what_is_left_is_orthogonal_to_the_others():
    rng = torch.Generator().manual_seed(0)
    vectors, others = torch.randn(5, 6, generator=rng), torch.randn(5, 3, 6, generator=rng)
    others[1] *= 1e-9  # units don't matter
    others[2, 1] = 0  # nor does an attribute without a slope
    others[3, 2] = others[3, 0]  # nor one that is measured twice
    left = without(vectors, others)
    units = others / others.norm(dim=2, keepdim=True).clamp_min(1e-30)
    assert (units @ left[:, :, None]).abs().max() < 1e-5
    for row in range(5):
        span = torch.linalg.lstsq(units[row].T.double(), (vectors - left)[row].double(), driver="gelsd")
        assert (units[row].T.double() @ span.solution - (vectors - left)[row]).abs().max() < 1e-5


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "run", steps=20, learning_rate=0.05, step_length=0.02)


@pytest.mark.parametrize("direction", ["forward", "descent"])
def test_a_held_attribute_changes_far_less(run, direction):
    z0 = run.generator.sample(24, 5)
    index = torch.arange(24) % 3
    free = run.traverse(z0, index, 10, direction, even=False)
    held = run.traverse(z0, index, 10, direction, even=False, hold=[halves])
    moved = [halves(one.images[:, -1]) - halves(one.images[:, 0]) for one in (free, held)]
    assert moved[1].abs().mean() < 0.05 * moved[0].abs().mean()
    assert (held.latents.diff(dim=1).norm(dim=2) - 0.02).abs().max() < 1e-3  # steps are as long as they were
    first = run.traverse(z0, index, 10, direction, even=False, hold=["brightness"])
    assert (first.images.mean((2, 3, 4))[:, -1] - first.images.mean((2, 3, 4))[:, 0]).abs().max() < 0.01


def test_a_velocity_loses_the_held_part(run):
    z0 = run.generator.sample(6, 3)
    velocity = run.bank.jet(z0, 0.0, 1).grad
    bent = Held(run.generator, guide_by([halves], run.generator), z0)(z0, velocity)
    at = z0.clone().requires_grad_()
    left = without(velocity, slopes_of(halves(run.generator.decode(at)), at))
    torch.testing.assert_close(bent, left)


@pytest.mark.parametrize("direction", ["both", "reverse"])
def test_other_directions_are_refused(run, direction):
    with pytest.raises(InputError, match=f"direction must be forward or descent to hold attributes, got '{direction}'"):
        run.traverse(run.generator.sample(2), 0, 4, direction, hold=["brightness"])


def test_unknown_attributes_are_refused(run):
    with pytest.raises(InputError, match="hold must name appearance, strokes, one of brightness"):
        run.traverse(run.generator.sample(2), 0, 4, hold=["loudness"])


def test_traversals_are_written_with_what_is_held(digits_folder, tmp_path):
    words = ["traverse", str(digits_folder), "--potential", "1", "--starts", "2", "--out", str(tmp_path / "out")]
    main([*words, "--hold", "slant", "thickness"])
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["held"] == ["slant", "thickness"]
    assert index["direction"] == "forward"


def test_a_generator_without_classes_gets_none():
    generator = sigmoid_generator()
    z, velocity = generator.sample(3), torch.ones(3, 4)
    held = Held(generator, guide_by([halves], generator), z)
    assert torch.equal(held(z, velocity), held(z.clone().requires_grad_(), velocity))


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("direction", ["forward", "descent"])
def test_long_steps_hold_too(run, monkeypatch, direction, method):
    run.step_length = 0.3
    z0 = run.generator.sample(24, 5)

    def drift():
        images = run.traverse(z0, 1, 10, direction, even=False, hold=[halves]).images
        return float((halves(images) - halves(images[:, :1])).abs().mean())

    run.config = replace(run.config, method=method)
    mended = drift()
    monkeypatch.setattr(held, "_ROUNDS", 0)
    assert mended < max(0.1 * drift(), 1e-5)


@pytest.fixture
def guided(tmp_path):
    changes = {"num_potentials": 2, "steps": 80, "learning_rate": 0.01, "batch_size": 32}
    return small_run(tmp_path / "guided", options={"guide": [halves]}, **changes)


def test_own_attribute_goes_on_changing_at_its_rate(guided):
    assert guided.guided == ("halves 0", "halves 1")
    z0 = guided.generator.sample(32, 5)
    changes = []
    for hold in ((), (halves,)):
        images = guided.traverse(z0, 0, 3, even=False, hold=hold).images
        changes.append((halves(images[:, -1]) - halves(images[:, 0])).mean(0))
    free, still = changes
    assert still[0] == pytest.approx(float(free[0]), rel=0.2)
    assert still[1].abs() < 0.2 * free[1].abs() + 1e-3


def test_holding_what_a_potential_is_there_to_change_is_refused(tmp_path):
    run = small_run(tmp_path / "run", options={"guide": ["brightness", "contrast"]})
    z0 = run.generator.sample(2)
    with pytest.raises(InputError, match="hold names 'contrast' alone, which potential 1 is there to change"):
        run.traverse(z0, 1, 3, hold=["contrast"])
    run.traverse(z0, 2, 3, hold=["contrast"])  # a free one


def test_a_run_that_does_not_say_what_guided_it_holds_everything(guided):
    record = json.loads((guided.folder / "config.json").read_text())
    del record["guided"], record["digest"]
    (guided.folder / "config.json").write_text(json.dumps(record))
    assert guided.guided == ()
    images = guided.traverse(guided.generator.sample(4), 0, 3, even=False, hold=[halves]).images
    assert (halves(images[:, -1]) - halves(images[:, 0])).abs().max() < 0.02
