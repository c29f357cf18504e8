"""The likelihood of images by proposals that are fitted to their posteriors, held to closed forms and to a grid."""

import math
from types import SimpleNamespace

import pytest
import torch
from support.chains import OFFSET, STD, WEIGHT, Curved, LinearGaussian

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import log_density
from fastflow.metrics.likelihood import annealing, importance
from fastflow.metrics.likelihood.result import estimate, summary

CURVED = Curved()
X = CURVED.draw(40)


def curved(encode=None):
    model = SimpleNamespace(likelihood="bernoulli", latent_dim=2, decode=CURVED.decode)
    if encode is not None:
        model.encode = encode
    return model


def agree(found, truth, errors=4.0):
    """All data within so many of their own standard errors, and their mean within so many of its samples' error."""
    error = found.each_standard_error
    assert bool(((found.each - truth).abs() < errors * error + 1e-6).all())
    assert abs(found.mean - float(truth.mean())) < errors * float(error.square().sum().sqrt()) / len(error) + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("variance", [1.0, torch.linspace(0.3, 3, 30)], ids=["prior", "other priors"])
def test_a_linear_model_has_its_closed_form(variance):
    z = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)).double()
    x = (z @ WEIGHT + OFFSET + STD * torch.randn(30, 6, generator=torch.Generator().manual_seed(2))).view(30, 1, 2, 3)
    scale = torch.as_tensor(variance).double().expand(30)[:, None, None]
    covariance = scale * (WEIGHT.T @ WEIGHT) + STD**2 * torch.eye(6).double()
    truth = torch.distributions.MultivariateNormal(OFFSET, covariance).log_prob(x.flatten(1))
    found = ff.metrics.log_likelihood(LinearGaussian(), x, 200, prior_variance=variance)
    agree(found, truth)
    assert float(found.effective_sample_size.min()) > 130  # the tails and the encoder's share cost the rest
    assert float(found.each_standard_error.max()) < 0.06


@pytest.mark.slow
def test_a_curved_model_agrees_with_a_sum_over_a_grid():
    truth = CURVED.truth(X)
    found = ff.metrics.log_likelihood(curved(), X, 2000)
    agree(found, truth)
    assert float(found.each_standard_error.max()) < 0.05
    assert found.each.shape == found.effective_sample_size.shape == found.each_standard_error.shape == (40,)


@pytest.mark.slow
def test_few_and_many_samples_agree():
    few, many = (ff.metrics.log_likelihood(curved(), X, count) for count in (64, 1024))
    assert abs(few.mean - many.mean) < 2 * float(few.each_standard_error.square().sum().sqrt()) / len(X)


def test_few_samples_fall_short_by_the_gap_that_they_tell():
    log_weights = 0.5 * torch.randn(16, 50_000, generator=torch.Generator().manual_seed(0)).double()
    found = summary(estimate(log_weights), 16)
    assert found.gap == pytest.approx(
        0.125 - found.mean, rel=0.25
    )  # of a log-normal mean, whose logarithm is 0.5^2 / 2
    assert math.isnan(summary(estimate(log_weights[:1]), 1).gap)


def test_a_logistic_likelihood_agrees_with_a_sum_over_a_line():
    model = SimpleNamespace(
        likelihood="discretized-logistic", noise_std=0.05, latent_dim=1,
        decode=lambda z: torch.sigmoid(z * torch.tensor([1.0, -2.0, 4.0, 9.0])),
    )  # fmt: skip
    x = torch.tensor([[0.6, 0.3, 0.8, 1.0], [0.4, 0.7, 0.1, 0.0], [0.5, 0.5, 0.5, 0.5]])
    line = torch.linspace(-8, 8, 20_001).double()[:, None]
    means = model.decode(line)
    given = torch.stack([log_density(model.likelihood, means, row.double().expand_as(means), 0.05) for row in x], 1)
    truth = (given - 0.5 * line.square() - 0.5 * math.log(2 * math.pi)).logsumexp(0) + math.log(16 / 20_000)
    agree(ff.metrics.log_likelihood(model, x, 500), truth)


BAD = {
    "far away": lambda x: (torch.full((len(x), 2), 30.0), torch.full((len(x), 2), -6.0)),
    "farther than can be": lambda x: (torch.full((len(x), 2), 1e30), torch.zeros(len(x), 2)),
    "too sure": lambda x: (torch.zeros(len(x), 2), torch.full((len(x), 2), -12.0)),
    "too wide": lambda x: (torch.ones(len(x), 2), torch.full((len(x), 2), 9.0)),
    "not a number": lambda x: (torch.full((len(x), 2), math.nan), torch.zeros(len(x), 2)),
    "no room": lambda x: (torch.zeros(len(x), 2), torch.full((len(x), 2), -math.inf)),
}


@pytest.mark.slow
@pytest.mark.parametrize("encode", BAD.values(), ids=BAD)
def test_a_bad_encoder_changes_less_than_the_standard_error(encode):
    alone, beside = (ff.metrics.log_likelihood(model, X, 200) for model in (curved(), curved(encode)))
    error = math.hypot(*(float(found.each_standard_error.square().sum().sqrt()) for found in (alone, beside))) / len(X)
    assert abs(alone.mean - beside.mean) < error
    assert float((beside.effective_sample_size / alone.effective_sample_size).median()) > 0.8
    agree(beside, CURVED.truth(X))


def test_a_good_encoder_is_of_use_where_the_posterior_has_two_peaks():
    """X tells |z| alone: the encoder's proposal reaches both peaks, the fitted one no more than one of them."""
    model = SimpleNamespace(
        likelihood="gaussian", noise_std=0.2, decode=lambda z: z.square(),
        encode=lambda x: (torch.zeros(len(x), 1), torch.zeros(len(x), 1)),
    )  # fmt: skip
    x = torch.tensor([[1.5], [2.0], [2.5]])
    line = torch.linspace(-6, 6, 20_001).double()[:, None]
    given = torch.distributions.Normal(line.square(), 0.2).log_prob(x.double().T)
    truth = (given - 0.5 * line.square() - 0.5 * math.log(2 * math.pi)).logsumexp(0) + math.log(12 / 20_000)
    agree(ff.metrics.log_likelihood(model, x, 4000), truth)


@pytest.mark.slow
def test_annealing_agrees_and_more_of_its_samples_count(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 20)
    truth, few = CURVED.truth(X), X[:20]
    found, plain = (ff.metrics.log_likelihood(curved(), few, 200, method=m) for m in ("annealed", "importance"))
    agree(found, truth[:20])
    assert float(found.effective_sample_size.median()) > float(plain.effective_sample_size.median())
    monkeypatch.setattr(annealing, "MOST_DECODED", few.numel() * 4 * 30)
    pieces = ff.metrics.log_likelihood(curved(), few, 100, method="annealed")
    agree(pieces, truth[:20])


@pytest.mark.slow
def test_annealing_depends_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 3)
    one, again, other = (
        ff.metrics.log_likelihood(curved(), X[:3], 4, seed, method="annealed").each for seed in (3, 3, 4)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_seed_fixes_the_samples_and_pieces_change_nothing(monkeypatch):
    one, again, other = (ff.metrics.log_likelihood(curved(), X, 30, seed) for seed in (3, 3, 4))
    assert torch.equal(one.each, again.each)
    assert not torch.equal(one.each, other.each)
    monkeypatch.setattr(importance, "MOST_DECODED", X.numel() * 7)
    torch.testing.assert_close(ff.metrics.log_likelihood(curved(), X, 30, 3).each, one.each)


class _Backward(torch.autograd.Function):
    """A map that has a backward pass and no forward mode."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.tanh(z)

    @staticmethod
    def backward(ctx, grad):
        return grad / torch.cosh(ctx.saved_tensors[0]).square()


def test_a_decoder_without_forward_mode_has_differences():
    model = curved()
    model.decode = lambda z: _Backward.apply(0.5 * z @ CURVED.first) @ CURVED.second
    found, exact = (ff.metrics.log_likelihood(m, X[:5], 50) for m in (model, curved()))
    torch.testing.assert_close(found.each, exact.each, atol=1e-2, rtol=0)


def test_one_sample_has_no_error():
    found = ff.metrics.log_likelihood(curved(), X[:3], 1)
    assert found.effective_sample_size.tolist() == pytest.approx([1, 1, 1])
    assert bool(found.each_standard_error.isnan().all())


@pytest.mark.slow
def test_the_standard_errors_are_right():
    """They predict how far estimates by other seeds lie apart."""
    found = [ff.metrics.log_likelihood(curved(), X[:8], 50, seed) for seed in range(10)]
    spread = torch.stack([one.each for one in found]).std(0)
    expected = torch.stack([one.each_standard_error for one in found]).mean(0)
    assert 0.7 < float((spread / expected).mean()) < 1.4


def test_too_small_an_effective_sample_size_is_told():
    far = curved(lambda x: (torch.full((len(x), 2), 4.0), torch.full((len(x), 2), -2.0)))
    with pytest.warns(UserWarning, match=r"for \d+ of 40 data the effective sample size is too small"):
        found = ff.metrics.log_likelihood(far, X, 50, proposal="encoder")
    assert float(found.effective_sample_size.min()) < 5
    assert found.mean < float(CURVED.truth(X).mean())


WRONG = {
    "proposal": ({"proposal": "prior"}, "proposal must be one of fitted, encoder, got 'prior'"),
    "method": ({"method": "exact"}, "method must be one of importance, annealed, got 'exact'"),
    "both": ({"proposal": "encoder", "method": "annealed"}, "proposal must be fitted with method annealed"),
    "width": ({"model": SimpleNamespace(likelihood="bernoulli", decode=CURVED.decode)}, "encode, or a latent_dim"),
    "decoder": ({"model": SimpleNamespace(likelihood="bernoulli", latent_dim=2, decode=lambda z: z)}, "must decode 40"),
    "fails": ({"model": SimpleNamespace(likelihood="bernoulli", latent_dim=2, decode=lambda z: z @ X)}, "model failed"),
    "nan": (
        {"model": SimpleNamespace(likelihood="bernoulli", latent_dim=2, decode=lambda z: z @ CURVED.first[:, :8] / 0)},
        "likelihood must be finite, got NaN or infinity",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ff.metrics.log_likelihood(**{"model": curved(), "x": X, "num_samples": 3, **changes})
