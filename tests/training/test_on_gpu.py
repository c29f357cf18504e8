"""Training on a CUDA device: without waiting for it, and a whole step captured in a graph."""

import pytest
import torch
from support.runs import metrics, small_config, small_run

from fastflow import generators
from fastflow.training.discover import Discovery

pytestmark = pytest.mark.gpu
STEPS = 5


def prepared():
    """The same task every time, and the batches of its first steps."""
    task = Discovery(small_config(batch_size=48), generators.load("digits-vae").to("cuda"))
    task.phases.enabled = False
    parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    # A captured step needs the counter of steps on the device, and to be allowed.
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=True)
    return task, parameters, optimizer, [task.draw(step) for step in range(1, STEPS + 1)]


def take_step(task, parameters, optimizer, batch):
    losses = task.losses(batch)
    losses.loss.backward(inputs=parameters)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return losses.loss.detach()


def test_a_step_waits_for_nothing():
    task, parameters, optimizer, batches = prepared()
    take_step(task, parameters, optimizer, batches[0])  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(task, parameters, optimizer, task.draw(STEPS + 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_step_trains_as_an_uncaptured_one():
    task, parameters, optimizer, batches = prepared()
    expected = [float(take_step(task, parameters, optimizer, batch)) for batch in batches]

    task, parameters, optimizer, batches = prepared()
    start = {name: value.clone() for name, value in task.module.state_dict().items()}
    held = type(batches[0])(*(None if x is None else x.clone() for x in batches[0]))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, makes the gradients, and begins the optimizer's state
            take_step(task, parameters, optimizer, held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = take_step(task, parameters, optimizer, held)
    # Back to the start, in place: the graph knows these very tensors.
    task.module.load_state_dict(start)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()

    losses = []
    for batch in batches:
        for there, x in zip(held, batch, strict=True):
            if x is not None:
                there.copy_(x)
        graph.replay()
        losses.append(float(loss))
    # Not the same bits: the order in which the classifier's and the generator's sums are taken is torch's own.
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_discovery_runs_on_the_device(tmp_path):
    run = small_run(tmp_path / "run", generators.load("digits-vae").to("cuda"), steps=6)
    assert run.bank.out_bias.is_cuda
    there = [line["loss"] for line in metrics(tmp_path / "run")]
    small_run(tmp_path / "host", generators.load("digits-vae"), steps=6)
    here = [line["loss"] for line in metrics(tmp_path / "host")]
    # The batches are the same on every device; so are the losses, as far as float32 goes.
    torch.testing.assert_close(torch.tensor(there), torch.tensor(here), rtol=1e-2, atol=1e-3)
