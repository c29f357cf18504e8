"""Particles along chains with noise, held to sums over a grid that go from latent to latent."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastflow as ff
from fastflow.metrics.likelihood import particles

pytestmark = pytest.mark.usefixtures("rough_fit")

STD, COUNT, STEPS = 0.4, 6, 3
RNG = torch.Generator().manual_seed(2)
SLOPE, OFFSET = torch.randn(1, 12, generator=RNG), torch.randn(12, generator=RNG)


class Bent:
    """Steps that fold the line a little."""

    num_transformations = 1

    def mean(self, z, k, n):
        return z + 0.3 * torch.sin(z + n[:, None])

    def log_std(self, k, n):
        return torch.full((len(k), 1), math.log(STD))


def decode(z):
    return (2 * torch.tanh(0.7 * z @ SLOPE + OFFSET)).view(-1, 1, 3, 4)


VAE = SimpleNamespace(
    likelihood="bernoulli", latent_dim=1, image_shape=(1, 3, 4), decode=decode, parameters=lambda: iter([SLOPE])
)
RUN = SimpleNamespace(vae=VAE, transition=Bent(), config=SimpleNamespace(path_steps=STEPS, latent_dim=1))
K = torch.zeros(COUNT).long()


def drawn():
    """Sequences (N, T + 1, 1, 3, 4) of the model."""
    z, frames = torch.randn(COUNT, 1, generator=RNG), []
    for n in range(STEPS + 1):
        frames.append(torch.bernoulli(torch.sigmoid(decode(z)), generator=RNG))
        z = Bent().mean(z, K, torch.full_like(K, n)) + STD * torch.randn(COUNT, 1, generator=RNG)
    return torch.stack(frames, 1)


FRAMES = drawn()


def truth(known=range(STEPS + 1)):
    """Log p of the frames at some places, by the forward algorithm on a grid."""
    grid = torch.linspace(-7, 7, 701)[:, None]
    logits = decode(grid).flatten(1).double()
    level = -0.5 * grid.double().square().T - 0.5 * math.log(2 * math.pi)
    for n in range(STEPS + 1):
        if n in known:
            x = FRAMES[:, n].flatten(1).double()
            level = level + x @ logits.T - nn.functional.softplus(logits).sum(1)
        if n < STEPS:
            mean = Bent().mean(grid, K[:1].expand(701), torch.full((701,), n)).double()
            step = torch.distributions.Normal(mean, STD).log_prob(grid.double().T)  # from rows to columns
            level = (level[:, :, None] + step).logsumexp(1) + math.log(0.02)
    return level.logsumexp(1) + math.log(0.02)


@pytest.mark.slow
def test_a_bent_chain_agrees_with_sums_over_a_grid():
    found = ff.metrics.sequence_log_likelihood(RUN, FRAMES, K, 500)
    assert bool(((found.each - truth()).abs() < 4 * found.each_standard_error).all())
    assert float(found.each_standard_error.max()) < 0.1
    assert float(found.effective_sample_size.max()) < 500


def test_frames_in_between_needn_t_be_known():
    places = (0, 2)
    found = ff.metrics.sequence_log_likelihood(RUN, FRAMES[:, places], K, 500, places=places)
    assert bool(((found.each - truth(places)).abs() < 4 * found.each_standard_error).all())


@pytest.mark.slow
def test_the_standard_errors_are_cautious():
    """They aren't below the spread of estimates by other seeds, nor several times as large."""
    found = [ff.metrics.sequence_log_likelihood(RUN, FRAMES, K, 60, seed) for seed in range(8)]
    spread = torch.stack([one.each for one in found]).std(0)
    expected = torch.stack([one.each_standard_error for one in found]).mean(0)
    assert 0.3 < float((spread / expected).mean()) < 1.1


@pytest.mark.slow
def test_memory_bounds_what_is_decoded_at_once_and_changes_nothing(monkeypatch):
    one = ff.metrics.sequence_log_likelihood(RUN, FRAMES[:3], K[:3], 20)
    rows = []
    monkeypatch.setattr(particles, "MOST_DECODED", 12 * 7)
    monkeypatch.setattr(VAE, "decode", lambda z: (rows.append(len(z)), decode(z))[1])
    torch.testing.assert_close(ff.metrics.sequence_log_likelihood(RUN, FRAMES[:3], K[:3], 20).each, one.each)
    assert rows.count(7) > STEPS


def test_one_particle_has_no_error():
    found = ff.metrics.sequence_log_likelihood(RUN, FRAMES[:3], K[:3], 1)
    assert found.effective_sample_size.tolist() == [1, 1, 1]
    assert bool(found.each_standard_error.isnan().all())


def test_each_particle_goes_on_as_often_as_its_share_says():
    shares = torch.tensor([[0.5, 0.05], [0.25, 0.05], [0.25, 0.05], [0.0, 0.85]])
    kept = particles._resampled(shares, torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(column, minlength=4) for column in kept.T], 1)
    assert counts[:, 0].tolist() == [2, 1, 1, 0]
    assert int(counts[3, 1]) in (3, 4)
    means = torch.stack([particles._resampled(shares, torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert float((means[:, :, 1] == 3).double().mean()) == pytest.approx(0.85, abs=0.02)


class Exploding:
    """Steps under which the latents of the second transformation soon overflow."""

    num_transformations = 2

    def mean(self, z, k, n):
        return z + 50 * k[:, None] * z**3

    def log_std(self, k, n):
        return torch.full((len(k), 2), -1.0)


@pytest.mark.filterwarnings("ignore:for .* the effective sample size")
def test_a_chain_that_overflows_spoils_no_other(monkeypatch):
    monkeypatch.undo()  # all rounds of the fit: each may lead too far
    matrix = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    vae = SimpleNamespace(
        likelihood="gaussian", latent_dim=2, image_shape=(1, 2, 3), decode=lambda z: (z @ matrix).view(-1, 1, 2, 3),
        noise_std=0.5, parameters=lambda: iter([matrix]),
    )  # fmt: skip
    run = SimpleNamespace(vae=vae, transition=Exploding(), config=SimpleNamespace(path_steps=8, latent_dim=2))
    frames = 0.5 * torch.randn(2, 9, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    alone = ff.metrics.sequence_log_likelihood(run, frames[:1], torch.tensor([0]), 50)
    both = ff.metrics.sequence_log_likelihood(run, frames, torch.tensor([0, 1]), 50)
    assert bool(both.each.isfinite().all())
    assert abs(float(both.each[0] - alone.each[0])) < 5 * float(both.each_standard_error[0])
