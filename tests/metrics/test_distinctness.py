"""Distinctness: a new classifier names changes that differ, and only those."""

import pytest
import torch

from fastflow.metrics.distinctness import measure_distinctness
from fastflow.metrics.pairs import Pairs


def moved_blobs(same):
    """Pairs whose second image is brighter in a column of its own for each of three classes, or in any column."""
    rng = torch.Generator().manual_seed(0)
    index = torch.arange(240) % 3
    column = torch.randint(3, (240,), generator=rng) if same else index
    images = torch.rand(240, 1, 8, 8, generator=rng) / 2
    change = torch.zeros_like(images)
    change[torch.arange(240), :, :, 2 * column] = 0.1
    return Pairs(images, images + change, index)


@pytest.mark.slow
def test_classifier_names_distinct_changes_and_only_those():
    assert measure_distinctness(moved_blobs(same=False), 3, seed=0).accuracy == 1
    assert measure_distinctness(moved_blobs(same=True), 3, seed=0, epochs=5).accuracy < 0.5


@pytest.mark.slow
def test_classifier_is_tested_on_pairs_that_it_was_not_trained_on():
    """Labels that are noise can be learned by heart, but not predicted."""
    pairs = moved_blobs(same=True)
    noise = Pairs(pairs.images, pairs.next_images, torch.arange(240).roll(1) % 3)
    found = measure_distinctness(noise, 3, seed=0, epochs=40)
    assert found.accuracy < 0.55
    # The confusion matrix has a row for each true class, however often it is named.
    assert torch.tensor(found.confusion).sum(1).tolist() == [40, 40, 40]
    assert torch.tensor(found.confusion).sum(0).tolist() != [40, 40, 40]
