"""The table of a study: paired differences, and verdicts that say what the numbers say."""

import math

import pytest

from fastflow.studies.likelihood.table import Results, differences, table


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
