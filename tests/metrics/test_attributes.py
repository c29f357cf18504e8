"""Attributes: which path changes what, on attributes that are known."""

import json

import pytest
import torch
from support.runs import small_run

from fastflow.baselines import Random
from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.metrics.attributes import attribute_correlation


def halves(z):
    """Images whose left half brightens with z[0] and whose right half with z[1]; z[2] does nothing."""
    left, right = z[:, 0].sigmoid()[:, None, None, None], z[:, 1].sigmoid()[:, None, None, None]
    return torch.cat((left.expand(-1, 1, 4, 2), right.expand(-1, 1, 4, 2)), 3)


def left_and_right(images):
    return torch.stack((images[..., :2].mean((1, 2, 3)), -images[..., 2:].mean((1, 2, 3))), 1)


@pytest.fixture
def axes():
    """Straight walks along the latent axes."""
    generator = from_callable(halves, 3)
    walks = Random(generator, 3, 0.3)
    walks.directions = torch.eye(3)
    return walks


def test_known_attributes_are_found(axes):
    found = attribute_correlation(axes, left_and_right, ["left", "dark right"], path_steps=6)
    correlation, change = torch.tensor(found.correlation), torch.tensor(found.change)
    expected = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    torch.testing.assert_close(correlation, expected, rtol=0, atol=0.02)
    assert torch.equal(change.sign(), expected)
    assert (change.abs()[expected != 0] > 0.2).all()
    assert found.attributes == ["left", "dark right"]
    assert found.strongest(1)[0] == "dark right"
    assert found.strongest(1)[1] < -0.98


def test_one_attribute_may_come_without_a_dimension_and_without_a_name(axes):
    found = attribute_correlation(axes, lambda images: images.mean((1, 2, 3)), path_steps=6)
    assert found.attributes == ["attribute 0"]
    assert [len(row) for row in found.correlation] == [1, 1, 1]


def test_predictor_sees_eight_bit_images_of_the_generators_range(axes):
    seen = []

    def look(images):
        seen.append(images)
        return images.mean((1, 2, 3))

    axes.generator = from_callable(lambda z: 2 * halves(z) - 1, 3, value_range=(-1, 1))
    axes.num_directions = 1
    attribute_correlation(axes, look, path_steps=4, samples=5)
    (images,) = seen
    assert images.shape == (25, 1, 4, 4)
    assert images.min() >= 0
    torch.testing.assert_close(images * 255, (images * 255).round())


def test_correlation_is_pearsons_within_each_path(axes):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(7, 5, generator=rng, dtype=torch.float64)
    axes.num_directions = 1
    found = attribute_correlation(axes, lambda images: noise.reshape(-1), path_steps=4, samples=7)
    steps = torch.arange(5.0, dtype=torch.float64)
    expected = torch.stack([torch.corrcoef(torch.stack((steps, row)))[0, 1] for row in noise]).mean()
    assert found.correlation[0][0] == pytest.approx(float(expected))
    assert found.change[0][0] == pytest.approx(float((noise[:, -1] - noise[:, 0]).mean()))


@pytest.mark.parametrize(
    ("predictor", "options", "message"),
    [
        (lambda images: images, {}, r"must give values \(20,\) or \(20, P\) for 20 images, got \(20, 1, 4, 4\)"),
        (lambda images: images.mean(), {}, r"or \(20, P\) for 20 images, got \(\)"),
        (lambda images: [1.0], {}, "got list"),
        (lambda images: images.mean((1, 2, 3)) / 0, {}, "values must be finite"),
        (lambda images: images.nothing(), {}, "the predictor failed: AttributeError"),
        (lambda images: images.mean((1, 2, 3)), {"attributes": ["a", "b"]}, "gives 1 attributes, and 2 names were"),
        (lambda images: images.mean((1, 2, 3)), {"attributes": "a"}, "attributes must be a list of names, got 'a'"),
        (lambda images: images.mean((1, 2, 3)), {"attributes": [3]}, r"attributes must be a list of names, got \[3\]"),
        (lambda images: images.flatten(1)[:, :2], {"attributes": ["a", "a"]}, "attribute .a. is named twice"),
        (lambda images: images.mean((1, 2, 3)), {"seed": -1}, "seed must be a whole number in .*, got -1"),
        (lambda images: images.mean((1, 2, 3)), {"samples": 0}, "samples must be a whole number of at least 1, got 0"),
        (lambda images: images.mean((1, 2, 3)), {"path_steps": 1}, "paths of at least 2 steps, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(axes, predictor, options, message):
    arguments = {"path_steps": 4, "samples": 4, **options}
    with pytest.raises(InputError, match=message):
        attribute_correlation(axes, predictor, **arguments)


def test_names_are_counted_before_all_paths_are_walked(axes):
    calls = []

    def look(images):
        calls.append(len(images))
        return images.mean((1, 2, 3))

    with pytest.raises(InputError, match="gives 1 attributes, and 2 names"):
        attribute_correlation(axes, look, ["a", "b"], samples=100)
    assert len(calls) == 1


def test_run_writes_what_it_found(tmp_path):
    run = small_run(tmp_path / "run")
    found = run.correlate(lambda images: images.mean((1, 2, 3)), ["brightness"], samples=8, seed=4)
    record = json.loads((tmp_path / "run" / "attributes.json").read_text())
    assert record["correlation"] == found.correlation
    assert (record["attributes"], record["samples"], record["seed"]) == (["brightness"], 8, 4)
    assert record["training_steps"] == run.step
    assert run.correlate(lambda images: images.mean((1, 2, 3)), ["brightness"], samples=8, seed=4) == found


def test_predictor_of_the_command_line_is_checked(tmp_path, capsys, digits_folder):
    with pytest.raises(SystemExit):
        main(["evaluate", str(digits_folder), "--samples", "60", "--predictor", f"{tmp_path}/none.py:f"])
    assert "predictor file" in capsys.readouterr().err
    assert not (digits_folder / "evaluation.json").exists()
