"""The table of a study: paired differences, and verdicts that say what the numbers say."""

import math

import pytest

from fastflow.studies.likelihood.table import OTHERS, Results, differences, is_measured, table


def results(difference):
    config = {
        "transformations": ["rotation"], "network": "mlp", "widths": [8], "latent_dim": 2, "batch_size": 4, "steps": 4,
        "path_steps": 2, "likelihood": "bernoulli",
    }  # fmt: skip
    found = {}
    names = ("start", "moved", "pair-1", "pair-2", "sequence-2", "unknown")
    for seed, noise in enumerate((0.0, 0.1, -0.1)):
        level = 10.0 * seed  # what the seeds differ by is gone from paired differences
        for group in ("paths", "pairs"):
            found["digits", group, "plain", seed] = dict.fromkeys(names, level) | {"path_error": 0.2}
            ours = dict.fromkeys(names, level + difference + noise) | {"path_error": 0.1}
            found["digits", group, "companion", seed] = ours
            found["digits", group, "walk", seed] = dict.fromkeys(names, level + 1.0) | {"path_error": 0.3}
    return Results("own", 3, (1, 2), {"digits": {"train": "a", "test": "b", "config": config}}, found)


def test_differences_are_paired():
    found = differences(results(2.0), "digits", "paths", "start", "plain")
    assert list(found) == ["walk", "companion"]
    assert found["companion"].mean == pytest.approx(2.0)
    assert found["companion"].standard_error == pytest.approx(0.1 / math.sqrt(3))


def test_the_verdict_names_every_rival():
    text = table(results(3.0), drawn=False)
    said = "Sequences x_0..x_2, trained on whole paths: `companion` has, in nats above `plain` +3.0 ± 0.1 (p < 0.001)"
    assert f"{said}, `walk` +2.0 ± 0.1 (p < 0.001)." in text
    assert "`companion` errs along its paths 0.500 ± 0.000 times as much as `plain`" in text


def test_a_difference_that_may_be_chance_is_undecided():
    assert "above `plain` +0.0 ± 0.1 (p = 1.000, undecided), `walk` -1.0 ± 0.1 (p = 0.007)" in table(
        results(0.0), drawn=False
    )


def test_tables_say_how_far_ours_lies_above_the_others():
    lines = table(results(3.0), drawn=False).splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("`companion` above each other variant"))
    assert lines[row + 4].startswith("| `plain` | +3.0 ± 0.1, p < 0.001 |")
    assert lines[row + 5].startswith("| `walk` | +2.0 ± 0.1, p < 0.001 |")


def test_a_seed_without_its_plain_twin_is_in_no_difference():
    half = results(2.0)
    del half.found["digits", "paths", "plain", 1]
    assert differences(half, "digits", "paths", "start", "plain")["companion"].seeds == 2


def test_results_are_whole_if_their_measures_are_numbers():
    whole = {"start": 1.0, "pair-1": 2.0, **dict.fromkeys(OTHERS, 0.5)}
    assert is_measured(whole)
    assert is_measured({"failed": "why"})
    assert is_measured({k: v for k, v in whole.items() if k != "training_cpu_s"})  # measured again
    for broken in (
        {"failed": 1},
        {**whole, "pair-1": "2"},
        {**whole, "path_error": True},
        {k: v for k, v in whole.items() if k != "start"},
    ):
        assert not is_measured(broken)
