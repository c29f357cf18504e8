"""`mlp_jet` on ordinary networks: values, gradients that reach the layers, and what it can't take."""

import pytest
import torch
from support.memory import extra_memory
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


@pytest.mark.slow
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
    x, _ = points()
    torch.testing.assert_close(ff.mlp_jet(network(Sine), x), ff.mlp_jet(network(ff.Sin), x))


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


HOOKS = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
         "register_full_backward_pre_hook"]  # fmt: skip


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", [0, 1, 5, None])
def test_hooks_are_not_skipped_in_silence(kind, place):
    net = nn.Sequential(*network(), nn.Tanh())
    getattr(net if place is None else net[place], kind)(lambda *_: None)
    with pytest.raises(ff.InputError, match="net has hooks" + ("" if place is None else f" on layer {place}")):
        ff.mlp_jet(net, points()[0])


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_of_all_modules_are_not_skipped_in_silence(kind):
    removable = getattr(nn.modules.module, f"register_module_{kind}")(lambda *_: None)
    try:
        with pytest.raises(ff.InputError, match="a hook is registered for all modules"):
            ff.mlp_jet(network(), points()[0])
    finally:
        removable.remove()
    ff.mlp_jet(network(), points()[0])


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum(-1, keepdim=True)


class Sine(nn.Module):
    def __init__(self, frequency: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(frequency)) if learned else frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


def replaced(place: int, module: nn.Module) -> nn.Sequential:
    layers = list(network())
    layers[place] = module
    return nn.Sequential(*layers).double()


def rewired() -> nn.Sequential:
    net = network()
    net[0].forward = lambda x: torch.zeros(len(x), 8).double()
    return net


# Networks that look like one that the engine takes, and compute something else.
IMPOSTORS = {
    "linear": (lambda: replaced(0, Doubled(3, 8)), "Linear layer at place 0, got Doubled"),
    "linear of an instance": (rewired, "Linear layer at place 0"),
    "sequential": (lambda: Residual(*network()), "Residual with a forward of its own"),
    "softplus threshold": (lambda: network(lambda: nn.Softplus(threshold=0.1)), "can't take layer 1, Softplus"),
    "sine of another frequency": (lambda: network(lambda: Sine(30.0)), "can't take layer 1, Sine"),
    "sine of a learned frequency": (lambda: network(lambda: Sine(1.0, learned=True)), "can't take layer 1, Sine"),
}


@pytest.mark.parametrize(("make", "message"), IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_what_computes_another_network_is_refused(make, message):
    with pytest.raises(ff.InputError, match=message):
        ff.mlp_jet(make(), points()[0])


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_are_taken(name):
    net, (x, _) = network(), points()
    getattr(nn.utils.parametrizations, name)(net[2])
    net.eval()
    jet = ff.mlp_jet(net, x)
    torch.testing.assert_close(jet.u, net(x)[:, 0])
    jet.laplacian.sum().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name.startswith("2.param"))


def test_parameters_of_several_kinds_are_refused():
    x, _ = points()
    for place in (2, 4):
        net = network()
        net[place].float()
        with pytest.raises(ff.InputError, match=f"0.weight is torch.float64 on cpu, {place}.weight is torch.float32"):
            ff.mlp_jet(net, x)
        net = network()
        net[place].to("meta")
        with pytest.raises(ff.InputError, match=f"{place}.weight is torch.float64 on meta"):
            ff.mlp_jet(net, x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(5, 4).double()}, r"x must be a tensor of shape \(B, 3\)"),
        ({"x": torch.zeros(5, 3)}, "x must have the parameters' dtype"),
        ({"x": torch.full((5, 3), torch.nan).double()}, "x must be finite"),
        ({"laplacian": "row_sum"}, "laplacian must be one of"),
        ({"fallback": "nested"}, "fallback must be"),
        ({"x": torch.zeros(5, 3).double().to_sparse()}, "x must be a dense tensor"),
        ({"net": nn.Linear(3, 1)}, "net must be an nn.Sequential, got Linear"),
        ({"net": None}, "net must be an nn.Sequential, got NoneType"),
        ({"net": nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 1))}, "parameter 0.weight isn't initialised"),
        (
            {"net": nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1))},
            r"Linear layer at place 0, got Sequential\( \(0\)",
        ),
        (
            {"net": nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double(), "fallback": "reference"},
            r"one value for each sample, got shape \(3,\)",
        ),
    ],
    ids=["width", "dtype", "nan", "laplacian", "fallback", "sparse", "layer", "none", "lazy", "nested", "outputs"],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ff.InputError, match=message):
        ff.mlp_jet(**{"net": network(), "x": points()[0], **arguments})


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (float("nan"), "t must be finite"),
        (10**400, "t must be finite"),
        (1j, "t must be a number"),
        ("a", "t must be a number"),
        (True, "t must be a number"),
        ((1, 2), "t as a grid must be a pair"),
        ((torch.zeros(2), torch.zeros(5, dtype=torch.long)), "got a grid"),
        (torch.zeros(4), r"t must be a number or have shape \(5,\)"),
        (torch.tensor(torch.nan), "t must be real and finite"),
        (torch.zeros(5, device="meta"), "t must be on the CPU or the latents' device cpu, got meta"),
    ],
    ids=["nan", "huge", "complex", "text", "flag", "pair", "grid", "count", "nan tensor", "meta"],
)
def test_bad_times_are_refused(t, message):
    with pytest.raises(ff.InputError, match=message):
        ff.mlp_jet(network(inputs=4), points()[0], t)


@pytest.mark.slow
@pytest.mark.parametrize("laplacian", ["exact", "hutchinson", "none"])
def test_a_time_for_each_sample_takes_no_memory_for_each(laplacian):
    """Its biases would be a quarter of a gigabyte."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(13, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    x, t = torch.randn(150_000, 12), torch.rand(150_000)

    def train() -> None:
        jet = ff.mlp_jet(net, x, t, laplacian=laplacian)
        (jet.u_t - jet.laplacian).square().mean().backward()

    assert extra_memory(train) < 128 << 20


class Plain(nn.Module):
    """A normalisation of features (B, 8) in groups, by sums and products."""

    def __init__(self, module, groups):
        super().__init__()
        self.module, self.groups = module, groups

    def forward(self, x):
        grouped = x.unflatten(-1, (self.groups, -1))
        centred = grouped - grouped.mean(-1, keepdim=True)
        y = (centred / (centred.square().mean(-1, keepdim=True) + self.module.eps).sqrt()).flatten(-2)
        return y * self.module.weight + self.module.bias


class PlainBatch(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        n = self.module
        return (x - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias


class PlainRMS(Plain):
    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * self.module.weight


class PlainGLU(nn.Module):
    def __init__(self, _):
        super().__init__()

    def forward(self, x):
        return x[..., :4] * x[..., 4:].sigmoid()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x):
        x = x.unflatten(-1, (2, 4))
        return self.inner(x, x, x, need_weights=False)[0].flatten(-2)


class PlainAttention(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.inner = module.inner

    def forward(self, x):
        n = self.inner
        q, k, v = nn.functional.linear(x.unflatten(-1, (2, 4)), n.in_proj_weight, n.in_proj_bias).chunk(3, -1)
        return n.out_proj((q @ k.mT / 2).softmax(-1) @ v).flatten(-2)


LAYERS = {
    "layer": (lambda: nn.LayerNorm(8), lambda n: Plain(n, 1)),
    "group": (lambda: nn.GroupNorm(2, 8), lambda n: Plain(n, 2)),
    "batch": (lambda: nn.BatchNorm1d(8), PlainBatch),
    "rms": (lambda: nn.RMSNorm(8), lambda n: PlainRMS(n, 1)),
    "gated": (nn.GLU, PlainGLU),
    "attention": (Attention, PlainAttention),
    "dropout": (lambda: nn.Dropout(0.3), lambda n: nn.Identity()),
}


@pytest.mark.parametrize(("make", "plain"), LAYERS.values(), ids=LAYERS.keys())
def test_fallback_differentiates_normalisations_three_times(make, plain):
    """As nested autograd through the same function of sums and products, whose derivatives torch has right."""
    torch.manual_seed(0)
    layer = make()
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    width = 4 if isinstance(layer, nn.GLU) else 8
    net = nn.Sequential(nn.Linear(3, 8), layer, nn.Tanh(), nn.Linear(width, 1)).double().eval()
    same = nn.Sequential(net[0], plain(layer), *net[2:])
    x, _ = points()
    jet = ff.mlp_jet(net, x, fallback="reference")
    x = x.requires_grad_()
    u = same(x)[:, 0]
    (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    laplacian = sum(torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(3))
    torch.testing.assert_close((jet.u, jet.grad, jet.laplacian), (u, first, laplacian))
    weight = net[0].weight
    (found,) = torch.autograd.grad(jet.laplacian.square().mean(), weight)
    (expected,) = torch.autograd.grad(laplacian.square().mean(), weight)
    torch.testing.assert_close(found, expected)


class Cumulated(nn.Module):
    """It gives a jet, whose gradient then fails."""

    def forward(self, x):
        return nn.functional.normalize(x, dim=-1)


REFUSED = {
    "dropout": (nn.Dropout(0.3), True, r"layer 1, Dropout.*random numbers in training mode: call net.eval\(\)"),
    "batch": (nn.BatchNorm1d(8), True, r"layer 1, BatchNorm1d.*statistics of the batch in training mode: call"),
    "no statistics": (nn.BatchNorm1d(8, track_running_stats=False), False, "track_running_stats=True"),
    "outputs": (nn.Linear(8, 2), False, "one value for each sample.*make an nn.Sequential for each output"),
    "widths": (nn.Linear(7, 1), False, "nested automatic differentiation of net failed: RuntimeError"),
    "third derivative": (nn.Sequential(Cumulated(), nn.Linear(8, 1)), False, "of net failed: RuntimeError"),
    "random function": (type("Random", (nn.Module,), {"forward": lambda _, x: torch.dropout(x, 0.5, True)})(),
                        False, "of net failed: RuntimeError: vmap"),
}  # fmt: skip


@pytest.mark.parametrize(("last", "training", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_fallback_refuses_what_it_cannot_compute(last, training, message):
    net = nn.Sequential(nn.Linear(3, 8), last).double().train(training)
    with pytest.raises(ff.InputError, match=message):
        ff.mlp_jet(net, points()[0], fallback="reference")


def test_the_fallback_is_offered_where_it_works():
    x, _ = points()
    two = nn.Sequential(*network()[:4], nn.Linear(6, 2).double())
    with pytest.raises(
        ff.InputError, match=r"got Linear\(6, 2\); fallback='reference' can't compute it either: net must"
    ):
        ff.mlp_jet(two, x)
    random = nn.Sequential(*network()[:4], nn.Dropout(0.3), network()[-1])
    with pytest.raises(ff.InputError, match=r"Dropout.*; fallback='reference' can't compute it either: .*net.eval\(\)"):
        ff.mlp_jet(random, x)
    with pytest.raises(ff.InputError, match=r"Dropout.*; fallback='reference' computes it"):
        ff.mlp_jet(random.eval(), x)
    ff.mlp_jet(random, x, fallback="reference")
