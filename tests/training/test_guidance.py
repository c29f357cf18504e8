"""Guidance of potentials by a predictor."""

import json

import pytest
import torch
from support.runs import contents, sigmoid_generator, small_config, small_run
from torch.nn import functional

from fastflow.core.errors import InputError
from fastflow.latents.guidance import guide_by
from fastflow.latents.losses import guidance_loss
from fastflow.training.discover import Discovery


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
    config = small_config(step_length=0.1, batch_size=samples, guidance_loss="cosine")
    generator = sigmoid_generator()
    task = Discovery(config, generator, guide=guide_by([predictor], generator))
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


@pytest.mark.slow
@pytest.mark.parametrize("way", ["follow", "oppose"])
def test_guided_potential_moves_the_property_its_way(tmp_path, way):
    changes = {"guidance": way, "guidance_weight": 5.0, "steps": 60, "learning_rate": 0.01, "log_every": 60}
    run = small_run(tmp_path / "run", options={"predictor": brightness}, **changes)
    images = run.traverse(run.generator.sample(64, seed=5), potential=0).images
    gain = brightness(images[:, -1]) - brightness(images[:, 0])
    assert ((gain > 0) == (way == "follow")).float().mean() > 0.9


def double(images):
    return 2 * brightness(images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (None, brightness, "predictor was none and is now '.*test_guidance:brightness'; resume with the same one"),
        (brightness, None, "predictor was '.*test_guidance:brightness' and is now none"),
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
        (lambda images: images.mean(), r"must give values \(3,\) or \(3, P\) for 3 images, got \(\)"),
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
