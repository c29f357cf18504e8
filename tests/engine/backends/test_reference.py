"""The reference engine against nested autograd and finite differences, in float64: the oracle of all kernels."""

import itertools

import pytest
import torch
from support.networks import nested_jet, random_mlp, random_samples, value
from support.tolerances import FIRST_DIFFERENCES, SAME_FORMULA, SECOND_DIFFERENCES
from torch import Tensor

from fastflow.engine.activations import ACTIVATIONS, OUT_ACTIVATIONS
from fastflow.engine.backends import reference
from fastflow.engine.types import MLP, Jet

SHAPES = {
    "one layer": (1, 4, (5,)),
    "two layers": (3, 4, (6, 5)),
    "deep": (2, 3, (4, 3, 5, 2)),
    "smallest": (1, 1, (1,)),
    "wide latents": (2, 9, (3, 4)),
    "eight layers": (2, 2, (3,) * 8),
}


def parameters(mlp: MLP) -> list[Tensor]:
    return [*mlp.weights, *mlp.bias_jets, mlp.out_weight, mlp.out_bias]


def requiring_grad(mlp: MLP) -> MLP:
    for tensor in parameters(mlp):
        tensor.requires_grad_()
    return mlp


def rebuilt(mlp: MLP, tensors: tuple[Tensor, ...]) -> MLP:
    depth = len(mlp.weights)
    return MLP(tensors[:depth], tensors[depth : 2 * depth], *tensors[2 * depth :], mlp.activation, mlp.out_activation)


def scalar(jet: Jet) -> Tensor:
    """A scalar that weighs every output of every sample differently."""
    rng = torch.Generator().manual_seed(7)
    return sum((torch.randn(x.shape, generator=rng, dtype=x.dtype) * x).sum() for x in jet)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("out_activation", OUT_ACTIVATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jet_equals_nested_autograd(shape, activation, out_activation):
    mlp = random_mlp(*shape, slots=4, activation=activation, out_activation=out_activation)
    samples = random_samples(mlp, 7)
    torch.testing.assert_close(reference.jet(mlp, *samples), nested_jet(mlp, *samples), **SAME_FORMULA)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_gradients_equal_nested_autograd(shape):
    mlp = requiring_grad(random_mlp(*shape, slots=4, activation="gelu"))
    z, index, slot = random_samples(mlp, 5)
    z.requires_grad_()
    inputs = [z, *parameters(mlp)]
    computed = torch.autograd.grad(scalar(reference.jet(mlp, z, index, slot)), inputs)
    expected = torch.autograd.grad(scalar(nested_jet(mlp, z, index, slot)), inputs)
    torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jet_equals_finite_differences(activation):
    mlp = random_mlp(2, 3, (6, 5), slots=3, activation=activation)
    z, index, slot = random_samples(mlp, 4)
    jet = reference.jet(mlp, z, index, slot)
    h, now = 1e-4, torch.zeros((), dtype=torch.float64)
    for b, (k, s) in enumerate(zip(index.tolist(), slot.tolist(), strict=True)):

        def u(x: Tensor, t: Tensor, k: int = k, s: int = s) -> Tensor:
            return value(mlp, x, k, s, t)

        ahead = torch.stack([u(z[b] + h * e, now) for e in torch.eye(3, dtype=z.dtype)])
        behind = torch.stack([u(z[b] - h * e, now) for e in torch.eye(3, dtype=z.dtype)])
        torch.testing.assert_close(jet.grad[b], (ahead - behind) / (2 * h), **FIRST_DIFFERENCES)
        bends = (ahead + behind - 2 * u(z[b], now)) / h**2
        torch.testing.assert_close(jet.laplacian[b], bends.sum(), **SECOND_DIFFERENCES)
        later, earlier = u(z[b], now + h), u(z[b], now - h)
        torch.testing.assert_close(jet.u_t[b], (later - earlier) / (2 * h), **FIRST_DIFFERENCES)
        torch.testing.assert_close(jet.u_tt[b], (later + earlier - 2 * u(z[b], now)) / h**2, **SECOND_DIFFERENCES)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, (4, 3)), (1, 5, (2,))], ids=["two layers", "wide latents"])
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_gradcheck_and_gradgradcheck(shape, activation):
    mlp = random_mlp(*shape, slots=2, activation=activation)
    z, index, slot = random_samples(mlp, 2)
    inputs = tuple(tensor.requires_grad_() for tensor in (z, *parameters(mlp)))

    def function(z: Tensor, *tensors: Tensor) -> Jet:
        return reference.jet(rebuilt(mlp, tensors), z, index, slot)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_rotation_changes_neither_value_nor_gradient():
    mlp = requiring_grad(random_mlp(3, 11, (4, 5), slots=2))
    z, index, slot = random_samples(mlp, 6)
    z.requires_grad_()
    inputs = [z, *parameters(mlp)]
    plain, rotated = (reference.jet(mlp, z, index, slot, rotate=rotate) for rotate in (False, True))
    torch.testing.assert_close(rotated, plain, **SAME_FORMULA)
    torch.testing.assert_close(
        torch.autograd.grad(scalar(rotated), inputs), torch.autograd.grad(scalar(plain), inputs), **SAME_FORMULA
    )


def test_rotation_survives_weights_without_full_rank():
    mlp = random_mlp(1, 7, (4, 5), slots=2)
    mlp.weights[0][0, 2] = 2 * mlp.weights[0][0, 0]
    mlp.weights[0][0, 3] = 0
    samples = random_samples(mlp, 3)
    torch.testing.assert_close(
        reference.jet(mlp, *samples, rotate=True), reference.jet(mlp, *samples, rotate=False), **SAME_FORMULA
    )


def test_hutchinson_is_the_mean_over_its_probes():
    mlp = random_mlp(2, 3, (5, 4), slots=2)
    samples = random_samples(mlp, 4)
    exact = reference.jet(mlp, *samples)
    all_signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    over_all = reference.jet(mlp, *samples, "hutchinson", all_signs)
    torch.testing.assert_close(over_all, exact, **SAME_FORMULA)
    one = reference.jet(mlp, *samples, "hutchinson", all_signs[1:2])
    assert (one.laplacian - exact.laplacian).abs().max() > 1e-3


def test_laplacian_none_leaves_the_rest_alone():
    mlp = random_mlp(2, 3, (5, 4), slots=2)
    samples = random_samples(mlp, 4)
    exact, none = reference.jet(mlp, *samples), reference.jet(mlp, *samples, "none")
    torch.testing.assert_close(none, exact._replace(laplacian=torch.zeros(4, dtype=torch.float64)), **SAME_FORMULA)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_row_sums_equal_the_hessians(shape):
    mlp = random_mlp(*shape, slots=2)
    samples = random_samples(mlp, 3)
    torch.testing.assert_close(
        reference.jet(mlp, *samples, "row_sum"), nested_jet(mlp, *samples, row_sum=True), **SAME_FORMULA
    )


def test_the_laplacian_is_the_trace_and_not_the_row_sums():
    mlp = random_mlp(1, 64, (64, 64), slots=1)
    samples = random_samples(mlp, 16)
    trace = reference.jet(mlp, *samples).laplacian
    row_sums = reference.jet(mlp, *samples, "row_sum").laplacian
    assert trace.shape == (16,)
    assert row_sums.shape == (16, 64)
    assert trace.square().mean().sqrt() > 3 * row_sums.square().mean().sqrt()


@pytest.mark.parametrize("batch", [0, 1, 63, 129])
def test_a_samples_jet_does_not_depend_on_its_batch(batch):
    """The first public code summed u_tt over the batch."""
    mlp = random_mlp(5, 4, (6, 5), slots=3)
    z, index, slot = random_samples(mlp, batch)
    whole = reference.jet(mlp, z, index, slot)
    assert [x.shape for x in whole] == [(batch,), (batch, 4), (batch,), (batch,), (batch,)]
    for b in range(0, batch, 31):
        alone = reference.jet(mlp, z[b : b + 1], index[b : b + 1], slot[b : b + 1])
        torch.testing.assert_close(Jet(*(x[b : b + 1] for x in whole)), alone, **SAME_FORMULA)


def test_float32_is_as_accurate_as_its_rounding():
    wide = random_mlp(2, 12, (64, 64), slots=3)
    z, index, slot = random_samples(wide, 256)
    narrow = rebuilt(wide, tuple(tensor.float() for tensor in parameters(wide)))
    for name, exact, rounded in zip(
        Jet._fields,
        reference.jet(wide, z, index, slot),
        reference.jet(narrow, z.float(), index, slot),
        strict=True,
    ):
        error = (rounded.double() - exact).abs().max() / exact.abs().max()
        assert error < 5e-6, f"{name}: {error:.1e}"


def test_residual_is_the_linear_quadratic_form():
    mlp = random_mlp(2, 3, (5,), slots=2)
    samples = random_samples(mlp, 4)
    jet = reference.jet(mlp, *samples)
    coefficients = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = torch.arange(4.0, dtype=torch.float64)
    c = coefficients.unbind(1)
    expected = c[0] * jet.u + c[1] * jet.u_t + c[2] * jet.u_tt + c[3] * jet.laplacian + c[4] * (jet.grad**2).sum(1)
    torch.testing.assert_close(reference.residual(jet, coefficients, source), expected + source, **SAME_FORMULA)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_stay_finite_far_out(activation):
    mlp = random_mlp(1, 2, (4, 4), slots=1, activation=activation, dtype=torch.float32)
    z = torch.tensor([[1e4, -1e4], [-3e3, 2.0], [0.0, 0.0]])
    jet = reference.jet(mlp, z, torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    assert all(x.isfinite().all() for x in jet)
