"""Parts of data sets: what a training sees of them, and that the rest is measured."""

import json
import math

import pytest
import torch
from studies.likelihood.test_study import SIZE, measured, study

from fastflow import datasets
from fastflow.core.errors import InputError
from fastflow.datasets import ImageSequences
from fastflow.studies.likelihood import measures
from fastflow.studies.likelihood.parts import Part, is_withheld, kinds_of
from fastflow.studies.likelihood.table import Results, table


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", None, "test", ("rotation", "scale"))


def shown(data, rows, k, place):
    rows = torch.as_tensor(rows)
    return data.frames(rows, torch.full_like(rows, k), torch.full((len(rows), 1), place))


def test_paths_end_at_two_thirds(digits):
    part = Part(digits, withheld=False)
    rows = torch.arange(len(digits))
    for k in (0, 1):
        torch.testing.assert_close(shown(part, rows, k, 1.0), shown(digits, rows, k, 2 / 3))
    assert (len(part), part.image_shape, part.transformations) == (len(digits), (1, 8, 8), ("rotation", "scale"))


def test_the_last_kind_moves_along_the_second_transformation_only(digits):
    part = Part(digits, withheld=True)
    rows = torch.arange(len(digits))
    nines = digits.labels == 9
    assert torch.equal(is_withheld(digits), nines)
    assert torch.equal(shown(part, rows, 1, 0.75), shown(digits, rows, 1, 0.5))
    turned, whole = shown(part, rows, 0, 0.75), shown(digits, rows, 0, 0.5)
    assert torch.equal(turned[~nines], whole[~nines])
    following = [next(r for r in range(row + 1, row + len(rows)) if not nines[r % len(rows)]) for row in rows[nines]]
    assert torch.equal(turned[nines], whole[[row % len(rows) for row in following]])


def test_kinds_are_labels_or_the_values_of_the_first_factor_that_stays():
    sprites = datasets.load("dsprites", None, "test", ("orientation", "position-x"))
    shapes = sprites.factors_of(torch.arange(len(sprites)))[:, 1]
    assert torch.equal(kinds_of(sprites), shapes)
    images = torch.rand(3, 1, 4, 4)
    assert kinds_of(ImageSequences(images, labels=torch.tensor([7, 3, 7]))).tolist() == [1, 0, 1]
    for labels in (None, torch.tensor([2, 2, 2])):
        with pytest.raises(InputError, match="must have labels, or a factor that stays, of two values or more"):
            kinds_of(ImageSequences(images, labels=labels))


@pytest.mark.slow
def test_what_was_not_trained_is_measured(tmp_path, monkeypatch):
    asked = []

    def sequence_log_likelihood(run, frames, potential, num_samples):
        asked.append((frames, potential))
        return likelihood(run, frames, potential, num_samples)

    likelihood = measures.sequence_log_likelihood
    monkeypatch.setattr(measures, "sequence_log_likelihood", sequence_log_likelihood)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path / "out"
    text = study(out, seeds=1, groups=("parts",)).read_text()
    torch.set_num_threads(threads)
    runs = measured(out)
    assert [(run["group"], run["variant"]) for run in runs] == [
        ("parts", name) for name in ("companion", "plain", "walk")
    ]
    for run in runs:
        assert all(math.isfinite(run[name]) for name in ("start", "sequence-2", "longer", "composed", "unseen"))
    assert "- Longer than in training, x_3 after x_0..x_2: `companion` has, in nats above `plain`" in text
    record = json.loads((out / "runs" / "digits" / "parts" / "plain" / "seed-0" / "config.json").read_text())
    assert (
        "whose paths end at 2/3 of their way, and of which one kind doesn't move by rotation" in record["data"]["note"]
    )
    # Both halves of a composition, and the kinds of images.
    trained, longer, composed, unseen = asked[:4]
    _, test = datasets.load("digits", None, "train"), datasets.load("digits", None, "test", ("rotation", "scale"))
    labels = [images_labels(test, frames[:, 0]) for frames, _ in asked[:4]]
    assert all(9 not in found for found in labels[:3])
    assert labels[3] == [9] * 4
    assert (trained[0].shape[1], longer[0].shape[1]) == (3, 4)
    assert torch.equal(longer[0][:, :3], trained[0])
    assert composed[1].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert torch.equal(composed[0][:, :2], trained[0][:, :2])
    assert not torch.equal(composed[0][:, 2], trained[0][:, 2])
    assert unseen[1].tolist() == [0] * 4


def images_labels(data, starts):
    """The labels of a data set's starting images."""
    return [int(data.labels[(data.images.float() - start).flatten(1).abs().sum(1).argmin()]) for start in starts]


def test_a_table_of_parts_alone_has_no_other_group():
    names = ("start", "sequence-2", "longer", "composed", "unseen")
    config = {
        "transformations": [], "network": "mlp", "widths": [8], "latent_dim": 2, "batch_size": 4, "steps": 4,
        "path_steps": 2, "likelihood": "bernoulli",
    }  # fmt: skip
    found = {
        ("digits", "parts", variant, seed): dict.fromkeys(names, level + 0.01 * seed) | {"path_error": 0.1}
        for variant, level in (("plain", 0.0), ("companion", 2.0))
        for seed in (0, 1)
    }
    text = table(
        Results("own", 2, SIZE.lengths, {"digits": {"train": "a", "test": "b", "config": config}}, found), drawn=False
    )
    assert "### digits: trained on parts" in text
    assert "trained on pairs" not in text
    assert (
        "| nats | log p(x_0) | x_0..x_2 | x_3 after x_0..x_2 | x_0..x_2, two in turn | x_0..x_2, unseen kind |" in text
    )
