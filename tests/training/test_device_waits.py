"""A training step leaves the host free: nothing in it needs a value of the device, so it can be captured in a graph."""

import pytest
import torch
from support.kernel_cases import Case, make
from support.runs import sigmoid_generator, small_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastflow.engine import inputs as arguments
from fastflow.training.discover import Discovery, check_task

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "item", "is_nonzero")


class NoWaiting(TorchDispatchMode):
    """Raises where an operation would wait for a CUDA device: where the host needs a number or a shape of it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITS:
            raise AssertionError(f"{func} waits for the device")
        if name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1]):
            raise AssertionError("an index by a mask waits for the device")
        if name in ("_to_copy", "copy_") and "device" in (kwargs or {}):
            raise AssertionError(f"{func} moves a tensor in the midst of a step")
        return func(*args, **(kwargs or {}))


class NoCopying(TorchFunctionMode):
    """Raises where numbers of the host's become a tensor: on a device that is a copy, which waits too."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("tensor", "as_tensor", "from_numpy", "new_tensor"):
            raise AssertionError(f"{func} copies from the host")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch):
    """Checks of values are the CPU's: on a device they aren't made."""
    monkeypatch.setattr(arguments, "_seen", lambda x: None)


def test_waiting_is_noticed():
    x = torch.ones(3)
    for wait in (lambda: float(x.sum()), lambda: x[x > 0], lambda: bool(x.any()), lambda: x.nonzero()):
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
            wait()
    with pytest.raises(AssertionError, match="copies from the host"), NoCopying():
        torch.tensor([1.0])
    with pytest.raises(AssertionError, match="moves a tensor"), NoWaiting():
        x.to("cpu", torch.float64)


CONFIGURATIONS = {
    "default": {},
    "square": {"residual": "square", "jacobian": "square"},
    "companion": {"companion": True},
    "force": {"pde": "hamilton-jacobi"},
    "average": {"ema": 0.9},
    "heun": {"method": "heun", "step_length": 0.1},
    "linear time": {"time": "linear"},
    "poisson": {"pde": "poisson", "time": "none"},
    "rk4": {"method": "rk4", "residual": "square"},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_step_waits_for_nothing(changes):
    task = Discovery(small_config(**changes), sigmoid_generator())
    check_task(task)  # as before any step, also of how the generator is differentiated
    task.phases.enabled = False  # as around a capture
    batch = task.draw(1)
    parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    with NoCopying(), NoWaiting():
        losses = task.losses(batch)
        losses.loss.backward(inputs=parameters)
        torch.stack([*losses.logged.values(), losses.loss.detach()])
        task.after_step(1)


class _Launched:
    """In place of a kernel: takes any launch, does nothing."""

    def __getitem__(self, grid):
        return lambda *arguments, **options: None


@pytest.mark.parametrize("laplacian", ["exact", "hutchinson", "none"])
def test_what_surrounds_the_kernels_waits_for_nothing(monkeypatch, laplacian):
    triton = pytest.importorskip("fastflow.engine.backends.triton", reason="triton is for Linux alone")
    for name in ("jet_fwd", "jet_bwd", "residual", "rotate", "reduce_partials", "reduce_runs"):
        monkeypatch.setattr(triton, f"{name}_kernel", _Launched())
    for dim in (3, 30):  # fewer dimensions than units, and more
        problem = make(Case(2, 9, dim, (5, 4), laplacian=laplacian))
        samples = (problem.mlp, problem.z, problem.index, problem.slot)
        with NoCopying(), NoWaiting():
            triton.jet(*samples, laplacian, problem.probes, True, "ieee")
            triton.jet_backward(*samples, laplacian, problem.probes, problem.jet_bar, True, "ieee")
            triton.residual_loss(*samples, problem.coefficients, problem.source, "ieee")
            triton.residual_loss_and_gradient(*samples, problem.coefficients, problem.source, True, "ieee")
