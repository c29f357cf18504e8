"""The objective's settings: schedules, guidance by a predictor, forces, the companion, the average of the weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.runs import contents, metrics, sigmoid_generator, small_config, small_run
from torch.nn import functional

from fastflow.core.errors import InputError
from fastflow.latents.losses import guidance_loss
from fastflow.runs.loading import load_run
from fastflow.training.config import DiscoverConfig
from fastflow.training.discover import Discovery
from fastflow.training.presets import PRESETS, preset
from fastflow.training.schedules import factor_at

# Schedules


def test_factors_lie_on_lines_between_knots():
    knots = ((10, 0.0), (20, 1.0), (40, 0.5))
    steps = [1, 10, 15, 20, 30, 40, 99]
    assert [factor_at(knots, step) for step in steps] == pytest.approx([0, 0, 0.5, 1, 0.75, 0.5, 0.5])
    assert factor_at((), 7) == 1


def test_each_terms_weight_follows_its_schedule():
    schedules = {f"{term}_schedule": ((1, 0.0), (5, 1.0 + place)) for place, term in enumerate(DiscoverConfig.terms)}
    weights = {f"{term}_weight": 2.0 for term in DiscoverConfig.terms}
    task = Discovery(small_config(**schedules, **weights), sigmoid_generator())
    assert task.draw(1).weights.tolist() == [0.0] * 5
    assert task.draw(3).weights.tolist() == pytest.approx([1, 2, 3, 4, 5])
    assert task.draw(9).weights.tolist() == pytest.approx([2, 4, 6, 8, 10])


def test_learning_rate_follows_its_schedule(tmp_path):
    small_run(tmp_path / "run", learning_rate=0.1, learning_rate_schedule=((2, 1.0), (6, 0.0)), log_every=1)
    rates = [line["learning_rate"] for line in metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.1, 0.1, 0.075, 0.05, 0.025, 0])
    before, after = (
        load_file(tmp_path / "run" / "checkpoints" / f"step-00000{step}" / "weights.safetensors") for step in (3, 6)
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_schedules_survive_json(tmp_path):
    schedule = ((0, 0.0), (5, 2.0))
    small_run(tmp_path / "run", pde_schedule=schedule, learning_rate_schedule=((3, 1.0),))
    assert load_run(tmp_path / "run", sigmoid_generator()).config.pde_schedule == schedule
    small_run(tmp_path / "run", pde_schedule=schedule, learning_rate_schedule=((3, 1.0),), resume=True)


@pytest.mark.parametrize(
    ("knots", "message"),
    [
        (((5, 1.0), (5, 2.0)), r"steps in rising order, got \[5, 5\]"),
        (((1, -1.0),), "factors of 0 or above"),
        (((1.5, 1.0),), "be a list, each a whole number and a finite number"),
        (((1, 1.0, 2.0),), "be a list, each a whole number and a finite number"),
        ((1, 1.0), "be a list, each a whole number and a finite number"),
    ],
    ids=["order", "negative", "half a step", "triple", "flat"],
)
def test_bad_schedules_are_refused(knots, message):
    with pytest.raises(InputError, match=f"pde_schedule must.*{message}"):
        small_config(pde_schedule=knots)


# Guidance


def brightness(images):
    return images.mean((1, 2, 3))


def halves(images):
    return torch.stack((images[:, :, :3].mean((1, 2, 3)), images[:, :, 3:].mean((1, 2, 3))), 1)


def test_guidance_is_one_minus_the_cosine():
    velocity, gradient = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind()
    cosine = functional.cosine_similarity(velocity, gradient)
    torch.testing.assert_close(guidance_loss(velocity, gradient), 1 - cosine)
    torch.testing.assert_close(guidance_loss(velocity, gradient, "oppose"), 1 + cosine)
    with pytest.raises(InputError, match="follow, oppose, got 'flee'"):
        guidance_loss(velocity, gradient, "flee")


@pytest.mark.parametrize(("predictor", "guided"), [(brightness, 1), (halves, 2)], ids=["one", "two"])
@pytest.mark.parametrize("samples", [12, 13], ids=["alike", "odd"])
def test_guidance_is_a_mean_over_the_guided_potentials(predictor, guided, samples):
    config = small_config(step_length=0.1, batch_size=samples)
    task = Discovery(config, sigmoid_generator(), predictor=predictor)
    batch = task.draw(1)
    losses = task.losses(batch)
    _, path = task._residual(batch.z0, batch.potential)
    rows = torch.arange(samples)
    z, z_next = path[rows, batch.place].detach().requires_grad_(), path[rows, batch.place + 1]
    values = predictor(task.generator.decode(z)).reshape(samples, -1)
    expected = []
    for k in range(guided):
        (gradient,) = torch.autograd.grad(values[:, k].sum(), z, retain_graph=True)
        expected.append(guidance_loss(z_next - z, gradient)[batch.potential == k])
    torch.testing.assert_close(losses.logged["guidance"], torch.cat(expected).mean().detach())


@pytest.mark.parametrize("way", ["follow", "oppose"])
def test_guided_potential_moves_the_property_its_way(tmp_path, way):
    changes = {"guidance": way, "guidance_weight": 5.0, "steps": 60, "learning_rate": 0.01, "log_every": 60}
    run = small_run(tmp_path / "run", options={"predictor": brightness}, **changes)
    images = run.traverse(run.generator.sample(64, seed=5), potential=0).images
    gain = brightness(images[:, -1]) - brightness(images[:, 0])
    assert ((gain > 0) == (way == "follow")).float().mean() > 0.9


def double(images):
    return 2 * brightness(images)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (None, brightness, "predictor was none and is now '.*test_objective:brightness'; resume with the same one"),
        (brightness, None, "predictor was '.*test_objective:brightness' and is now none"),
        (brightness, double, "predictor was '.*:brightness' and is now '.*:double'"),
        ("own.py:one", "own.py:two", "predictor was 'own.py:one' and is now 'own.py:two'"),
        (lambda images: brightness(images), None, "predictor was one without a name and is now none"),
        (brightness, brightness, None),
        (lambda images: brightness(images), brightness, None),
    ],
)
def test_resumed_run_has_the_predictor_that_it_had(tmp_path, monkeypatch, before, now, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def one(images):\n    return images.mean((1, 2, 3))\ntwo = one\n")
    small_run(tmp_path / "run", steps=1, options={"predictor": before})
    kept = contents(tmp_path / "run")
    if message is None:
        assert small_run(tmp_path / "run", steps=2, resume=True, options={"predictor": now}).step == 2
        return
    with pytest.raises(InputError, match=message):
        small_run(tmp_path / "run", steps=2, resume=True, options={"predictor": now})
    assert contents(tmp_path / "run") == kept


def test_run_of_before_predictors_were_named_takes_any(tmp_path):
    small_run(tmp_path / "run", steps=1, options={"predictor": brightness})
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**record, "predictor": True}))
    assert small_run(tmp_path / "run", steps=2, resume=True, options={"predictor": double}).step == 2


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (lambda images: images.mean(), r"must give values \(12,\) or \(12, P\) for 12 images, got \(\)"),
        (lambda images: 3, r"must give values .*, got int"),
        (lambda images: images.argmax(1).flatten(1)[:, 0], "carry no gradient, they are torch.int64; leave out"),
        (lambda images: brightness(images) > 0.5, "carry no gradient, they are torch.bool; leave out .* comparisons"),
        (lambda images: torch.ones(len(images), requires_grad=True) * 2, "carry no gradient; leave out torch.no_grad"),
        (lambda images: images.new_tensor([1.0, 2.0]) * images.mean((1, 2, 3)), "failed: RuntimeError: The size of"),
        (lambda images: 1 / 0, "the predictor failed: ZeroDivisionError"),
    ],
    ids=["scalar", "number", "argmax", "comparison", "constant", "fits two images alone", "fails"],
)
def test_bad_predictors_are_refused(tmp_path, predictor, message):
    with pytest.raises(InputError, match=message):
        small_run(tmp_path / "run", options={"predictor": predictor})
    assert not (tmp_path / "run").exists()


# Forces and the companion


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


# The average of the weights


def test_average_follows_the_weights(tmp_path):
    task = Discovery(small_config(ema=0.8), sigmoid_generator())
    optimizer = torch.optim.Adam(task.potentials.parameters(), lr=0.01)
    expected = [p.detach().clone() for p in task.potentials.parameters()]
    for step in range(1, 7):
        task.losses(task.draw(step)).loss.backward()
        optimizer.step()
        task.stepped(step)
        decay = min(0.8, (1 + step) / (10 + step))
        values = task.potentials.parameters()
        expected = [decay * a + (1 - decay) * p.detach() for a, p in zip(expected, values, strict=True)]
    for value, average in zip(expected, task.average.parameters(), strict=True):
        torch.testing.assert_close(value, average.detach())


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


# Presets


@pytest.mark.parametrize("name", ["anime-sngan", "mnist-sngan", "biggan", "stylegan2", "vae-mnist", "vae-dsprites"])
def test_presets_have_the_papers_objective(name):
    config = preset(name)
    assert (config.learning_rate, config.residual, config.jacobian, config.pde) == (1e-4, "square", "square", "wave")
    assert [getattr(config, f"{term}_weight") for term in DiscoverConfig.terms] == [1.0] * 5
    assert (config.out_activation == "identity") == (name == "stylegan2")
    assert DiscoverConfig(**json.loads(json.dumps(config.__dict__))) == config


def test_presets_are_listed_and_unknown_ones_refused():
    assert len(PRESETS) == 6
    assert (PRESETS["anime-sngan"].num_potentials, PRESETS["anime-sngan"].steps) == (32, 120_000)
    assert (PRESETS["vae-mnist"].num_potentials, PRESETS["vae-mnist"].batch_size) == (16, 256)
    with pytest.raises(InputError, match=r"preset must be one of anime-sngan, .*, got 'anime'"):
        preset("anime")
