"""Likelihoods against torch's own distributions, and the logistic one against the sum of its bins."""

import math

import pytest
import torch

from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import (
    LIKELIHOODS,
    log_density,
    log_density_derivatives,
    normal_divergence,
    normal_log_density,
)

RNG = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.rand(*shape, generator=RNG, dtype=torch.float64)


def test_bernoulli_of_binary_pixels_is_a_probability():
    logits, x = 20 * draw(4, 1, 2, 3) - 10, (draw(4, 1, 2, 3) > 0.5).double()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(log_density("bernoulli", logits, x), expected)


def test_bernoulli_survives_large_logits():
    assert log_density("bernoulli", torch.tensor([[200.0, -200.0]]), torch.tensor([[1.0, 0.0]])).item() == 0
    assert log_density("bernoulli", torch.tensor([[-200.0]]), torch.tensor([[1.0]])).item() == -200


@pytest.mark.parametrize("std", [0.2, torch.tensor(0.2), torch.tensor([0.1, 0.2, 0.3])], ids=["number", "one", "each"])
def test_gaussian_is_the_density(std):
    mean, x = draw(4, 3), draw(4, 3)
    expected = torch.distributions.Normal(mean, torch.as_tensor(std, dtype=torch.float64)).log_prob(x).sum(1)
    torch.testing.assert_close(log_density("gaussian", mean, x, std), expected)


@pytest.mark.parametrize("std", [0.002, 0.05, 1.0])
@pytest.mark.parametrize("mean", [0.0, 0.37, 1.0])
def test_logistic_bins_share_all_probability(mean, std):
    levels = torch.arange(256, dtype=torch.float64)[:, None] / 255
    chances = log_density("discretized-logistic", torch.full_like(levels, mean), levels, std).exp()
    torch.testing.assert_close(chances.sum(), torch.ones((), dtype=torch.float64))
    edges, scale = (levels[:-1, 0] + 0.5 / 255 - mean) / (std * math.sqrt(3) / math.pi), torch.sigmoid
    torch.testing.assert_close(chances[1:-1], scale(edges[1:]) - scale(edges[:-1]), rtol=1e-6, atol=1e-14)


def test_logistic_noise_has_the_standard_deviation_that_it_is_given():
    levels = torch.arange(256, dtype=torch.float64)[:, None] / 255
    chances = log_density("discretized-logistic", torch.full_like(levels, 0.5), levels, 0.05).exp()
    assert float((chances * (levels[:, 0] - 0.5) ** 2).sum().sqrt()) == pytest.approx(0.05, rel=0.01)


def test_logistic_keeps_its_gradient_far_from_the_mean():
    mean = torch.zeros(1, 1, requires_grad=True)
    value = log_density("discretized-logistic", mean, torch.tensor([[0.9]]), 0.002)
    value.sum().backward()
    assert -1000 < value.item() < -700
    assert mean.grad.item() == pytest.approx(math.pi / (0.002 * math.sqrt(3)), rel=1e-3)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_derivatives_are_those_of_the_density(likelihood):
    """Also of the logistic one's outermost bins."""
    parameters, x = draw(2, 5), torch.tensor([0.0, 0.3, 0.5, 1.0, 1.0]).double().expand(2, 5)

    def density(parameters):
        return log_density(likelihood, parameters, x, 0.1).sum()

    first, second = log_density_derivatives(likelihood, parameters, x, 0.1)
    torch.testing.assert_close(first, torch.func.grad(density)(parameters))
    hessian = torch.func.hessian(density)(parameters).view(10, 10)
    torch.testing.assert_close(second, -hessian.diagonal().view(2, 5))
    assert bool((second >= 0).all())


def test_derivatives_need_the_noise():
    with pytest.raises(InputError, match="the likelihood gaussian needs a noise_std"):
        log_density_derivatives("gaussian", draw(2, 3), draw(2, 3))


def test_normal_density_and_divergence_are_those_of_torch():
    mean, log_variance, z = draw(4, 3), draw(4, 3) - 1, draw(4, 3)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    torch.testing.assert_close(normal_log_density(z, mean, log_variance), q.log_prob(z).sum(1))
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(normal_divergence(mean, log_variance), expected)


def test_wrong_likelihoods_are_refused():
    with pytest.raises(
        InputError, match="likelihood must be one of bernoulli, gaussian, discretized-logistic, got 'p'"
    ):
        log_density("p", draw(1, 1), draw(1, 1))
    with pytest.raises(InputError, match="the likelihood gaussian needs a noise_std, got None"):
        log_density("gaussian", draw(1, 1), draw(1, 1))
