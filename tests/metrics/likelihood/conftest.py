"""What the tests of likelihoods share."""

import pytest
from support.moving import small_vae

from fastflow.metrics.likelihood import posterior


@pytest.fixture
def rough_fit(monkeypatch):
    """A proposal that is fitted in few rounds: estimates are right with any, and the test is quick."""
    for name, rounds in (("ROUNDS", 2), ("CENTRINGS", 2), ("PRIOR_DRAWS", 2)):
        monkeypatch.setattr(posterior, name, rounds)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A VAE whose flow can be integrated over its two latents on a grid."""
    return small_vae(tmp_path_factory.mktemp("vae"), latent_dim=2, companion=True, steps=2)
