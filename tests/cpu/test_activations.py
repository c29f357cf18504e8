"""The native activations over the range of float32, sparsely, and around zero in float64."""

import pytest
import torch
from cpu.activation_error import all_floats, largest_errors

from fastflow.engine.activations import ACTIVATIONS

SINGLE = 1e-6  # a few roundings; a derivative of tanh is a polynomial in its value
DOUBLE = 5e-15


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32(activation):
    for a in all_floats(stride=20011):
        assert max(largest_errors(activation, a)) <= SINGLE


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float64(activation):
    a = torch.cat(
        (torch.linspace(-40, 40, 40001, dtype=torch.float64), torch.logspace(-300, 5, 2001, dtype=torch.float64))
    )
    assert max(largest_errors(activation, a)) <= DOUBLE
    assert max(largest_errors(activation, -a)) <= DOUBLE
