"""Regressors of known factors, on a small grid whose images show all of them but one."""

import pytest
import torch

import fastflow as ff
from fastflow.baselines import Random
from fastflow.core.errors import InputError
from fastflow.datasets import FactorSequences
from fastflow.generators import from_callable
from fastflow.metrics import regressor as module


class Spots:
    """A spot of one of three shapes that goes right and brightens; its "hidden" factor isn't drawn."""

    name, image_shape, note = "spots", (1, 12, 12), "spots made up for tests"
    factors = {"color": 1, "shape": 3, "x": 8, "light": 6, "hidden": 4}  # noqa: RUF012

    def images(self, places):
        shape, x, light, _ = torch.unravel_index(places, (3, 8, 6, 4))
        pixel = torch.arange(12.0)
        right = (pixel - (2 + x[:, None])).abs()[:, None]  # (N, 1, 12)
        down = (pixel - 5.5).abs()[:, None]  # (12, 1)
        inside = torch.stack([(right < 2) & (down < 2), (right < 1) & (down < 4), (right < 3) & (down < 1)], 1)[
            torch.arange(len(places)), shape
        ]
        return (inside * (0.4 + 0.1 * light)[:, None, None])[:, None].float()


@pytest.fixture(scope="module")
def data():
    return FactorSequences(Spots(), "train", ("x",))


@pytest.fixture(scope="module")
def regressor(data):
    return ff.metrics.factor_regressor(data, epochs=40, progress=False)


@pytest.mark.slow
def test_factors_are_told_as_far_as_images_show_them(regressor):
    assert regressor.told["shape"] > 0.9
    assert regressor.told["x"] > 0.9
    assert regressor.told["light"] > 0.9
    assert regressor.told["hidden"] < 0.2
    assert regressor.samples == 49  # of 490 starting images


@pytest.mark.slow
def test_values_are_shares_of_their_range_and_probabilities(regressor, data):
    assert regressor.names == ["shape 0", "shape 1", "shape 2", "x", "light", "hidden"]
    rows = torch.arange(0, len(data), 3)
    found, known = regressor(data.starts(rows)), data.factors_of(rows)
    assert found.shape == (len(rows), 6)
    torch.testing.assert_close(found[:, :3].sum(1), torch.ones(len(rows)))
    assert (found[:, :3].argmax(1) == known[:, 1]).float().mean() > 0.9
    assert (found[:, 3] - known[:, 2] / 7).abs().mean() < 0.08
    assert (found[:, 4] - known[:, 3] / 5).abs().mean() < 0.08


def test_starting_images_have_their_own_factors(data):
    rows = torch.tensor([3, 70, 200])
    x = data.factors_of(rows)[:, 2]
    same = data.frames(rows, torch.zeros(3, dtype=torch.long), x[:, None] / 7)[:, 0]
    assert torch.equal(data.starts(rows), same)


@pytest.mark.slow
def test_purity_of_paths_in_known_factors(regressor):
    """A path that moves the spot is pure in x, one that brightens it in light."""

    def images(z):
        x, light = 5.5 + 1.5 * z[:, :1].clamp(-2, 2), 0.65 + 0.1 * z[:, 1].clamp(-2, 2)
        pixel = torch.arange(12.0)
        soft = (
            torch.sigmoid(6 * (1.5 - (pixel - x).abs()))[:, None]
            * torch.sigmoid(6 * (1.5 - (pixel - 5.5).abs()))[:, None]
        )
        return (soft * light[:, None, None])[:, None]

    walks = Random(from_callable(images, 2), 2, 0.15)
    walks.directions = torch.eye(2)
    found = ff.metrics.purity(walks, lambda x: regressor(x)[:, 3:5], ["x", "light"], samples=64)
    assert found.top == [0, 1]
    assert min(found.purity) > 0.6
    assert found.covered == ["x", "light"]


def test_same_seed_same_regressor_whatever_the_worlds_random_numbers(data):
    images = data.starts(torch.arange(5))
    options = {"epochs": 1, "samples": 150, "progress": False}
    torch.manual_seed(0)
    one = ff.metrics.factor_regressor(data, **options)
    torch.manual_seed(1)
    again, other = (ff.metrics.factor_regressor(data, seed=seed, **options) for seed in (0, 1))
    assert torch.equal(one(images), again(images))
    assert one.told == again.told
    assert not torch.equal(one(images), other(images))
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_the_images_it_is_measured_on_are_not_learned_from(data, monkeypatch):
    asked = []
    starts = FactorSequences.starts
    monkeypatch.setattr(
        FactorSequences, "starts", lambda self, rows: asked.append(set(rows.tolist())) or starts(self, rows)
    )
    found = ff.metrics.factor_regressor(data, epochs=2, progress=False)
    *before, measured = asked
    assert len(measured) == found.samples == 49
    assert not measured & set.union(*before)
    assert len(set.union(*before)) == len(data) - 49
    # Nor is the epoch chosen on what was learned from.
    *learned, validation = before[: len(before) // 2]
    assert len(validation) == 49
    assert not validation & set.union(*learned)


def test_the_epoch_that_is_best_on_the_validation_part_is_kept(data, monkeypatch):
    """Of three epochs whose losses there are 0.3, 0.1 and 0.5 it is the second, after which a shorter training ends."""
    loss = module._loss

    def kept(losses):
        told = iter(losses)
        monkeypatch.setattr(
            module,
            "_loss",
            lambda *given: loss(*given) if torch.is_grad_enabled() else torch.tensor(next(told)),
        )
        found = ff.metrics.factor_regressor(data, epochs=len(losses), samples=150, progress=False)
        return torch.cat([parameter.flatten() for parameter in found.parameters()])

    assert torch.equal(kept([0.3, 0.1, 0.5]), kept([0.3, 0.1]))
    assert not torch.equal(kept([0.3, 0.1, 0.05]), kept([0.3, 0.1]))


def test_what_cannot_be_is_refused(data):
    for options, message in (
        ({"factors": ["y"]}, r"factors must be a list of names among shape, x, light, hidden, got \['y'\]"),
        ({"factors": ["color"]}, "factors must be a list of names among shape"),
        ({"factors": "x"}, "factors must be a list of names among shape, .*, got 'x'"),
        ({"factors": ["x", "x"]}, "factors must be names, each once"),
        ({"factors": []}, "factors must be names, each once"),
        ({"factors": ["x"], "categorical": ["shape"]}, r"categorical must be a list of names among x, got \['shape'\]"),
        ({"samples": 99}, "a regressor needs at least 100 images, got 99"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            ff.metrics.factor_regressor(data, **options)
    with pytest.raises(InputError, match="a data set with known factors, such as dsprites, got int"):
        ff.metrics.factor_regressor(3)
