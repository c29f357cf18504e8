"""What the tests of likelihoods share."""

import pytest

from fastflow.metrics.likelihood import posterior


@pytest.fixture
def rough_fit(monkeypatch):
    """A proposal that is fitted in few rounds: estimates are right with any, and the test is quick."""
    for name, rounds in (("ROUNDS", 2), ("CENTRINGS", 2), ("PRIOR_DRAWS", 2)):
        monkeypatch.setattr(posterior, name, rounds)
