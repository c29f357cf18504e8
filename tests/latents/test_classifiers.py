"""Classifiers: any image size, logits that no other sample changes, and users' own."""

import copy

import pytest
import torch
from support.runs import sigmoid_generator, small_config, small_run
from torch import nn

from fastflow.core.errors import InputError
from fastflow.latents.classifiers import CLASSIFIERS, make_classifier
from fastflow.runs.loading import load_run
from fastflow.training.discover import Discovery, check_task

SHAPES = [(1, 1, 1), (1, 8, 8), (3, 9, 20), (3, 64, 64)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_of_any_size_of_image_are_each_samples_own(name, shape):
    torch.manual_seed(0)
    classifier = make_classifier(name, shape, 5)
    images, next_images = torch.rand(2, 3, *shape).unbind()
    logits = classifier(images, next_images)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(classifier(images[1:2], next_images[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


def test_sizes_are_those_of_their_names():
    counts = {name: sum(p.numel() for p in make_classifier(name, (3, 64, 64), 32).parameters()) for name in CLASSIFIERS}
    assert 11e6 < counts["resnet18"] < 11.5e6
    assert counts["lenet"] < 3e5
    assert counts["small"] < 3e5


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_trains(name):
    task = Discovery(small_config(classifier=name, batch_size=6), sigmoid_generator())
    task.losses(task.draw(1)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in task.classifier.parameters())


OWN = """
from torch import nn
class Own(nn.Module):
    def __init__(self, shape, count):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(shape[0] * shape[1] * shape[2], count))
    def forward(self, a, b):
        return self.net(b - a)
def number(shape, count):
    return 3
def fail(shape, count):
    return 1 / 0
"""


@pytest.mark.slow
def test_classifier_out_of_a_file_trains_and_resumes_with_its_dropout(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    name = f"{file}:Own"
    small_run(tmp_path / "parts", classifier=name, steps=2)
    parts, whole = (small_run(tmp_path / folder, classifier=name, resume=True) for folder in ("parts", "whole"))
    assert all(torch.equal(a, b) for a, b in zip(parts.bank.parameters(), whole.bank.parameters(), strict=True))
    file.unlink()
    assert load_run(tmp_path / "whole", sigmoid_generator()).step == 6  # a run's potentials need no classifier


def test_classifier_in_hand_is_used(tmp_path):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(36, 3)

        def forward(self, images, next_images):
            return self.layer((next_images - images).flatten(1))

    classifier = Linear()
    before = classifier.layer.weight.clone()
    small_run(tmp_path / "run", options={"classifier": classifier})
    assert not torch.equal(classifier.layer.weight, before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "classifier must be one of small, lenet, resnet18, or FILE.py:FUNCTION, got 'vgg'"),
        ("gone.py:Own", "classifier file 'gone.py' doesn't exist"),
        ("{}:Other", "has no function 'Other'"),
        ("{}:number", "returned int, expected a torch.nn.Module"),
        ("{}:fail", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_bad_classifiers_are_refused(tmp_path, name, message):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(InputError, match=message):
        small_run(tmp_path / "run", classifier=name.format(tmp_path / "own.py"))
    assert not (tmp_path / "run").exists()


def test_classifier_with_other_logits_is_refused(tmp_path):
    class Wrong(nn.Module):
        def forward(self, images, next_images):
            return images.flatten(1)[:, :2]

    with pytest.raises(InputError, match=r"must give logits \(12, 3\) for 12 pairs of images, got \(12, 2\)"):
        small_run(tmp_path / "run", options={"classifier": Wrong()})


class Normalised(nn.Module):
    """Over the batch, and with dropout: a forward changes its statistics and draws numbers."""

    def __init__(self, only=None):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Dropout(), nn.Linear(36, 3))
        self.only = only

    def forward(self, images, next_images):
        assert self.only in (None, len(images)), "only so many"
        return self.net(next_images - images)


def test_classifier_is_tried_on_the_first_steps_batch(tmp_path):
    with pytest.raises(InputError, match="the classifier failed: AssertionError: only so many"):
        small_run(tmp_path / "run", options={"classifier": Normalised(only=2)})
    assert not (tmp_path / "run").exists()


def test_trying_a_classifier_changes_nothing():
    task = Discovery(small_config(), sigmoid_generator(), classifier=Normalised(only=12))
    before, state = copy.deepcopy(task.module.state_dict()), torch.get_rng_state()
    check_task(task)
    assert all(torch.equal(value, before[name]) for name, value in task.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_that_a_batch_lacks_is_no_fault_of_the_classifiers():
    class Large(nn.Module):
        def forward(self, images, next_images):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        check_task(Discovery(small_config(), sigmoid_generator(), classifier=Large()))
