"""The attributes that the documents' comparisons bring: which digit an image shows, and what paths do to that."""

from pathlib import Path

import pytest
import torch
from support.pages import ROOT
from support.pretrained import MNIST_LENET, MNIST_VAE, needs_mnist

from benchmarks.studies import comparison
from fastflow import datasets, generators
from fastflow.core.errors import InputError
from fastflow.metrics import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.runs.train import discover
from fastflow.studies.comparison.attributes import varying
from fastflow.training.flow_config import DiscoverConfig

NAMES = [*STROKE_ATTRIBUTES, *map(str, range(10))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a classifier of random weights."""
    monkeypatch.chdir(tmp_path)
    comparison.lenet.cache_clear()
    torch.manual_seed(0)
    torch.save(comparison.LeNet().state_dict(), tmp_path / "mnist_lenet.pth")
    yield tmp_path
    comparison.lenet.cache_clear()


def test_strokes_come_before_the_probabilities_of_digits(folder):
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    values = comparison.strokes_and_digits(images)
    assert values.shape == (5, len(NAMES))
    assert torch.equal(values[:, :7], stroke_attributes(images))
    assert torch.equal(values[:, 7:], comparison.digits(images).to(values))
    torch.testing.assert_close(values[:, 7:].sum(1), torch.ones(5, dtype=values.dtype))
    network = comparison.LeNet()
    network.load_state_dict(torch.load(folder / "mnist_lenet.pth", weights_only=True))
    assert torch.equal(comparison.digits(images), network(images).detach())


def test_refuses_other_images_and_other_weights(folder):
    with pytest.raises(InputError, match="digits are told in images of 1 x 28 x 28, got 1 x 8 x 8"):
        comparison.digits(torch.rand(2, 1, 8, 8))
    state = torch.load(folder / "mnist_lenet.pth", weights_only=True)
    del state["fc.f7.bias"]
    torch.save(state, folder / "mnist_lenet.pth")
    with pytest.raises(InputError, match=r"weights file 'mnist_lenet\.pth' lacks 'fc\.f7\.bias'"):
        comparison.digits(torch.rand(2, 1, 28, 28))
    (folder / "mnist_lenet.pth").unlink()
    with pytest.raises(InputError, match=r"weights file 'mnist_lenet\.pth' doesn't exist"):
        comparison.digits(torch.rand(2, 1, 28, 28))


@needs_mnist
def test_digits_are_read_on_mnist_and_vary_over_a_vae(tmp_path, monkeypatch):
    """Swapped classes, images or axes would read them by chance."""
    monkeypatch.chdir(tmp_path)
    Path("mnist_lenet.pth").symlink_to(MNIST_LENET)
    spec = f"{ROOT / 'benchmarks' / 'studies' / 'comparison.py'}:strokes_and_digits"
    generator = generators.load(f"mlp-vae:{MNIST_VAE},layers=fc3+fc4")
    found = varying(spec, NAMES, generator, 64, [1])
    assert found.names == NAMES
    data = datasets.mnist(MNIST_LENET.parents[1] / "mnist", "test")
    rows = torch.arange(300)
    images = data.images[rows] / 255
    right = found(images)[:, 7:].argmax(1) == data.labels[rows]
    assert right.double().mean() > 0.97


@pytest.mark.slow
@needs_mnist
def test_digits_that_paths_lead_to(tmp_path):
    lenet = comparison.LeNet()
    lenet.load_state_dict(torch.load(MNIST_LENET, weights_only=True))
    lenet.eval()
    generator = generators.load(f"mlp-vae:{MNIST_VAE},layers=fc3+fc4")
    with torch.no_grad():
        certain = lenet(generator.decode(generator.sample(300))).amax(1)
    assert certain.mean() > 0.75  # it reads what the VAE draws

    config = DiscoverConfig(num_potentials=4, steps=80, batch_size=32, path_steps=8, hidden=(32, 32))
    run = discover(generator, config, tmp_path / "run", progress=False)
    digits = [f"digit {d}" for d in range(10)]
    found = run.correlate(lenet, digits, samples=100, seed=1)
    correlation, change = torch.tensor(found.correlation), torch.tensor(found.change)
    assert correlation.shape == change.shape == (4, 10)
    assert correlation.abs().max() <= 1
    torch.testing.assert_close(change.sum(1), torch.zeros(4), rtol=0, atol=1e-4)  # shares of one another
    # What the paths do to digits shows again from other starts.
    again = run.correlate(lenet, digits, samples=100, seed=2)
    strong = correlation.abs() > 0.3
    assert strong.any()
    assert torch.equal(correlation.sign()[strong], torch.tensor(again.correlation).sign()[strong])
    name, r = found.strongest(0)
    assert name in digits
    assert abs(r) == correlation[0].abs().max()
