"""How the search for the study's settings reads its cases."""

from __future__ import annotations

import pytest

from benchmarks.studies.study_settings import SIZE, config

BASE = SIZE.configs["mnist"]


def test_a_case_names_a_variant_and_settings():
    settings = config(BASE, "walk,steps=1000,hidden=32x16,learning_rate=0.01,companion=off")
    assert (settings.transition, settings.steps, settings.hidden) == ("walk", 1000, (32, 16))
    assert (settings.learning_rate, settings.companion) == (0.01, False)
    assert settings.learning_rate_schedule[-1] == (1000, 0.0)
    assert config(BASE, "latent_dim=8").transition == "flow"
    assert config(BASE, "companion").companion


@pytest.mark.parametrize("case", ["pain", "plain,step=3", "plain,steps=many", "hidden=64,64", "companion=True"])
def test_a_case_that_says_nothing_is_refused(case: str):
    with pytest.raises(SystemExit, match="a case is"):
        config(BASE, case)
