"""Discovery: every potential and every time trains, in every way that is offered, on anybody's generator."""

import numpy as np
import pytest
import torch
from support.runs import SMALL, metrics, sigmoid_generator, small_config, small_run, weights
from torch import nn

from fastflow import generators
from fastflow.core.errors import InputError, TrainingError
from fastflow.engine.pde import EQUATIONS
from fastflow.generators import from_callable
from fastflow.training import discover as module
from fastflow.training.discover import Discovery
from fastflow.training.flow_config import DiscoverConfig


@pytest.fixture
def task():
    return Discovery(small_config(), sigmoid_generator())


def test_one_step_gives_every_potential_a_gradient(task):
    task.losses(task.draw(1)).loss.backward()
    for name, parameter in task.bank.named_parameters():
        per_potential = parameter.grad.reshape(3, -1).abs().amax(1)
        assert (per_potential > 0).all(), name
    assert (task.pde.c.grad != 0).all()
    assert all(parameter.grad.abs().max() > 0 for parameter in task.classifier.parameters())


def test_smallest_batch_still_trains_every_potential():
    task = Discovery(small_config(batch_size=SMALL["num_potentials"]), sigmoid_generator())
    task.losses(task.draw(1)).loss.backward()
    assert (task.bank.out_weight.grad.flatten(1).abs().amax(1) > 0).all()


def drawn(task, monkeypatch, steps):
    """For each step the index and the place of every sample, as the generator and the classifier saw them."""
    seen = []
    residual, change, loss = task._residual, module.generator_change, module.classifier_loss

    def record_path(z0, index):
        term, path = residual(z0, index)
        seen.append({"path": path.detach()})
        return term, path

    def record_place(decode, z, direction, **options):
        distance = (seen[-1]["path"] - z.detach()[:, None]).norm(dim=2)
        assert (distance.amin(1) == 0).all()
        seen[-1]["place"] = distance.argmin(1)
        return change(decode, z, direction, **options)

    def record_index(logits, index):
        seen[-1]["index"] = index
        return loss(logits, index)

    monkeypatch.setattr(task, "_residual", record_path)
    monkeypatch.setattr(module, "generator_change", record_place)
    monkeypatch.setattr(module, "classifier_loss", record_index)
    for step in range(1, steps + 1):
        task.losses(task.draw(step))
    return seen


def test_potential_and_time_are_drawn_per_sample_and_the_last_time_too(monkeypatch):
    task = Discovery(small_config(batch_size=60), sigmoid_generator())
    steps = drawn(task, monkeypatch, 3)
    for step in steps:
        assert step["index"].bincount().tolist() == [20, 20, 20]
        # Steps 0, 1 and 2 of a path of three, within one batch and with every potential.
        for k in range(3):
            assert set(step["place"][step["index"] == k].tolist()) == {0, 1, 2}
    assert not torch.equal(steps[0]["place"], steps[1]["place"])
    assert not torch.equal(steps[0]["index"], steps[1]["index"])


def test_loss_is_the_weighted_sum_of_its_terms():
    names = ("pde", "initial", "jacobian", "classifier")
    factors = dict(zip(names, (0.3, 2.0, 0.7, 1.5), strict=True))
    config = small_config(**{f"{name}_weight": factor for name, factor in factors.items()})
    task = Discovery(config, sigmoid_generator())
    losses = task.losses(task.draw(1))
    total = sum(factor * losses.logged[name] for name, factor in factors.items())
    torch.testing.assert_close(losses.loss.detach(), total)
    assert not any(value.requires_grad for value in losses.logged.values())


def test_strength_is_logged_in_units_of_the_value_range():
    strengths = []
    for scale in (1.0, 4.0):
        generator = from_callable(lambda z, scale=scale: scale * sigmoid_generator()(z), 4, value_range=(0.0, scale))
        task = Discovery(small_config(), generator)
        strengths.append(task.losses(task.draw(1)).logged["strength"])
    torch.testing.assert_close(strengths[0], strengths[1])


CHANGES = {
    "square-residual": {"residual": "square"},
    "square-jacobian": {"jacobian": "square"},
    "linear-time": {"time": "linear"},
    "no-time": {"time": "none", "pde": "helmholtz"},
    "identity-output": {"out_activation": "identity"},
    "sin": {"activation": "sin"},
    "heun": {"method": "heun"},
    "rk4": {"method": "rk4", "dt": 0.5},
    "step-length": {"step_length": 0.2},
    "fixed-constants": {"learn_pde": False},
    "one-potential": {"num_potentials": 1},
    "one-step-paths": {"path_steps": 1},
    "three-layers": {"hidden": (5, 6, 7)},
    **{f"pde-{name}": {"pde": name} for name in EQUATIONS},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_every_setting_trains(tmp_path, changes):
    before = Discovery(small_config(**changes), sigmoid_generator()).bank.state_dict()
    run = small_run(tmp_path / "run", steps=2, **changes)
    unmoved = {name for name, value in run.bank.state_dict().items() if torch.equal(value, before[name])}
    assert unmoved <= {"out_bias"}  # no equation but those with u itself depends on it
    assert all(np.isfinite(list(line.values())).all() for line in metrics(tmp_path / "run"))


@pytest.mark.slow
def test_equations_constants_are_learned_only_where_asked(tmp_path):
    learned = small_run(tmp_path / "learned", learn_pde=True)
    fixed = small_run(tmp_path / "fixed", learn_pde=False)
    assert (learned.pde.c != 1).all()
    assert (fixed.pde.c == 1).all()


def colour_images(z):
    return torch.tanh(torch.stack((z, -z, z.roll(1, 1)), 1).unflatten(2, (2, 3)))


GENERATORS = {
    "function": lambda: sigmoid_generator(),
    "colour-function": lambda: from_callable(colour_images, 6, value_range=(-1, 1)),
    "module": lambda: from_callable(nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4))), 5),
    "convolution": lambda: from_callable(
        nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 3, 5), nn.BatchNorm2d(3), nn.Sigmoid()), 4
    ),
    "one-latent": lambda: from_callable(lambda z: z.sigmoid()[:, :, None, None].expand(-1, 1, 9, 20), 1),
    "double-function": lambda: from_callable(lambda z: z.sigmoid().reshape(-1, 1, 2, 2), 4, dtype=torch.float64),
    "double": lambda: from_callable(nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2))).double(), 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_any_generator_will_do(tmp_path, make):
    generator = make()
    run = small_run(tmp_path / "run", generator)
    traversal = run.traverse(generator.sample(2), potential=1)
    assert traversal.images.shape == (2, 4, *generator.image_shape)
    assert traversal.latents.dtype == generator.sample(1).dtype
    assert not any(parameter.requires_grad for parameter in run.bank.parameters())


def test_generator_stays_as_it_was(tmp_path):
    generator = GENERATORS["convolution"]()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    small_run(tmp_path / "run", generator)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_training_leaves_no_gradient_on_the_networks_that_a_function_uses(tmp_path):
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)))
    run = small_run(tmp_path / "run", from_callable(lambda z: net(z), 4), steps=2)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert (run.pde.c != 1).all()


@torch.no_grad()
def without_gradient(z):
    return z.sigmoid().reshape(-1, 1, 2, 2)


OPAQUE = {
    "no-grad": (without_gradient, "carry no gradient; leave out torch.no_grad, detach and NumPy"),
    "detached": (lambda z: z.detach().sigmoid().reshape(-1, 1, 2, 2), "carry no gradient"),
    "numpy": (lambda z: torch.from_numpy(z.detach().numpy()).reshape(-1, 1, 2, 2), "can't be learned on"),
    "constant": (lambda z: 0 * z.reshape(-1, 1, 2, 2), "don't change with the latents"),
}


def test_generator_that_takes_a_few_latents_at_most_is_refused(tmp_path):
    generator = from_callable(lambda z: z.reshape(min(len(z), 5), 1, 2, 2), 4)
    with pytest.raises(InputError, match="can't be learned on: differentiation failed: shape"):
        small_run(tmp_path / "run", generator)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("function", "message"), OPAQUE.values(), ids=OPAQUE)
def test_generator_that_gradients_do_not_pass_is_refused_before_anything_is_written(tmp_path, function, message):
    with pytest.raises(InputError, match=message) as error:
        small_run(tmp_path / "run", from_callable(function, 4))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_generator_that_blows_up_ends_the_training(tmp_path):
    # Finite where it is tried first, and infinite a little further out.
    generator = from_callable(lambda z: (z / (z.norm(dim=1, keepdim=True) < 3)).reshape(-1, 1, 2, 2), 4)
    with pytest.raises(TrainingError, match=r"training stopped at step \d+: .* is no longer finite"):
        small_run(tmp_path / "run", generator, batch_size=64)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_latents_that_a_step_refuses_name_the_step(tmp_path, monkeypatch):
    calls = iter(range(100))

    def residual(task, z0, index, compute=Discovery._residual):
        return compute(task, z0 / 0 if next(calls) == 2 else z0, index)

    monkeypatch.setattr(Discovery, "_residual", residual)
    with pytest.raises(TrainingError, match=r"training stopped at step 3: .*must be finite.*smaller learning_rate"):
        small_run(tmp_path / "run")


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path):
    small_run(tmp_path / "run", generators.load("digits-vae"), steps=40, batch_size=48, log_every=10)
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < 0.9 * losses[0]


def test_defaults_are_those_of_the_dataclass():
    config = DiscoverConfig()
    bank = Discovery(config, sigmoid_generator()).bank
    assert (bank.num_potentials, bank.dim, bank.hidden, bank.time) == (8, 4, (64, 64), "sinusoidal")


def test_same_seed_same_initial_weights_whatever_came_before():
    torch.manual_seed(1)
    first = Discovery(small_config(), sigmoid_generator())
    torch.manual_seed(2)
    second = Discovery(small_config(), sigmoid_generator())
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))


def test_returned_run_has_the_trained_weights(tmp_path):
    run = small_run(tmp_path / "run")
    untrained = Discovery(small_config(), sigmoid_generator())
    names = weights(run)
    assert any(not torch.equal(value, names[name]) for name, value in untrained.bank.state_dict().items())
    assert run.step == 6
