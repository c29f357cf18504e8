"""The rate of change of a generator's images: forward mode, and finite differences without it."""

import copy
import warnings

import pytest
import torch
from support.runs import WEIGHT, metrics, sigmoid_generator, small_run
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import fastflow as ff
from fastflow.generators import from_callable, load
from fastflow.generators.change import Way, generator_change
from fastflow.generators.vae import MLPVAE, ConvVAE


class Square(torch.autograd.Function):
    """An operator of somebody's own, with a backward that has none itself, and no jvp."""

    @staticmethod
    def forward(x):
        return x.sigmoid()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
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


@pytest.mark.slow
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


def layers(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), *middle, nn.Linear(16, 36), nn.Sigmoid(), nn.Unflatten(1, (1, 6, 6)))


class Channels(nn.Module):
    """A layer of feature maps (B, 4, 2, 2) on features (B, 16)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.unflatten(1, (4, 2, 2))).flatten(1)


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.options, self.inner = {"use_reentrant": use_reentrant}, nn.Linear(16, 16)

    def forward(self, x):
        return checkpoint(lambda h: self.inner(h).tanh(), x, **self.options)


def warped(x):
    grid = functional.affine_grid(torch.eye(2, 3).to(x).repeat(len(x), 1, 1) * x.mean((1, 2, 3))[:, None, None].cos(),
                                  [len(x), 4, 2, 2], align_corners=False)  # fmt: skip
    return functional.grid_sample(x, grid, align_corners=False)


class Warp(nn.Module):
    def forward(self, x):
        return warped(x)


GENERATORS = {
    "relu": (lambda: layers(nn.ReLU()), Way.FORWARD),
    "group": (lambda: layers(Channels(nn.GroupNorm(2, 4)), nn.Tanh()), Way.FORWARD),
    "batch": (lambda: layers(nn.BatchNorm1d(16), nn.Tanh()), Way.FORWARD),
    "layer": (lambda: layers(nn.LayerNorm(16), nn.Tanh()), Way.ELEMENTARY),
    "layer and corners": (lambda: layers(nn.LayerNorm(16), nn.ReLU()), Way.ELEMENTARY),
    "instance": (lambda: layers(Channels(nn.InstanceNorm2d(4, affine=True)), nn.Tanh()), Way.ELEMENTARY),
    "gated": (lambda: layers(nn.Linear(16, 32), nn.GLU()), Way.ELEMENTARY),
    "hard sigmoid": (lambda: layers(nn.Hardsigmoid()), Way.ELEMENTARY),
    "attention": (lambda: layers(nn.Unflatten(1, (4, 4)), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
                                 nn.Flatten()), Way.ELEMENTARY),
    "warp": (lambda: layers(Channels(Warp())), Way.REVERSE),
    "checkpoint": (lambda: layers(Checkpointed(False)), Way.REVERSE),
    "scripted": (lambda: torch.jit.script(layers(nn.LayerNorm(16), nn.ReLU())), Way.DIFFERENCES),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:forward-mode", "ignore:.*torch.jit:DeprecationWarning", "ignore:enable_nested")
@pytest.mark.parametrize("closed", [False, True], ids=["module", "function"])
@pytest.mark.parametrize(("make", "way"), GENERATORS.values(), ids=GENERATORS.keys())
def test_the_way_taken_is_right(make, way, closed):
    """Its change and its gradients, against differences of a copy in float64."""
    net = make().eval()
    generator = from_callable((lambda z: net(z)) if closed else net, 4)
    if closed and way is Way.DIFFERENCES:
        return  # only a copy in float64 tells what is wrong with a scripted network of corners
    assert generator.forward_mode == way
    double = copy.deepcopy(net).double()
    for parameter in double.parameters():  # one by one: scripted modules have no requires_grad_
        parameter.requires_grad_(False)
    z, v, p, q = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    h, k = 1e-5, 1e-4

    def loss(z, v):
        return ((double(z + h * v) - double(z - h * v)) / (2 * h)).square().sum()

    leaves = z.float().requires_grad_(), v.float().requires_grad_()
    _, change = generator_change(generator.decode, *leaves, forward_mode=generator.forward_mode)
    loss_gradients = torch.autograd.grad(change.square().sum(), leaves, allow_unused=True)
    assert float(change.detach().square().sum()) == pytest.approx(float(loss(z, v)), rel=3e-3)
    expected = float(loss(z, v + k * q) - loss(z, v - k * q)) / (2 * k)
    assert float((loss_gradients[1] * q).sum()) == pytest.approx(expected, rel=2e-2)
    if way is not Way.DIFFERENCES:
        expected = float(loss(z + k * p, v) - loss(z - k * p, v)) / (2 * k)
        assert float((loss_gradients[0] * p).sum()) == pytest.approx(expected, rel=5e-3, abs=1e-3 * float(loss(z, v)))


def test_another_way_says_so_once_in_one_line():
    generator = from_callable(layers(nn.LayerNorm(16), nn.Tanh()), 4)
    with pytest.warns(UserWarning, match=r"is wrong \(.* is off by .*%\).*elementary.*exact") as warned:
        assert generator.forward_mode
    (message,) = [str(warning.message) for warning in warned]
    assert "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generator.forward_mode is Way.ELEMENTARY


def test_a_wrong_backward_is_named():
    class Wrong(Square):
        @staticmethod
        @once_differentiable
        def backward(ctx, gradient):
            return gradient * ctx.saved_tensors[0]

    generator = from_callable(lambda z: Wrong.apply(z @ WEIGHT.to(z)).unflatten(1, (1, 6, 6)), 4)
    with pytest.warns(UserWarning, match=r"even its first derivative is wrong \(autograd's gradient is off by"):
        assert not generator.forward_mode


@pytest.mark.filterwarnings("ignore:forward-mode", "ignore:None of the inputs have requires_grad")
def test_a_backward_that_fails_is_told_before_the_training(tmp_path):
    generator = from_callable(layers(Checkpointed(True)), 4)
    with pytest.raises(ff.InputError, match=r"can't be learned on: .*use_reentrant=False"):
        small_run(tmp_path / "run", generator)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("net", [MLPVAE((1, 4, 4), 3, (8,)), ConvVAE((1, 4, 4), 3, (4, 4))], ids=["mlp", "conv"])
def test_gradients_of_the_change_reach_a_decoder_that_trains(net):
    """With respect to its own parameters, as a VAE's training uses them."""
    net = net.double()
    z, v = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)

    def loss():
        return generator_change(net.decode, z, v)[1].square().sum()

    parameters = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    h, moved = 1e-6, []
    shifts = [torch.randn(p.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double) for p in parameters]
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, shift in zip(parameters, shifts, strict=True):
                parameter += sign * h * shift
        moved.append(float(loss().detach()))
    expected = (moved[0] - moved[1]) / (2 * h)
    found = sum(float((g * s).sum()) for g, s in zip(gradients, shifts, strict=True) if g is not None)
    assert found == pytest.approx(expected, rel=1e-5)
