"""`mlp_jet` on ordinary networks: values, gradients that reach the layers, and what it can't take."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian

import fastflow as ff

ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "softplus": nn.Softplus, "sin": ff.Sin}


def network(activation=nn.Tanh, inputs: int = 3, hidden: tuple[int, ...] = (8, 6)) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, width in zip((inputs, *hidden[:-1]), hidden, strict=True):
        layers += [nn.Linear(fan_in, width), activation()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 1)).double()


def points(batch: int = 5, dim: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(batch, dim, generator=rng).double(), torch.rand(batch, generator=rng).double()


@pytest.mark.parametrize("hidden", [(7,), (8, 6), (5,) * 8], ids=["one layer", "two layers", "eight layers"])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_derivatives_equal_nested_autograd(activation, hidden):
    net, (x, t) = network(activation, 4, hidden), points()
    jet = ff.mlp_jet(net, x, t)

    def u(x: Tensor, t: Tensor) -> Tensor:
        return net(torch.cat((x, t[None])))[0]

    exact = {"rtol": 1e-11, "atol": 1e-12}
    for b in range(len(x)):
        torch.testing.assert_close(jet.u[b], u(x[b], t[b]), **exact)
        torch.testing.assert_close(jet.grad[b], grad(u)(x[b], t[b]), **exact)
        torch.testing.assert_close(jet.laplacian[b], hessian(u)(x[b], t[b]).trace(), **exact)
        torch.testing.assert_close(jet.u_t[b], grad(u, 1)(x[b], t[b]), **exact)
        torch.testing.assert_close(jet.u_tt[b], grad(grad(u, 1), 1)(x[b], t[b]), **exact)


def test_gradients_reach_the_layers():
    net, (x, t) = network(inputs=4), points()
    jet = ff.mlp_jet(net, x, t)
    (jet.u_tt - jet.laplacian).square().mean().backward()
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    nested = ff.mlp_jet(nn.Sequential(*net[:-1], net[-1], nn.Identity()), x, t, fallback="reference")
    (nested.u_tt - nested.laplacian).square().mean().backward()
    expected = [p.grad for p in net.parameters() if p.grad is not None]
    torch.testing.assert_close(found[: len(expected)], expected)


def test_one_time_for_all_equals_the_same_for_each():
    net, (x, _) = network(inputs=4), points()
    torch.testing.assert_close(ff.mlp_jet(net, x, 0.3), ff.mlp_jet(net, x, torch.full((5,), 0.3).double()))


def test_without_time_the_time_derivatives_are_zero():
    net, (x, _) = network(), points()
    jet = ff.mlp_jet(net, x)
    torch.testing.assert_close(jet.u, net(x)[:, 0])
    assert jet.u_t.abs().max() == 0
    assert jet.u_tt.abs().max() == 0


def test_a_last_tanh_and_missing_biases_are_taken():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6, bias=False), nn.SiLU(), nn.Linear(6, 1, bias=False), nn.Tanh()).double()
    x, _ = points()
    jet = ff.mlp_jet(net, x)
    torch.testing.assert_close(jet, ff.mlp_jet(nn.Sequential(*net, nn.Identity()), x, fallback="reference"))


@pytest.mark.parametrize("laplacian", ["exact", "hutchinson", "none"])
@pytest.mark.parametrize("timed", [False, True])
def test_fallback_computes_the_same(laplacian, timed):
    net, (x, t) = network(inputs=3 + timed), points()
    t = t if timed else None

    def compute(net: nn.Sequential, fallback: str | None) -> ff.Jet:
        rng = torch.Generator().manual_seed(3)
        return ff.mlp_jet(net, x, t, laplacian=laplacian, num_probes=2, generator=rng, fallback=fallback)

    torch.testing.assert_close(compute(nn.Sequential(*net, nn.Identity()), "reference"), compute(net, None))


def test_a_sine_of_ones_own_is_taken_if_it_is_one():
    class Sine(nn.Module):
        def __init__(self, frequency: float = 1.0) -> None:
            super().__init__()
            self.frequency = frequency

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(self.frequency * x)

    x, _ = points()
    torch.testing.assert_close(ff.mlp_jet(network(Sine), x), ff.mlp_jet(network(ff.Sin), x))
    with pytest.raises(ff.InputError, match="can't take layer 1"):
        ff.mlp_jet(network(lambda: Sine(30.0)), x)


BAD_NETWORKS = {
    "relu": (lambda: network(nn.ReLU), r"can't take layer 1, ReLU\(\)"),
    "tanh gelu": (lambda: network(lambda: nn.GELU("tanh")), "can't take layer 1"),
    "softplus beta": (lambda: network(lambda: nn.Softplus(2.0)), "can't take layer 1"),
    "mixed": (
        lambda: nn.Sequential(*network()[:3], nn.SiLU(), nn.Linear(6, 1).double()),
        r"one activation for all layers: layer 3 is SiLU\(\), after tanh",
    ),
    "two outputs": (lambda: nn.Sequential(*network()[:4], nn.Linear(6, 2).double()), r"must end in Linear\(\., 1\)"),
    "no end": (lambda: network()[:4], r"must end in Linear\(\., 1\)"),
    "no activation": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double(),
        "can't take layer 1, Linear",
    ),
    "linear alone": (lambda: nn.Sequential(nn.Linear(3, 1)).double(), "must have a hidden layer"),
    "nine layers": (lambda: network(hidden=(4,) * 9), "up to 8 hidden layers, got 9"),
    "widths": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(5, 1)).double(),
        "layer 2 takes 5 inputs, the one before gives 4",
    ),
    "no linear": (lambda: nn.Sequential(nn.Tanh()), "must have Linear layers"),
}


@pytest.mark.parametrize(("make", "message"), BAD_NETWORKS.values(), ids=BAD_NETWORKS.keys())
def test_the_first_layer_that_cannot_be_taken_is_named(make, message):
    with pytest.raises(ff.InputError, match=message):
        ff.mlp_jet(make(), points()[0])


def test_hooks_are_not_skipped_in_silence():
    net = network()
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ff.InputError, match="hooks on layer 0"):
        ff.mlp_jet(net, points()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(5, 4).double()}, r"x must be a tensor of shape \(B, 3\)"),
        ({"x": torch.zeros(5, 3)}, "x must have the parameters' dtype"),
        ({"x": torch.full((5, 3), torch.nan).double()}, "x must be finite"),
        ({"laplacian": "row_sum"}, "laplacian must be one of"),
        ({"fallback": "nested"}, "fallback must be"),
    ],
    ids=["width", "dtype", "nan", "laplacian", "fallback"],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ff.InputError, match=message):
        ff.mlp_jet(network(), **{"x": points()[0], **arguments})
