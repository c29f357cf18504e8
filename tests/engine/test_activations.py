"""The plain activations where formulas cancel: relative errors of values and three derivatives against closed forms."""

import math

import pytest
import torch

import fastflow as ff
from fastflow.engine.activations import derivatives


def gelu(a):
    """The value of a float and three derivatives; erfc keeps the digits of the left tail."""
    cdf, density = 0.5 * math.erfc(-a / math.sqrt(2)), math.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    return [a * cdf, cdf + a * density, density * (2 - a * a), density * a * (a * a - 4)]


def logistic(a):
    s = 1 / (1 + math.exp(-a))
    first = s * (1 / (1 + math.exp(a)))
    return s, first, first * (1 - 2 * s), first * (1 - 6 * first)


def softplus(a):
    return [math.log1p(math.exp(-abs(a))) + max(a, 0), *logistic(a)[:3]]


def silu(a):
    s, first, second, third = logistic(a)
    return [a * s, s + a * first, 2 * first + a * second, 3 * second + a * third]


CASES = {
    "gelu": (gelu, torch.float64, (-30.0, -12.5, -9.5, -9.0, -6.25, -3.5, -2.5, 0.75, 3.0), 2e-13),
    "gelu single": (gelu, torch.float32, (-12.0, -9.0, -5.5, -3.5), 2e-6),
    "softplus": (softplus, torch.float32, (-15.0, -3.0, -0.5, 0.0, 0.5, 5.0, 10.0, 14.0, 16.0), 1e-6),
    "silu": (silu, torch.float32, (-15.0, -3.0, -0.5, 0.5, 5.0, 10.0, 14.0, 16.0), 1e-6),
    "softplus double": (softplus, torch.float64, (-30.0, -3.0, 0.0, 5.0, 33.0), 2e-15),
}


@pytest.mark.parametrize(("function", "dtype", "points", "tolerance"), CASES.values(), ids=CASES.keys())
def test_tails_keep_their_digits(function, dtype, points, tolerance):
    a = torch.tensor(points, dtype=dtype, requires_grad=True)
    parts = derivatives(function.__name__, a)
    ones = [torch.autograd.grad(part.sum(), a, retain_graph=True)[0] for part in parts]
    expected = torch.tensor([function(x) for x in points], dtype=torch.double).T
    for found, right in zip((*parts, *ones), (*expected[:3], *expected[1:]), strict=True):
        errors = (found.detach().double() - right).abs()
        assert bool((errors <= tolerance * right.abs() + 1e-300).all()), (points, errors / right.abs())


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_network_of_one_unit_has_the_tails_of_gelu(backend):
    points = (-30.0, -12.5, -9.5, -9.0, -6.25, -3.5)
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.GELU(), torch.nn.Linear(1, 1)).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, float(parameter.ndim == 2))
    with ff.use_backend(backend):
        x = torch.tensor(points, dtype=torch.double)[:, None].requires_grad_()
        jet = ff.mlp_jet(net, x)
        (third,) = torch.autograd.grad(jet.laplacian.sum(), x)
    found = torch.stack((jet.u, jet.grad[:, 0], jet.laplacian, third[:, 0])).detach()
    expected = torch.tensor([gelu(a) for a in points], dtype=torch.double).T
    torch.testing.assert_close(found, expected, rtol=2e-13, atol=0)


def test_softplus_in_eight_layers_that_saturate():
    """At z = 0 all units are at 14 or above, where 1 - s has one digit in float32."""
    torch.manual_seed(0)
    double = ff.PotentialBank(1, 3, (8,) * 8, activation="softplus", out_activation="identity", time="none").double()
    with torch.no_grad():
        for weight, bias in zip(double.weights, double.biases, strict=True):
            weight.copy_((weight.abs() / weight.abs().sum(2, keepdim=True)).float())
            bias.fill_(0)
        double.biases[0].fill_(14)
    single = ff.PotentialBank(1, 3, (8,) * 8, activation="softplus", out_activation="identity", time="none")
    single.load_state_dict({name: value.float() for name, value in double.state_dict().items()})
    double.load_state_dict({name: value.double() for name, value in single.state_dict().items()})
    jets = []
    with ff.use_backend("reference"):
        for bank in (single, double):
            z = torch.zeros(2, 3, dtype=bank.out_bias.dtype, requires_grad=True)
            jet = bank.jet(z, 0.0, 0)
            (third,) = torch.autograd.grad(jet.laplacian.sum(), z)
            jets.append([x.detach().double() for x in (jet.u, jet.grad, jet.laplacian, third)])
    for found, expected in zip(*jets, strict=True):
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
