"""Banks: what their networks compute, how time enters, initial values, and what they refuse."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch
from support.memory import extra_memory
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian
from torch.utils.checkpoint import checkpoint

import fastflow as ff
from fastflow.engine.learned_fields import NetworkField
from fastflow.engine.operators.residual_loss import residual_loss
from fastflow.engine.potentials import sinusoidal_embedding


def bank_of(num_potentials: int = 3, dim: int = 4, hidden: tuple[int, ...] = (6, 5), **options) -> ff.PotentialBank:
    torch.manual_seed(0)
    return ff.PotentialBank(num_potentials, dim, hidden, **options).double()


def samples(batch: int = 7, dim: int = 4, num_potentials: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(batch, dim, generator=rng, dtype=torch.float64)
    t = 5 * torch.rand(batch, generator=rng, dtype=torch.float64)
    return z, t, torch.randint(num_potentials, (batch,), generator=rng)


def plain_network(bank: ff.PotentialBank, k: int, z: Tensor, t: Tensor) -> Tensor:
    """The paper's network for one sample, from torch's own pieces."""
    activation = {"tanh": torch.tanh, "sin": torch.sin, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
    tau = 0.0
    if bank.time == "sinusoidal":
        n = (bank.dim + 1) // 2
        frequency = torch.tensor([10000 ** (-i / max(n - 1, 1)) for i in range(n)], dtype=z.dtype)
        e = torch.cat((torch.sin(t * frequency), torch.cos(t * frequency)))
        inner = nn.functional.gelu(bank.time_weight_in[k] @ e + bank.time_bias_in[k])
        tau = bank.time_weight_out[k] @ inner + bank.time_bias_out[k]
    h = z
    for layer, (weight, bias) in enumerate(zip(bank.weights, bank.biases, strict=True)):
        if layer == 1 and bank.time == "sinusoidal":
            h = h + tau
        a = weight[k] @ h + bias[k]
        if layer == 0 and bank.time == "linear":
            a = a + bank.time_weight[k] * t
        if layer == 0 and len(bank.weights) == 1 and bank.time == "sinusoidal":
            a = a + tau
        h = activation[bank.activation](a)
    u = bank.out_weight[k] @ h + bank.out_bias[k]
    return torch.tanh(u) if bank.out_activation == "tanh" else u


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(5,), (6, 5), (4, 3, 5)], ids=["one layer", "two layers", "three layers"])
@pytest.mark.parametrize("time", ["sinusoidal", "linear", "none"])
@pytest.mark.parametrize(("activation", "out_activation"), [("tanh", "tanh"), ("silu", "identity")])
def test_jet_is_that_of_the_papers_network(hidden, time, activation, out_activation):
    bank = bank_of(hidden=hidden, time=time, activation=activation, out_activation=out_activation)
    z, t, index = samples()
    jet = bank.jet(z, t, index)
    for b, k in enumerate(index.tolist()):

        def u(z: Tensor, t: Tensor, k: int = k) -> Tensor:
            return plain_network(bank, k, z, t)

        exact = {"rtol": 1e-11, "atol": 1e-13}
        torch.testing.assert_close(jet.u[b], u(z[b], t[b]), **exact)
        torch.testing.assert_close(jet.grad[b], grad(u)(z[b], t[b]), **exact)
        torch.testing.assert_close(jet.laplacian[b], hessian(u)(z[b], t[b]).trace(), **exact)
        torch.testing.assert_close(jet.u_t[b], grad(u, 1)(z[b], t[b]), **exact)
        torch.testing.assert_close(jet.u_tt[b], grad(grad(u, 1), 1)(z[b], t[b]), **exact)


def test_a_number_for_the_time_is_not_rounded():
    bank, (z, _, index) = bank_of(), samples()
    exact = bank.jet(z, torch.tensor(0.3, dtype=torch.float64), index)
    torch.testing.assert_close(bank.jet(z, 0.3, index), exact, rtol=0, atol=0)


def test_half_precision_banks_are_refused():
    with pytest.raises(ff.InputError, match="parameters must be float32 or float64"):
        ff.PotentialBank(1, 2).bfloat16().jet(torch.zeros(1, 2).bfloat16(), 0.0, 0)


@pytest.mark.parametrize("index", [0, torch.tensor([0, 1])], ids=["one", "each"])
@pytest.mark.parametrize("name", ["weights.1", "out_weight", "time_bias_in"])
def test_parameters_of_several_kinds_are_refused(name, index):
    z = torch.zeros(2, 4, dtype=torch.float64)
    for change in (torch.float32, "meta"):
        bank = bank_of()
        parameter = bank.get_parameter(name)
        owner, _, last = name.rpartition(".")
        setattr(bank.get_submodule(owner), last, nn.Parameter(parameter.detach().to(change)))
        for call in (bank.jet, ff.pde_loss, ff.flow):
            arguments = {bank.jet: (z, 0.0, index), ff.pde_loss: (bank, z, 0.0, index), ff.flow: (bank, z, index)}
            with pytest.raises(ff.InputError, match=f"one dtype and device: .*{name} is torch.float"):
                call(*arguments[call])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_bank_whose_output_saturates_still_has_a_direction(dtype):
    """tanh(12) is 1 in float32; its slope, which scales the gradient, is 1.5e-10 and no zero."""
    bank = bank_of().to(dtype)
    with torch.no_grad():
        bank.out_bias.fill_(12.0)
    z, _, index = samples()
    paths = []
    for backend in ("native", "reference"):
        with ff.use_backend(backend):
            paths.append(ff.flow(bank, z.to(dtype), index, 3, step_length=1.0))
    lengths = paths[1].diff(dim=1).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    torch.testing.assert_close(*paths, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph"])
@pytest.mark.parametrize("index", [1, "each its own"])
def test_a_time_for_each_of_many_samples_takes_little_memory(index, graph):
    """All biases at once would be 170 MiB, and a graph of a third of the samples 300."""
    torch.manual_seed(0)
    bank = ff.PotentialBank(4, 12, (64, 64)).requires_grad_(graph)
    batch = 20_000 if graph else 60_000
    z, t, each = torch.randn(batch, 12), torch.rand(batch), torch.arange(batch) % 4
    index = each if index == "each its own" else index

    def gradients(loss: Tensor) -> Tensor | tuple[Tensor, ...]:
        return torch.autograd.grad(loss, list(bank.parameters())) if graph else loss

    for call in (lambda: bank.jet(z, t, index).laplacian.mean(), lambda: ff.pde_loss(bank, z, t, index)):
        gradients(call())  # loads what is loaded once
        assert extra_memory(lambda call=call: gradients(call())) < 64 << 20


@pytest.mark.parametrize("index", [1, "each its own"])
def test_a_graph_forgets_the_biases_of_pieces(index, monkeypatch):
    """Of many samples with a time each it keeps latents, times and indices, parameters and their gradients."""
    bank, (z, t, each) = bank_of(), samples(2000)
    index = each if index == "each its own" else index
    for loss in (lambda: bank.jet(z, t, index).laplacian.mean(), lambda: ff.pde_loss(bank, z, t, index)):
        whole = kept_by_graph(loss)
        assert whole > 8 * 3 * sum(bank.hidden) * len(z)
        with in_pieces(monkeypatch, 2000):
            there = (z, t, each, bank.out_bias.new_empty(3, 5), *bank.parameters(), *bank.parameters())
            assert kept_by_graph(loss) <= sum(x.numel() * x.element_size() for x in there)


def kept_by_graph(loss: Callable[[], Tensor]) -> int:
    """Bytes that autograd saves for the backward of a loss."""
    sizes = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss()
    return sum(sizes)


@contextmanager
def in_pieces(monkeypatch, biases: int = 50) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("fastflow.engine.potentials.MAX_BIASES", biases)
        patch.setattr("fastflow.engine.potentials.MAX_BIASES_KEPT", biases)
        patch.setattr("fastflow.engine.potentials.MIN_ROWS", 1)
        yield


def test_pieces_of_samples_give_what_all_together_do(monkeypatch):
    bank, (z, t, index) = bank_of(), samples()
    for index_ in (index, 1):
        whole = bank.jet(z, t, index_), ff.pde_loss(bank, z, t, index_)
        with in_pieces(monkeypatch), torch.no_grad():
            assert len(bank.pieces(bank.samples(z, t, index_))) > 1
            pieces = bank.jet(z, t, index_), ff.pde_loss(bank, z, t, index_)
        torch.testing.assert_close(pieces, whole)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["jet", "pde_loss", "source"])
def test_pieces_of_samples_have_the_same_gradients(loss, monkeypatch):
    """Of latents, times, every parameter and the equation's constant; and again, of their own norm."""
    bank, (z, t, index) = bank_of(), samples()
    force = NetworkField(3, 4, (5,))
    pde = ff.pde.HamiltonJacobi(force) if loss == "source" else ff.pde.Wave(0.7, learnable=True)
    leaves = [z.requires_grad_(), t.requires_grad_(), *bank.parameters(), *pde.double().parameters()]

    def value() -> Tensor:
        return pde(bank.jet(z, t, index)).square().mean() if loss == "jet" else ff.pde_loss(bank, z, t, index, pde)

    def first_and_second() -> list[Tensor]:
        once = torch.autograd.grad(3 * value(), leaves)
        first = torch.autograd.grad(value(), leaves, create_graph=True)
        return [*once, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]

    expected = first_and_second()
    with in_pieces(monkeypatch):
        assert len(bank.pieces(bank.samples(z, t, index))) > 1
        torch.testing.assert_close(first_and_second(), expected, rtol=1e-11, atol=1e-13)


def test_pieces_of_samples_are_of_the_parameters_that_were_lent(monkeypatch):
    """A backward finds those that `functional_call` gave the bank, which has its own again by then."""
    bank, (z, t, index) = bank_of(), samples()
    lent = {name: (2 * p.detach()).requires_grad_() for name, p in bank.named_parameters()}

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            functional_call(bank, lent, (z, t, index)).laplacian.square().sum(), list(lent.values())
        )

    expected = gradients()
    with in_pieces(monkeypatch):
        torch.testing.assert_close(gradients(), expected)


def test_pieces_of_samples_keep_their_precision_under_autocast(monkeypatch):
    bank, (z, t, index) = bank_of().float(), [x.float() if x.is_floating_point() else x for x in samples()]
    leaves = list(bank.parameters())

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = ff.pde_loss(bank, z, t, index)
        return torch.autograd.grad(loss, leaves)

    expected = gradients()
    with in_pieces(monkeypatch):
        torch.testing.assert_close(gradients(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["tied", "parametrised", "buffer"])
def test_parameters_of_a_bank_may_be_other_tensors(way, monkeypatch):
    """Two layers with one weight, a weight that is computed, and one that isn't learned."""
    bank, (z, t, index) = ff.PotentialBank(3, 4, (5, 5, 5)).double(), samples()
    if way == "tied":
        bank.weights[2] = bank.weights[1]
    elif way == "parametrised":
        nn.utils.parametrizations.weight_norm(bank, "out_weight")
    else:
        weight = bank.out_weight.detach()
        del bank.out_weight
        bank.register_buffer("out_weight", weight)
    leaves = list(bank.parameters())
    expected = torch.autograd.grad(ff.pde_loss(bank, z, t, index), leaves)
    with in_pieces(monkeypatch):
        torch.testing.assert_close(torch.autograd.grad(ff.pde_loss(bank, z, t, index), leaves), expected)


def test_pieces_have_a_few_rows_for_each_potential():
    bank = ff.PotentialBank(64, 3, (512, 512))
    index = torch.arange(2048) % 64
    pieces = bank.pieces(bank.samples(torch.zeros(2048, 3), torch.zeros(2048), index))
    assert len(pieces) == 4  # and not 8, as the biases alone would have it


def test_pieces_of_samples_inside_a_checkpoint(monkeypatch):
    """It computes all of them once more, and not once more for each."""
    bank, (z, t, index), calls = bank_of(), samples(), []
    module = import_module("fastflow.engine.pde_loss")  # whose name in the package is its function's
    monkeypatch.setattr(module, "residual_loss", lambda *given, **kw: calls.append(1) or residual_loss(*given, **kw))
    leaves = list(bank.parameters())
    expected = torch.autograd.grad(ff.pde_loss(bank, z, t, index), leaves)
    with in_pieces(monkeypatch):
        calls.clear()
        loss = checkpoint(ff.pde_loss, bank, z, t, index, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(loss, leaves), expected)
        assert len(calls) == 2 * len(bank.pieces(bank.samples(z, t, index)))


def test_pieces_of_samples_under_a_transform(monkeypatch):
    bank, (z, t, index), wave = bank_of(), samples(), ff.pde.Wave()
    parameters = {name: p.detach() for name, p in bank.named_parameters()}

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = bank

        def forward(self, z: Tensor) -> Tensor:
            return ff.pde_loss(self.bank, z, t, index, wave) + self.bank.jet(z, t, index).u.sum()

    def value(parameters: dict[str, Tensor], z: Tensor) -> Tensor:
        return functional_call(Loss(), {f"bank.{name}": p for name, p in parameters.items()}, (z,))

    expected = grad(value, argnums=(0, 1))(parameters, z)
    with in_pieces(monkeypatch):
        torch.testing.assert_close(grad(value, argnums=(0, 1))(parameters, z), expected)


def test_a_bank_can_be_called():
    bank, (z, t, index) = bank_of(), samples()
    torch.testing.assert_close(bank(z, t, index, laplacian="none"), bank.jet(z, t, index, laplacian="none"))


def test_time_may_be_given_in_three_ways():
    bank, (z, _, index) = bank_of(), samples()
    grid = torch.tensor([0.5, 2.0], dtype=torch.float64)
    place = torch.tensor([0, 1, 1, 0, 0, 1, 0])
    expected = bank.jet(z, grid[place], index)
    torch.testing.assert_close(bank.jet(z, (grid, place), index), expected)
    assert torch.equal(bank.samples(z, (grid, place), index).time.of_each(), grid[place])
    assert torch.equal(bank.samples(z, 2, index).time.of_each(), torch.full((7,), 2, dtype=torch.float64))
    for b in range(len(z)):
        alone = bank.jet(z[b : b + 1], float(grid[place[b]]), int(index[b]))
        torch.testing.assert_close(alone, ff.Jet(*(x[b : b + 1] for x in expected)))


def test_every_potential_has_weights_of_its_own():
    """The first public code trained one potential and one time per batch; here each sample brings its own."""
    bank, (z, t, _) = bank_of(), samples()
    index = torch.arange(7) % 3
    ff.pde_loss(bank, z, t, index).backward()
    for name, parameter in bank.named_parameters():
        if name == "out_bias":
            continue
        moved = parameter.grad.flatten(1).abs().amax(1)
        assert (moved > 0).all(), name
    bank.zero_grad()
    ff.pde_loss(bank, z, t, torch.full((7,), 1)).backward()
    assert bank.weights[0].grad[1].abs().max() > 0
    assert bank.weights[0].grad[[0, 2]].abs().max() == 0


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_embedding_is_defined_for_every_width(dim):
    t = torch.linspace(0, 5, 4, dtype=torch.float64)
    e, e_t, e_tt = sinusoidal_embedding(t, dim)
    assert e.shape == (4, dim + dim % 2)
    h = 1e-4
    ahead, behind = sinusoidal_embedding(t + h, dim)[0], sinusoidal_embedding(t - h, dim)[0]
    torch.testing.assert_close(e_t, (ahead - behind) / (2 * h), rtol=0, atol=1e-7)
    torch.testing.assert_close(e_tt, (ahead + behind - 2 * e) / h**2, rtol=0, atol=1e-6)


def test_embedding_has_the_papers_frequencies():
    e, _, _ = sinusoidal_embedding(torch.tensor([3.0], dtype=torch.float64), 6)
    frequencies = [1.0, 0.01, 0.0001]
    expected = [math.sin(3 * f) for f in frequencies] + [math.cos(3 * f) for f in frequencies]
    torch.testing.assert_close(e[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("time", ["sinusoidal", "linear", "none"])
def test_the_smallest_bank_works(time):
    bank = ff.PotentialBank(1, 1, (1,), time=time)
    jet = bank.jet(torch.zeros(2, 1), 1.0, 0)
    assert all(x.isfinite().all() for x in jet)
    assert (jet.u_t.abs().max() == 0) == (time == "none")


def test_no_time_gives_zero_time_derivatives():
    jet = bank_of(time="none").jet(samples()[0], 3.0, 1)
    assert jet.u_t.abs().max() == 0
    assert jet.u_tt.abs().max() == 0


def test_hutchinson_is_unbiased_and_seeded():
    bank, (z, t, index) = bank_of(), samples()

    def estimate(seed: int, probes: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return bank.jet(z, t, index, laplacian="hutchinson", num_probes=probes, generator=rng).laplacian

    exact = bank.jet(z, t, index).laplacian
    assert torch.equal(estimate(0, 2), estimate(0, 2))
    assert not torch.equal(estimate(0, 2), estimate(1, 2))
    # The standard error of the mean of n probes is at most sqrt(2) |Hess| / sqrt(n).
    single = torch.stack([estimate(seed, 1) for seed in range(64)]).std(0)
    assert ((estimate(2, 4096) - exact).abs() < 5 * single / 64).all()


def test_state_dict_restores_a_bank():
    bank, (z, t, index) = bank_of(), samples()
    torch.manual_seed(5)
    other = ff.PotentialBank(3, 4, (6, 5)).double()
    assert not torch.equal(other.jet(z, t, index).u, bank.jet(z, t, index).u)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.jet(z, t, index).u, bank.jet(z, t, index).u)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_potentials": 0}, "num_potentials must be a whole number of at least 1, got 0"),
        ({"dim": 0}, "dim must be"),
        ({"dim": 2.5}, "dim must be"),
        ({"hidden": ()}, "hidden must name"),
        ({"hidden": 64}, "hidden must name"),
        ({"num_potentials": True}, "num_potentials must be"),
        ({"hidden": (4, 0)}, "hidden must be"),
        ({"activation": "relu"}, "activation must be one of tanh, sin, gelu, silu, softplus, got 'relu'"),
        ({"out_activation": "sigmoid"}, "out_activation must be one of identity, tanh"),
        ({"time": "fourier"}, "time must be one of"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_bad_sizes_and_names_are_refused(options, message):
    with pytest.raises(ff.InputError, match=message):
        ff.PotentialBank(**{"num_potentials": 2, "dim": 3, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z": torch.zeros(2, 5, dtype=torch.float64)}, "z must be a tensor of shape"),
        ({"z": torch.zeros(4, dtype=torch.float64)}, "z must be a tensor of shape"),
        ({"z": [[0.0]]}, "z must be a tensor of shape"),
        ({"z": torch.zeros(2, 4)}, "z must have the parameters' dtype torch.float64, got torch.float32"),
        ({"z": torch.full((2, 4), torch.inf, dtype=torch.float64)}, "z must be finite"),
        ({"t": torch.zeros(3)}, "t must be"),
        ({"t": math.nan}, "t must be finite"),
        ({"t": "now"}, "t must be a number"),
        ({"t": torch.tensor([0.0, math.nan])}, "t must be real and finite"),
        ({"t": torch.tensor([0j, 1j])}, "t must be real and finite"),
        ({"t": ([0.0], [0, 0])}, "t as a grid must be"),
        (
            {"t": (torch.zeros(1), torch.tensor([0, 1]))},
            r"t's places in its grid must lie in 0\.\.0, got values",
        ),
        ({"index": True}, "index must be"),
        ({"index": 3}, r"index must lie in 0\.\.2, got 3"),
        ({"index": -1}, "index must lie in"),
        ({"index": torch.tensor([0, 3])}, "index must lie in"),
        ({"index": torch.tensor([0, -1])}, "index must lie in"),
        ({"index": torch.tensor([0.0, 1.0])}, "index must be"),
        ({"index": torch.tensor([0])}, "index must be"),
        ({"laplacian": "trace"}, "laplacian must be one of"),
        ({"laplacian": "hutchinson", "num_probes": 0}, "num_probes must be"),
        ({"laplacian": "hutchinson", "num_probes": True}, "num_probes must be"),
        ({"laplacian": "hutchinson", "generator": 3}, "generator must be"),
        ({"t": 1e300 * 1e10}, "t must be finite"),
        ({"t": 10**400}, "t must be finite"),
        ({"t": torch.zeros(2, device="meta")}, "t must be on the CPU or the latents' device cpu, got meta"),
        ({"t": (torch.zeros(1),)}, "t as a grid must be a pair"),
        ({"t": 2**70}, "t must be finite"),
        ({"t": torch.zeros(2).to_sparse()}, "t must be a dense tensor"),
        ({"z": torch.zeros(2, 4, dtype=torch.float64).to_sparse()}, "z must be a dense tensor"),
        ({"index": torch.zeros(2, dtype=torch.long).to_sparse()}, "index must be a dense tensor"),
        ({"with_u_tt": (1, 2)}, "with_u_tt must be True or False"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_bad_arguments_are_named(arguments, message):
    good = {"z": torch.zeros(2, 4, dtype=torch.float64), "t": 0.0, "index": 0}
    with pytest.raises(ff.InputError, match=message):
        bank_of().jet(**{**good, **arguments})


@pytest.mark.parametrize("time", ["sinusoidal", "linear", "none"])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_without_u_tt_everything_else_stays(time, backend):
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, 5, (7, 6), time=time).double()
    z, index = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 2
    with ff.use_backend(backend):
        whole, spared = bank.jet(z, 0.4, index), bank.jet(z, 0.4, index, with_u_tt=False)
    assert not spared.u_tt.any()
    torch.testing.assert_close(spared, whole._replace(u_tt=torch.zeros(9, dtype=torch.float64)), rtol=1e-12, atol=1e-14)
