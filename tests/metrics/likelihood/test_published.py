"""The figure that a published program printed: its formula, and that it is no likelihood."""

import math

import pytest
import torch

import fastflow as ff
from fastflow.core.errors import InputError

X = torch.rand(5, 1, 2, 3, generator=torch.Generator().manual_seed(0))


class Model:
    """Encodes images as this mean, with this log-variance for both latents, and decodes them as grey."""

    def __init__(self, mean, log_variance):
        self.mean, self.log_variance = mean, log_variance

    def encode(self, x):
        return torch.full((len(x), 2), self.mean), torch.full((len(x), 2), self.log_variance)

    def images(self, z):
        return (0.5 + z[:, :1]).view(-1, 1, 1, 1).expand(-1, 1, 2, 3)


def test_it_is_the_density_plus_the_divergence():
    found = ff.metrics.published_figure(Model(0.0, -30.0), X)
    density = -0.5 * (X - 0.5).square().flatten(1).sum(1).double().mean() - 3 * math.log(2 * math.pi)
    divergence = 0.5 * 2 * (math.exp(-30) - 1 + 30)
    assert found == pytest.approx(float(density) + divergence, rel=1e-5)


def test_it_can_lie_above_every_density():
    class Far(Model):
        def images(self, z):
            return X

    bound = ff.metrics.published_bound(X)
    assert bound == pytest.approx(-3 * math.log(2 * math.pi))
    assert ff.metrics.published_figure(Far(10.0, 0.0), X) == pytest.approx(bound + 0.5 * 2 * 100)


def test_samples_are_those_of_the_seed():
    model = Model(0.0, 0.0)
    assert ff.metrics.published_figure(model, X, 1) == ff.metrics.published_figure(model, X, 1)
    assert ff.metrics.published_figure(model, X, 1) != ff.metrics.published_figure(model, X, 2)


def test_a_model_without_an_encoder_is_refused():
    with pytest.raises(InputError, match="model must have encode and images, as a VAE has, got int"):
        ff.metrics.published_figure(3, X)
