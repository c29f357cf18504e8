"""The rate of change of a generator's images: forward mode, and finite differences without it."""

import warnings

import pytest
import torch
from support.runs import WEIGHT, metrics, sigmoid_generator, small_run
from torch import nn

from fastflow.generators import from_callable, load
from fastflow.generators.change import generator_change


class Square(torch.autograd.Function):
    """An operator of somebody's own, with a backward and no jvp."""

    @staticmethod
    def forward(x):
        return x.sigmoid()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gradient):
        (output,) = ctx.saved_tensors
        return gradient * output * (1 - output)


def opaque_images(z):
    return Square.apply(z @ WEIGHT.to(z)).unflatten(1, (1, 6, 6))


def test_generator_without_forward_mode_says_so_once():
    generator = from_callable(opaque_images, 4)
    with pytest.warns(UserWarning, match=r"forward-mode.*failed .*central finite differences") as warned:
        assert not generator.forward_mode
    (message,) = [str(warning.message) for warning in warned if "finite differences" in str(warning.message)]
    assert "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not generator.forward_mode
    assert sigmoid_generator().forward_mode


def test_finite_differences_give_the_rate_of_change_and_its_gradients():
    """To the direction; with respect to z a difference's gradient would be noise wherever the generator has corners."""
    z, direction = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float32, 2e-3), (torch.float64, 1e-7)):
        found = {}
        for decode, forward_mode in ((opaque_images, False), (sigmoid_generator().decode, True)):
            leaves = [tensor.to(dtype).requires_grad_() for tensor in (z, 0.1 * direction)]
            images, change = generator_change(decode, *leaves, forward_mode=forward_mode)
            (gradient,) = torch.autograd.grad(change.square().sum(), leaves[1:], retain_graph=True)
            (through_images,) = torch.autograd.grad(images.square().sum(), leaves[:1])
            found[forward_mode] = [images, change, gradient, through_images]
        for value, expected in zip(found[False], found[True], strict=True):
            error = (value - expected).norm() / expected.norm()
            assert error < tolerance, (dtype, error)


def test_finite_differences_of_a_network_with_corners():
    vae = load("digits-vae")
    z, direction = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    _, expected = generator_change(vae.decode, z, direction)
    _, change = generator_change(vae.decode, z, direction, forward_mode=False)
    errors = (change - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert errors.mean() < 3e-3


def test_finite_differences_of_a_resting_potential_are_zero():
    z = torch.randn(2, 4)
    _, change = generator_change(opaque_images, z, torch.zeros(2, 4), forward_mode=False)
    assert torch.equal(change, torch.zeros(2, 1, 6, 6))


def test_generator_without_forward_mode_trains_as_one_that_has_it(tmp_path):
    with pytest.warns(UserWarning, match="central finite differences"):
        small_run(tmp_path / "opaque", from_callable(opaque_images, 4))
    small_run(tmp_path / "exact")
    for line, expected in zip(metrics(tmp_path / "opaque"), metrics(tmp_path / "exact"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert line["jacobian"] == pytest.approx(expected["jacobian"], abs=1e-2)


def test_attention_has_a_forward_mode():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def decode(z):
        x = z.unflatten(1, (3, 4))
        return nn.functional.scaled_dot_product_attention(x, x, attention(x, x, x)[0]).sigmoid()[:, None]

    generator = from_callable(decode, 12, dtype=torch.float32)
    assert generator.forward_mode
    z, direction = torch.randn(2, 3, 12)
    _, change = generator_change(decode, z, direction)
    _, expected = generator_change(decode, z, direction, forward_mode=False)
    assert (change - expected).norm() < 1e-2 * expected.norm()
