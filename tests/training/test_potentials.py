"""What trainings of potentials share: forces, the companion, and the moving average of the weights."""

import pytest
import torch
from safetensors.torch import load_file
from support.runs import sigmoid_generator, small_config, small_run

from fastflow.core.errors import InputError
from fastflow.runs.loading import load_run
from fastflow.training.discover import Discovery


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["normalized", "square"])
@pytest.mark.parametrize(
    "changes",
    [
        {"pde": "hamilton-jacobi", "force": "constant"},
        {"pde": "hamilton-jacobi", "force": "field"},
        {"pde": "poisson", "force": "field"},
        {"pde": "poisson", "force": "constant", "time": "none"},
        {"companion": True},
        {"companion": True, "time": "linear", "method": "heun"},
    ],
    ids=str,
)
def test_everything_learned_learns_and_comes_back(tmp_path, changes, residual):
    before = Discovery(small_config(**changes), sigmoid_generator()).module.state_dict()
    run = small_run(tmp_path / "run", residual=residual, **changes)
    loaded = load_run(tmp_path / "run", sigmoid_generator())
    for name, module in run.potentials.modules().items():
        for parameter, value in module.state_dict().items():
            moved = not torch.equal(value, before[f"{name}.{parameter}"])
            # No equation but those with u itself, or with its square, depends on a bank's last bias.
            assert moved or "out_bias" in parameter, (name, parameter)
            assert torch.equal(loaded.potentials.modules()[name].state_dict()[parameter], value)
    z0 = run.generator.sample(2)
    assert torch.equal(run.traverse(z0, 1).latents, loaded.traverse(z0, 1).latents)


def test_report_names_a_learned_constant_force(tmp_path):
    run = small_run(tmp_path / "run", pde="hamilton-jacobi", force="constant")
    coefficients = run.evaluate(samples=24, progress=False)["residual"]["coefficients"]
    assert coefficients == {"f": run.pde.force.f.tolist()}


def test_companion_is_part_of_what_starts_at_rest_and_of_traversals(tmp_path):
    run = small_run(tmp_path / "run", companion=True)
    z0 = run.generator.sample(3)
    moved = run.traverse(z0, 2, steps=1).latents[:, 1] - z0
    torch.testing.assert_close(moved, run.bank.jet(z0, 0.0, 2).grad + run.companion(z0, 0.0, 2))


def test_force_is_for_equations_that_have_one():
    with pytest.raises(InputError, match="force must be none for pde wave; only hamilton-jacobi and poisson have one"):
        small_config(force="field")


def test_average_follows_the_weights(tmp_path):
    task = Discovery(small_config(ema=0.8), sigmoid_generator())
    optimizer = torch.optim.Adam(task.potentials.parameters(), lr=0.01)
    expected = [p.detach().clone() for p in task.potentials.parameters()]
    for step in range(1, 7):
        task.losses(task.draw(step)).loss.backward()
        optimizer.step()
        task.after_step(step)
        decay = min(0.8, (1 + step) / (10 + step))
        values = task.potentials.parameters()
        expected = [decay * a + (1 - decay) * p.detach() for a, p in zip(expected, values, strict=True)]
    for value, average in zip(expected, task.average.parameters(), strict=True):
        torch.testing.assert_close(value, average.detach())


@pytest.mark.slow
def test_run_uses_the_average_and_resumes_both(tmp_path):
    plain = small_run(tmp_path / "plain")
    run = small_run(tmp_path / "run", ema=0.9)
    state = load_file(tmp_path / "run" / "checkpoints" / "step-000006" / "weights.safetensors")
    assert torch.equal(state["bank.out_weight"], plain.bank.out_weight)  # training itself doesn't change
    assert torch.equal(run.bank.out_weight, state["average.bank.out_weight"])
    assert not torch.equal(run.bank.out_weight, plain.bank.out_weight)
    assert torch.equal(load_run(tmp_path / "run", sigmoid_generator()).bank.out_weight, run.bank.out_weight)

    small_run(tmp_path / "parts", ema=0.9, steps=4)
    parts = small_run(tmp_path / "parts", ema=0.9, resume=True)
    assert torch.equal(parts.bank.out_weight, run.bank.out_weight)


def test_average_decay_is_below_one():
    with pytest.raises(InputError, match=r"ema must be below 1, got 1"):
        small_config(ema=1.0)
