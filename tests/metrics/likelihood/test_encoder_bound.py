"""The bound with the encoder as its proposal, held to models whose likelihood is known in closed form."""

import math
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.metrics.likelihood import encoder_bound as module

D, PIXELS, STD = 3, 6, 0.3
encoder_bound = partial(ff.metrics.log_likelihood, proposal="encoder")
RNG = torch.Generator().manual_seed(0)
WEIGHT, OFFSET = torch.randn(D, PIXELS, generator=RNG).double(), torch.randn(PIXELS, generator=RNG).double()
COVARIANCE = WEIGHT.T @ WEIGHT + STD**2 * torch.eye(PIXELS).double()
TRUTH = torch.distributions.MultivariateNormal(OFFSET, COVARIANCE)
X = OFFSET + torch.randn(400, PIXELS, generator=RNG).double() @ torch.linalg.cholesky(COVARIANCE).T


def posterior(x):
    """That of z ~ N(0, I), x = W^T z + b + noise."""
    precision = torch.eye(D).double() + WEIGHT @ WEIGHT.T / STD**2
    return (x - OFFSET) @ WEIGHT.T / STD**2 @ torch.linalg.inv(precision), torch.linalg.inv(precision)


class LinearGaussian:
    """Its encoder is a diagonal Gaussian around a mean that is somewhat off: the bound isn't tight."""

    likelihood, noise_std = "gaussian", STD

    def encode(self, x):
        mean, covariance = posterior(x)
        return mean + 0.05, covariance.diagonal().log().expand_as(mean) + 0.5

    def decode(self, z):
        return z @ WEIGHT + OFFSET


@pytest.fixture(scope="module")
def found():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data for which few samples count
        return {k: encoder_bound(LinearGaussian(), X, num_samples=k) for k in (1, 4, 32, 512, 4096)}


@pytest.mark.slow
def test_linear_gaussian_model_is_approached_from_below(found):
    truth = TRUTH.log_prob(X)
    means = [found[k].mean for k in found]
    assert means == sorted(means)
    gaps = [float(truth.mean()) - mean for mean in means]
    assert gaps[0] > 0.5  # the test has something to show: the evidence lower bound is far off
    assert gaps[2] > 0.005
    # In the end what is left is the samples' own spread, about 0.002 in the mean of 400 data.
    assert abs(gaps[-1]) < 0.005


def test_mean_and_its_error_are_of_the_data(found):
    result = found[512]
    assert result.num_samples == 512
    assert result.each.shape == (400,)
    assert result.each.dtype == torch.float64
    assert result.mean == pytest.approx(float(result.each.mean()))
    assert result.standard_error == pytest.approx(float(result.each.std()) / 20)
    # The data are drawn from the model: their mean is within a few errors of minus the entropy.
    assert abs(result.mean + float(TRUTH.entropy())) < 4 * result.standard_error


def test_exact_posterior_makes_one_sample_enough():
    diagonal = SimpleNamespace(
        likelihood="gaussian",
        noise_std=torch.tensor(0.5, dtype=torch.float64),
        encode=lambda x: (x / 1.25, torch.full_like(x, math.log(0.2))),
        decode=lambda z: z,
    )  # x = z + noise: p(z | x) = N(x / 1.25, 0.2)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(x).sum(1)
    torch.testing.assert_close(encoder_bound(diagonal, x, num_samples=1).each, expected)


def test_prior_of_another_variance_is_another_model():
    """Data x = z + noise with z ~ N(0, v): the same bound, tight at the posterior N(x v / (v + s), v s / (v + s))."""
    noise, variance = 0.25, torch.tensor([1.0, 3.0, 0.5]).double()
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1)).double()
    gain = (variance / (variance + noise))[:, None]
    model = SimpleNamespace(
        likelihood="gaussian",
        noise_std=0.5,
        encode=lambda x: (gain * x, (noise * gain).log().expand_as(x)),
        decode=lambda z: z,
    )
    expected = torch.distributions.Normal(0.0, (variance + noise).sqrt()[:, None]).log_prob(x).sum(1)
    found = encoder_bound(model, x, num_samples=1, prior_variance=variance)
    torch.testing.assert_close(found.each, expected)


def test_bernoulli_bound_approaches_a_sum_over_the_prior():
    """One latent: p(x) is an integral that a fine grid does."""
    slope = torch.tensor([2.0, -1.0, 0.5])
    model = SimpleNamespace(
        likelihood="bernoulli",
        encode=lambda x: (x.flatten(1).sum(1, keepdim=True) - 1, torch.zeros(len(x), 1)),
        decode=lambda z: (z * slope).view(-1, 1, 1, 3),
    )
    x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]).view(2, 1, 1, 3)
    grid = torch.linspace(-8, 8, 4001).double()
    chances = torch.sigmoid(grid[:, None] * slope.double())
    given = torch.where(x.view(2, 1, 3) > 0, chances, 1 - chances).prod(2)
    prior = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    truth = (given * prior).sum(1).mul(16 / 4000).log()
    bound = encoder_bound(model, x, num_samples=20_000).each
    torch.testing.assert_close(bound, truth, atol=0.02, rtol=0)


@pytest.mark.filterwarnings("ignore:.* effective sample size:UserWarning")
def test_seed_fixes_the_samples_and_pieces_change_nothing(monkeypatch):
    model, x = LinearGaussian(), X[:100]
    one, again, other = (encoder_bound(model, x, num_samples=7, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.each, again.each)
    assert not torch.equal(one.each, other.each)
    monkeypatch.setattr(module, "MOST_DECODED", 64 * PIXELS * 2)
    torch.testing.assert_close(encoder_bound(model, x, num_samples=7, seed=3).each, one.each)


def test_single_datum_has_no_error():
    assert math.isnan(encoder_bound(LinearGaussian(), X[:1], num_samples=2).standard_error)


WRONG = {
    "count": (lambda model: {"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
    "seed": (lambda model: {"seed": -1}, "seed must be a whole number in 0"),
    "prior": (lambda model: {"prior_variance": 0.0}, "prior_variance must be a number above 0, or one for each of the"),
    "priors": (lambda model: {"prior_variance": torch.ones(3)}, "prior_variance must be a number above 0"),
    "no-data": (lambda model: {"x": X[:0]}, r"x must be a tensor of floating-point numbers \(N, ...\)"),
    "whole-numbers": (lambda model: {"x": X.long()}, "x must be a tensor of floating-point numbers"),
    "likelihood": (lambda model: setattr(model, "likelihood", "poisson"), "likelihood must be one of bernoulli, gauss"),
    "encoder": (lambda model: setattr(model, "encode", lambda x: (x[:1], x[:1])), "the model must encode 64 data as"),
    "decoder": (lambda model: setattr(model, "decode", lambda z: z), "parameters of the shape of the data"),
    "fails": (lambda model: setattr(model, "decode", lambda z: z @ X), "the model failed: RuntimeError: "),
    "noise": (lambda model: setattr(model, "noise_std", 0.0), "likelihood must be finite, got NaN or infinity"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_measured_is_refused(change, message):
    model = LinearGaussian()
    options = change(model) or {}
    with pytest.raises(InputError, match=message):
        encoder_bound(model, **{"x": X, "num_samples": 3, **options})
