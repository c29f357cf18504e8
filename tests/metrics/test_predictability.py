"""Variation predictability: of paths that are easy, hopeless and partly alike to tell apart."""

import pytest
import torch
from support.runs import sigmoid_generator, small_run
from tqdm import tqdm

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.metrics import predictability
from fastflow.metrics.pairs import Pairs, path_pairs
from fastflow.metrics.predictability import PUBLISHED, SMALL, VariationPredictor, train_and_measure


def quarters(z):
    """Images of 8 x 8 in whose quarters three latents and a mixture of them show."""
    shown = torch.stack((z[:, 0], z[:, 1], z[:, 2], z.mean(1)), 1).sigmoid()
    return shown.view(-1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture
def axes():
    """Straight walks along three latent axes, the last of which is walked by two paths."""
    found = ff.baselines.Random(from_callable(quarters, 3), 4, 0.3)
    found.directions = torch.eye(3)[[0, 1, 2, 2]]
    return found


@pytest.fixture
def brief(monkeypatch):
    """Recipes of few epochs."""
    monkeypatch.setattr(predictability, "PUBLISHED", PUBLISHED._replace(epochs=25))
    monkeypatch.setattr(predictability, "SMALL", SMALL._replace(epochs=15))


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("measure", [ff.metrics.vp_score, ff.metrics.vp_score_fast])
def test_paths_are_told_apart_as_far_as_they_differ(axes, measure):
    found = measure(axes, path_steps=3, samples=1200, seeds=2, progress=False)
    assert found.network == ("published" if measure is ff.metrics.vp_score else "small")
    assert found.per_path[:2] == pytest.approx([1, 1], abs=0.05)
    assert sum(found.per_path[2:]) == pytest.approx(1, abs=0.1)  # one of two that are the same
    assert found.score == pytest.approx(0.75, abs=0.05)
    assert found.score == pytest.approx(sum(found.per_seed) / 2)
    assert found.standard_error == pytest.approx(abs(found.per_seed[0] - found.per_seed[1]) / 2)
    assert (found.sizes.train, found.sizes.validation, found.sizes.test) == (120, 120, 960)
    assert found.strength == pytest.approx(ff.metrics.pixel_change(axes, path_steps=3), rel=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_same_seed_same_result_whatever_the_worlds_random_numbers(axes):
    torch.manual_seed(0)
    one = ff.metrics.vp_score_fast(axes, path_steps=3, samples=200, seeds=1, progress=False)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    again = ff.metrics.vp_score_fast(axes, path_steps=3, samples=200, seeds=1, progress=False)
    other = ff.metrics.vp_score_fast(axes, path_steps=3, samples=200, seed=2, seeds=1, progress=False)
    assert again == one
    assert other.per_path != one.per_path
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.standard_error is None


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_runs_are_measured_on_their_own_paths(tmp_path):
    run = small_run(tmp_path / "run", sigmoid_generator())
    found = ff.metrics.vp_score_fast(run, samples=60, seeds=1, progress=False)
    assert len(found.per_path) == 3
    assert found.strength == pytest.approx(float(path_pairs(run, 3, 60, 1).strength().mean()))


def noise(same):
    """400 pairs that change at random, or in a column for each of two classes."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(400, 1, 8, 8, generator=rng)
    index = torch.arange(400) % 2
    change = 0.3 * torch.randn(400, 1, 8, 8, generator=rng)
    if not same:
        change[index == 1, :, :, :4] += 0.3
    return Pairs(images, images + change, index)


def told(pairs, recipe=SMALL, seed=0):
    with tqdm(disable=True) as bar:
        return train_and_measure(pairs, 2, recipe._replace(epochs=12), seed, bar)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [PUBLISHED, SMALL], ids=lambda recipe: recipe.name)
def test_nothing_is_learned_from_or_chosen_on_the_test_part(recipe):
    pairs = noise(same=False)
    train, validation, test = predictability._parts(400, 0)
    assert sorted(torch.cat((train, validation, test)).tolist()) == list(range(400))
    spoiled = pairs.index.clone()
    spoiled[test] = 1 - spoiled[test]
    one, other = told(pairs, recipe), told(Pairs(pairs.images, pairs.next_images, spoiled), recipe)
    assert (one.epoch, one.validation) == (other.epoch, other.validation)
    assert one.test == pytest.approx(1 - other.test)
    assert one.test > 0.7


def test_what_is_chosen_by_is_not_learned_from():
    """Labels that are noise can be learned by heart, but not foretold: neither on the validation nor the test part."""
    fold = told(noise(same=True))
    assert fold.validation < 0.75  # the best of 12 epochs on 40 pairs
    assert abs(fold.test - 0.5) < 0.1


def test_the_published_network():
    network = VariationPredictor((3, 64, 64), 10)
    convolutions = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions == [(64, 3, 7, 7), (64, 64, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3)]
    images = torch.rand(2, 3, 64, 64)
    assert network(images, images + 0.1).shape == (2, 10)
    seen = network.eval()(images, images + 0.1)
    torch.testing.assert_close(network(images + 0.5, images + 0.6), seen)  # the difference is all it sees
    assert ("published", VariationPredictor, 200, 32, 0.01) == PUBLISHED


def test_a_pair_is_judged_by_itself_and_nothing_is_learned_from_it():
    """Batch normalisation in training mode would see the others, and learn their statistics."""
    torch.manual_seed(0)
    network, pairs = VariationPredictor((1, 8, 8), 2).train(), noise(same=False)[:40]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    whole = predictability._correct(network, pairs)
    assert 0 < whole.mean() < 1
    twos = [predictability._correct(network.train(), pairs[i : i + 2]) for i in range(0, 40, 2)]
    assert torch.equal(torch.cat(twos), whole)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_is_refused(axes):
    with pytest.raises(InputError, match=r"samples must be at least 80, .* two for every path, got 79"):
        ff.metrics.vp_score_fast(axes, samples=79)
    with pytest.raises(InputError, match="seeds must be a whole number of at least 1, got 0"):
        ff.metrics.vp_score(axes, seeds=0)
    with pytest.raises(InputError, match="the source must be a run"):
        ff.metrics.vp_score(axes.generator)
