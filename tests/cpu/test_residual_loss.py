"""The native module's residual loss and its gradients, against the reference in float64."""

import pytest
import torch
from support import tolerances
from support.native_engine import Engine, attach, check_all, parameters, rebuild
from support.networks import random_mlp, random_samples

from fastflow.engine.activations import OUT_ACTIVATIONS
from fastflow.engine.backends import reference


@pytest.mark.parametrize("out_activation", OUT_ACTIVATIONS)
@pytest.mark.parametrize("with_gradient_term", [False, True])
def test_residual_loss(out_activation, with_gradient_term):
    mlp = random_mlp(3, 5, (7, 6, 8), slots=4, out_activation=out_activation)
    z, index, slot = random_samples(mlp, 70)
    rng = torch.Generator().manual_seed(4)
    coefficients = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    if not with_gradient_term:
        coefficients[:, 4] = 0
    source = torch.randn(70, generator=rng, dtype=torch.float64)
    inputs = attach([z, *parameters(mlp), coefficients, source])
    jet = reference.jet(rebuild(mlp, inputs[1:-2]), inputs[0], index, slot)
    residual = reference.residual(jet, inputs[-2][index], inputs[-1])
    exact = torch.autograd.grad(residual.square().mean() * 0.7, inputs)

    loss, residuals, gradients = Engine().residual_backward(mlp, z, index, slot, coefficients, source, 0.7)
    assert loss == pytest.approx(residual.square().mean().item(), rel=tolerances.NATIVE)
    check_all([residuals], [residual])
    check_all(gradients, exact)
    loss, residuals = Engine().residual(mlp, z, index, slot, coefficients, source)
    assert loss == pytest.approx(residual.square().mean().item(), rel=tolerances.NATIVE)
    check_all([residuals], [residual])
