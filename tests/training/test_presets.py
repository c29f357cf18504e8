"""Presets: the settings of the paper, and what is refused."""

import json

import pytest

from fastflow.core.errors import InputError
from fastflow.training.flow_config import DiscoverConfig
from fastflow.training.presets import PRESETS, preset


@pytest.mark.parametrize("name", ["anime-sngan", "mnist-sngan", "biggan", "stylegan2", "vae-mnist", "vae-dsprites"])
def test_presets_have_the_papers_objective(name):
    config = preset(name)
    assert (config.learning_rate, config.residual, config.jacobian, config.pde) == (1e-4, "square", "square", "wave")
    terms = ("pde", "initial", "jacobian", "classifier", "guidance")
    assert [getattr(config, f"{term}_weight") for term in terms] == [1.0] * 5
    assert (config.out_activation == "identity") == (name == "stylegan2")
    assert DiscoverConfig(**json.loads(json.dumps(config.__dict__))) == config


def test_presets_are_listed_and_unknown_ones_refused():
    assert len(PRESETS) == 6
    assert (PRESETS["anime-sngan"].num_potentials, PRESETS["anime-sngan"].steps) == (32, 120_000)
    assert (PRESETS["vae-mnist"].num_potentials, PRESETS["vae-mnist"].batch_size) == (16, 256)
    with pytest.raises(InputError, match=r"preset must be one of anime-sngan, .*, got 'anime'"):
        preset("anime")
