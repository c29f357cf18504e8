"""Compiled and exported calls: the same results as eager ones, for other sizes, times and backends than were traced."""

import pytest
import torch
from support.losses import LOSSES, bank_and_samples
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import fastflow as ff


@pytest.fixture(autouse=True)
def _nothing_traced():
    torch._dynamo.reset()


# What is traced is the same for both backends, and generating code takes ten times as long: one loss is enough.
COMPILED = [(loss, "aot_eager") for loss in LOSSES.values()] + [(LOSSES["one index"], "inductor")]
COMPILED_IDS = [*LOSSES, "one index by inductor"]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "backend"), COMPILED, ids=COMPILED_IDS)
def test_compiled_training_equals_eager_training(loss, backend):
    gradients = []
    for compiled in (False, True):
        bank, z, index = bank_and_samples()
        function = torch.compile(loss, fullgraph=True, backend=backend) if compiled else loss
        with torch._inductor.config.patch({"cpp.vec_isa_ok": True}):  # spares it trying every instruction set
            value = function(bank, z, index)
            value.backward()
        gradients.append([value.detach(), *(p.grad for p in bank.parameters() if p.grad is not None)])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


NETS = {
    "without time": lambda net, x: ff.mlp_jet(net, x),
    "one time": lambda net, x: ff.mlp_jet(net, x[:, 1:], 0.5),
    "a time each": lambda net, x: ff.mlp_jet(net, x[:, 1:], x[:, 0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", NETS.values(), ids=NETS.keys())
def test_compiled_training_of_an_ordinary_network(call):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 1)).double(), torch.randn(5, 4).double()

    def loss(x: Tensor) -> Tensor:
        jet = call(net, x)
        return (jet.u_t - jet.laplacian).square().mean() + jet.grad.square().mean()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        gradients.append(torch.autograd.grad(function(x), list(net.parameters())[:-1]))
    torch.testing.assert_close(*gradients)


TIMES = {
    "pde_loss": lambda bank, z, index, t: ff.pde_loss(bank, z, t, index),
    "jet": lambda bank, z, index, t: bank.jet(z, t, index).u,
    "flow": lambda bank, z, index, t: ff.flow(bank, z, index, 2, t0=t),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", TIMES.values(), ids=TIMES.keys())
def test_times_may_change_between_compiled_steps(call):
    bank, z, index = bank_and_samples()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda t: call(bank, z, index, t), fullgraph=True, backend=counter)
    for t in (0.1, 0.2, 0.3):
        torch.testing.assert_close(compiled(t), call(bank, z, index, t))
    assert counter.frame_count == 2  # for the first, and then for any


@pytest.mark.slow
def test_the_length_of_a_step_may_change_between_compiled_steps():
    bank, z, index = bank_and_samples()
    compiled = torch.compile(lambda dt: ff.flow(bank, z, index, 2, dt=dt), fullgraph=True, backend="aot_eager")
    for dt in (0.1, 0.2, 0.3):
        torch.testing.assert_close(compiled(dt), ff.flow(bank, z, index, 2, dt=dt))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [LOSSES["flow"], LOSSES["rollout_loss and path"]], ids=["flow", "rollout_loss"])
def test_the_batch_may_change_between_compiled_steps(loss):
    bank, z, index = bank_and_samples(9)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (4, 9, 2):
        torch.testing.assert_close(compiled(bank, z[:batch], index[:batch]), loss(bank, z[:batch], index[:batch]))


@pytest.mark.slow
def test_compiled_calls_follow_the_choice_of_a_backend():
    bank, z, index = bank_and_samples()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda z: bank.jet(z, 0.5, index).u, fullgraph=True, backend=counter)
    expected = compiled(z)
    with ff.use_backend("reference"):
        torch.testing.assert_close(compiled(z), expected)
    assert counter.frame_count == 2
    compiled(z)
    assert counter.frame_count == 2


@pytest.mark.slow
def test_a_compiled_reverse_flow_says_that_it_did_not_converge():
    bank, z, index = bank_and_samples()
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter *= 6
    compiled = torch.compile(
        lambda z: ff.flow(bank, z, index, 2, dt=50.0, direction="reverse"), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(ff.ConvergenceError, match="smaller dt"):
        compiled(z)


class Sine(nn.Module):
    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


@pytest.mark.slow
def test_a_compiled_sine_of_ones_own_must_be_one():
    x = torch.randn(5, 3)
    for frequency in (1.0, 30.0):
        net = nn.Sequential(nn.Linear(3, 6), Sine(frequency), nn.Linear(6, 1))
        compiled = torch.compile(lambda x, net=net: ff.mlp_jet(net, x).u, fullgraph=True, backend="aot_eager")
        if frequency == 1:
            torch.testing.assert_close(compiled(x), net(x)[:, 0])
        else:
            with pytest.raises(RuntimeError, match="called Sine must compute sin"):
                compiled(x)


class Jets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bank = ff.PotentialBank(2, 4, (6, 5)).requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).requires_grad_(False)

    def forward(self, z: Tensor, t: Tensor, index: Tensor) -> Tensor:
        alone, each = self.bank.jet(z, 0.5, 1), self.bank.jet(z, t, index)
        end = ff.flow(self.bank, z, index, 2)[:, -1]
        return alone.laplacian + each.laplacian + end.sum(1) + ff.mlp_jet(self.net, z).laplacian


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_a_model_with_jets_exports_for_any_batch(strict):
    torch.manual_seed(0)
    model, z, index = Jets(), torch.randn(6, 4), torch.arange(6) % 2
    batch = torch.export.Dim("batch", min=2)
    arguments = (z, z[:, 0], index)
    exported = torch.export.export(model, arguments, dynamic_shapes=({0: batch},) * 3, strict=strict)
    for count in (6, 3):
        few = tuple(x[:count] for x in arguments)
        torch.testing.assert_close(exported.module()(*few), model(*few))
