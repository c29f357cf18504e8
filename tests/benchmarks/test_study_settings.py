"""How the search for the study's settings reads its cases."""

from __future__ import annotations

import pytest

from benchmarks.studies.study_settings import SIZE, config

BASE = SIZE.configs["mnist"]


def test_a_case_names_a_variant_and_settings():
    settings = config(BASE, "plain,steps=1000,hidden=32x16,learning_rate=0.01")
    assert (settings.flow_weight, settings.steps, settings.hidden, settings.learning_rate) == (
        0.0,
        1000,
        (32, 16),
        0.01,
    )
    assert settings.learning_rate_schedule == ((700, 1.0), (1000, 0.1))
    assert config(BASE, "latent_dim=8").flow_weight == 1
    assert config(BASE, "companion").companion


@pytest.mark.parametrize("case", ["pain", "plain,step=3", "plain,steps=many", "hidden=64,64", "companion=True"])
def test_a_case_that_says_nothing_is_refused(case: str):
    with pytest.raises(SystemExit, match="a case is"):
        config(BASE, case)
