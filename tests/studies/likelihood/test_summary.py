"""A study's statistics, against SciPy and published numbers."""

import math

import pytest
import torch
from scipy import stats

from fastflow.studies.likelihood.summary import Results, differences, table
from fastflow.studies.statistics import Estimate, estimate, holm

VALUES = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).add(0.8).tolist()


def test_estimate_is_students_test():
    found, expected = estimate(VALUES), stats.ttest_1samp(VALUES, 0.0)
    assert found.mean == pytest.approx(sum(VALUES) / 7)
    assert found.standard_error == pytest.approx(float(stats.sem(VALUES)))
    assert found.p == pytest.approx(float(expected.pvalue))
    assert found.seeds == 7


def test_one_seed_has_no_error():
    found = estimate([3.0])
    assert found.mean == 3.0
    assert math.isnan(found.standard_error)
    assert math.isnan(found.p)


def test_values_without_spread_prove_nothing():
    """Three seeds that each cover one attribute more: as counts may, by chance."""
    for value in (1.0, 0.1):
        found = estimate([value] * 3)
        assert found.mean == pytest.approx(value)
        assert math.isnan(found.p)
    assert estimate([0.0] * 3).p == 1.0


def test_holm():
    """By hand: the smallest of four times 4, the next times 3, never below the one before, at most 1."""
    given = [0.04, 0.01, 0.6, 0.02, math.nan]
    corrected = [e.p for e in holm([Estimate(1.0, 1.0, p, 5) for p in given])]
    assert corrected[:4] == pytest.approx([0.08, 0.04, 0.6, 0.06])
    assert math.isnan(corrected[4])


def results(difference):
    config = {
        "transformations": ["rotation"], "network": "mlp", "widths": [8], "latent_dim": 2, "batch_size": 4, "steps": 4,
        "path_steps": 2, "likelihood": "bernoulli",
    }  # fmt: skip
    found = {}
    for seed, noise in enumerate((0.0, 0.1, -0.1)):
        level = 10.0 * seed  # what the seeds differ by is gone from paired differences
        likelihoods = ("start", "moved", "separate", "pair")
        found["digits", "plain", seed] = dict.fromkeys(likelihoods, level) | {"path_error": 0.2}
        found["digits", "flows", seed] = dict.fromkeys(likelihoods, level + difference + noise) | {"path_error": 0.1}
        found["digits", "plain", seed]["separate"] -= 5.0
    return Results("own", 3, {"digits": {"train": "a", "test": "b", "config": config}}, found)


def test_differences_are_paired():
    found = differences(results(2.0), "digits", "start")
    assert list(found) == ["flows"]
    assert found["flows"].mean == pytest.approx(2.0)
    assert found["flows"].standard_error == pytest.approx(0.1 / math.sqrt(3))


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(2.0, "log p(x_0) holds here: +2.0"), (-2.0, "does not hold here, they lower it: -2.0"), (0.0, "is undecided")],
)
def test_the_verdict_is_what_the_numbers_say(difference, verdict):
    text = table(results(difference), drawn=False)
    assert verdict in text
    assert f"log p(x_0, x_n | k) above plain's log p(x_0) + log p(x_n) holds here: {difference + 5:+.1f}" in text
    assert "`flows` errs 0.500 ± 0.000 times as much as the plain VAE" in text


def test_a_seed_without_its_plain_twin_is_in_no_difference():
    half = results(2.0)
    del half.found["digits", "plain", 1]
    assert differences(half, "digits", "start")["flows"].seeds == 2
