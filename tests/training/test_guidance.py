"""Guidance of potentials by a predictor."""

import json

import pytest
import torch
from support.runs import contents, options, sigmoid_generator, small_config, small_run
from torch.nn import functional

from fastflow import generators
from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.latents.classifiers import make_classifier
from fastflow.latents.guidance import guide_by
from fastflow.latents.losses import guidance_loss
from fastflow.runs.train import discover
from fastflow.training.discover import Discovery
from fastflow.training.flow_config import DiscoverConfig


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
@pytest.mark.parametrize("loss", ["path", "cosine"])
@pytest.mark.parametrize("way", ["follow", "oppose"])
def test_guided_potential_moves_the_property_its_way(tmp_path, way, loss):
    changes = {"guidance": way, "guidance_weight": 5.0, "steps": 60, "learning_rate": 0.01, "log_every": 60}
    run = small_run(tmp_path / "run", options={"predictor": brightness}, guidance_loss=loss, **changes)
    images = run.traverse(run.generator.sample(64, seed=5), potential=0).images
    gain = brightness(images[:, -1]) - brightness(images[:, 0])
    assert ((gain > 0) == (way == "follow")).float().mean() > 0.9


@pytest.mark.slow
def test_no_guided_potential_stands_still(tmp_path):
    generator = generators.load("digits-vae")
    settings = {"num_potentials": 7, "steps": 60, "batch_size": 70, "learning_rate": 3e-3, "path_steps": 4}
    run = small_run(tmp_path / "run", generator, options={"guide": ["strokes"]}, **{**settings, "hidden": (32,)})
    z0 = generator.starts(32, 5)
    spread = stroke_attributes(generator.decode(generator.sample(256))).std(0)
    for k in range(7):
        images = run.traverse(z0, k, 4, even=False).images
        change = stroke_attributes(images[:, -1]) - stroke_attributes(images[:, 0])
        assert change[:, k].mean() > 0.2 * spread[k], STROKE_ATTRIBUTES[k]


def test_path_terms_are_means_over_the_guided_samples():
    generator = sigmoid_generator()
    guide = guide_by([halves], generator)
    task = Discovery(small_config(step_length=0.1, batch_size=13), generator, guide=guide, keep=[brightness])
    batch = task.draw(1)
    losses = task.losses(batch)
    _, path = task._residual(batch.z0, batch.potential)
    rows = (batch.potential < 2).nonzero().flatten()
    assert torch.equal(batch.guided, rows)
    assert torch.equal(batch.free, (batch.potential == 2).nonzero().flatten())
    z = path[torch.arange(len(path)), batch.place + 1]
    before, after = generator.decode(batch.z0), generator.decode(z)
    found = task.guidance.terms(before[rows], after[rows], batch.potential[rows], batch.place[rows] + 1)
    bounds = task.guidance.bounds(before, after, z)  # of free paths too
    for name, each in {**found._asdict(), **bounds._asdict()}.items():
        torch.testing.assert_close(losses.logged[name], each.mean().detach())
    terms = list(losses.logged)[: len(task.config.terms)]
    assert tuple(terms) == task.config.terms


def test_guided_potentials_learn_from_their_own_terms_alone():
    # Neither the classifier nor the reward for visible change nor rest at the start moves a guided potential.
    generator = sigmoid_generator()
    weights = {"pde_weight": 0.0, "guidance_weight": 0.0, "hold_weight": 0.0, "shell_weight": 0.0}
    task = Discovery(small_config(**weights), generator, guide=guide_by([brightness], generator))
    task.losses(task.draw(1)).loss.backward()
    gradient = task.bank.weights[0].grad
    assert not gradient[0].any()
    assert gradient[1].any()
    assert gradient[2].any()
    assert any(parameter.grad.any() for parameter in task.classifier.parameters())


def test_all_potentials_may_be_guided():
    generator = sigmoid_generator()
    task = Discovery(small_config(num_potentials=2), generator, guide=guide_by([halves], generator))
    losses = task.losses(task.draw(1))
    losses.loss.backward()
    assert losses.logged["initial"] == 0
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in task.module.parameters())


def test_more_attributes_than_potentials_are_refused(tmp_path):
    with pytest.raises(InputError, match="guide names 2 attributes, halves 0, halves 1: num_potentials must be at lea"):
        small_run(tmp_path / "run", options={"guide": [halves]}, num_potentials=1)
    assert not (tmp_path / "run").exists()
    # A predictor guides as many as there are.
    assert small_run(tmp_path / "run", options={"predictor": halves}, num_potentials=1).names == {0: "halves 0"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": [halves], "predictor": halves}, "guide and predictor were both given: name the predictor in guide"),
        ({"keep": [halves]}, "keep has no effect without guide: name what potentials should change"),
        ({"guide": [brightness], "keep": [halves], "guidance_loss": "cosine"}, "keep has no effect with guidance_loss"),
        ({"guide": [brightness], "keep": "own.py:f"}, "keep must be a list of names or functions, got 'own.py:f'"),
        ({"guide": [brightness], "keep": ["shapes"]}, "keep must name shape or FILE.py:FUNCTION, got 'shapes'"),
        ({"guide": [brightness], "keep": [lambda images: images.detach()]}, "features to keep carry no gradient"),
    ],
    ids=["both", "keep alone", "keep with cosine", "text", "unknown", "detached"],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    settings = {key: options[key] for key in options if key == "guidance_loss"}
    options = {key: options[key] for key in options if key not in settings}
    with pytest.raises(InputError, match=message):
        small_run(tmp_path / "run", options=options, **settings)
    assert not (tmp_path / "run").exists()


def test_potentials_are_named_and_recorded_by_what_guides_them(tmp_path):
    options = {"guide": ["contrast", brightness], "keep": [halves]}
    run = small_run(tmp_path / "run", options=options)
    assert run.names == {0: "contrast", 1: "brightness"}
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["guide"] == ["contrast", f"{__name__}:brightness"]
    assert record["keep"] == [f"{__name__}:halves"]
    assert record["predictor"] is False
    more = {"steps": 8, "resume": True}
    with pytest.raises(InputError, match=r"guide was 'contrast', .* and is now 'contrast'; resume with the same one"):
        small_run(tmp_path / "run", options={"guide": ["contrast"], "keep": [halves]}, **more)
    with pytest.raises(InputError, match=r"keep was .*:halves' and is now none"):
        small_run(tmp_path / "run", options={"guide": options["guide"]}, **more)
    assert small_run(tmp_path / "run", options=options, **more).step == 8


def test_strokes_guide_where_images_look_drawn_unless_other_things_are_said(tmp_path):
    digits = generators.load("digits-vae")

    def guided(name, generator=digits, **changes):
        run = small_run(tmp_path / name, generator, resume=(tmp_path / name).exists(), **changes)
        record = json.loads((run.folder / "config.json").read_text())
        assert record.get("guided", []) == list(run.names.values())
        return record.get("guide", [])

    assert guided("digits") == ["thickness", "slant", "width"]
    assert guided("digits", steps=8) == ["thickness", "slant", "width"]
    assert guided("others", sigmoid_generator()) == []
    assert guided("free", options={"guide": ()}) == []
    assert guided("free", steps=8) == []  # as it began
    assert guided("own", options={"guide": ["brightness"]}) == ["brightness"]
    assert guided("predictor", options={"predictor": brightness}) == []
    assert guided("classifier", options={"classifier": make_classifier("lenet", (1, 8, 8), 3)}) == []
    assert guided("cosine", guidance_loss="cosine") == []


def test_presets_leave_potentials_free(tmp_path):
    words = ["discover", "--generator", "digits-vae", "--preset", "mnist-sngan", "--out", str(tmp_path / "run")]
    main([*words, *options(classifier="small")])
    assert "guide" not in json.loads((tmp_path / "run" / "config.json").read_text())


def test_a_predictor_guides_beside_a_preset_too(tmp_path):
    (tmp_path / "own.py").write_text("def bright(images):\n    return images.mean((1, 2, 3))\n")
    words = ["discover", "--generator", "digits-vae", "--preset", "mnist-sngan", "--out", str(tmp_path / "run")]
    main([*words, "--predictor", f"{tmp_path / 'own.py'}:bright", *options(classifier="small")])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["guided"] == ["bright"]


def test_shape_is_kept_where_strokes_guide(tmp_path):
    def kept(name, **options):
        run = small_run(tmp_path / name, options=options, resume=(tmp_path / name).exists())
        return json.loads((run.folder / "config.json").read_text())["keep"]

    assert kept("strokes", guide=["area", brightness]) == ["shape"]
    assert kept("strokes", guide=["area", brightness]) == ["shape"]  # resumed
    assert kept("appearance", guide=["contrast", brightness]) == []
    assert kept("none", guide=["area"], keep=[]) == []
    assert kept("none", guide=["area"]) == []  # as it began
    assert kept("own", guide=["area"], keep=[halves, "shape"]) == [f"{__name__}:halves", "shape"]


def test_a_guided_run_resumes_to_the_same_weights(tmp_path):
    options = {"guide": [brightness], "keep": [halves]}
    whole = small_run(tmp_path / "whole", options=options, steps=6)
    small_run(tmp_path / "parts", options=options, steps=3)
    parts = small_run(tmp_path / "parts", options=options, steps=6, resume=True)
    assert torch.equal(whole.bank.weights[0], parts.bank.weights[0])


def test_a_run_of_before_path_guidance_goes_on_as_it_began(tmp_path):
    run = small_run(tmp_path / "run", options={"predictor": brightness}, steps=3, guidance_loss="cosine")
    whole = small_run(tmp_path / "whole", options={"predictor": brightness}, steps=6, guidance_loss="cosine")
    record = json.loads((run.folder / "config.json").read_text())
    for name in ("guidance_loss", "guide_rate", "hold_weight", "hold_schedule"):
        del record["config"][name]
    del record["digest"]
    (run.folder / "config.json").write_text(json.dumps(record))
    resumed = small_run(tmp_path / "run", options={"predictor": brightness}, steps=6, resume=True)
    assert resumed.config.guidance_loss == "cosine"
    assert torch.equal(resumed.bank.weights[0], whole.bank.weights[0])


@pytest.mark.slow
def test_guided_by_strokes_a_potential_changes_its_own_attribute_most(tmp_path):
    generator = generators.load("digits-vae")
    config = DiscoverConfig(num_potentials=2, steps=200, batch_size=64, seed=1)
    run = discover(generator, config, tmp_path / "run", guide=["area", "x"], progress=False)
    found = run.correlate(stroke_attributes, STROKE_ATTRIBUTES, samples=64)
    for potential, name in enumerate(("area", "x")):
        column = STROKE_ATTRIBUTES.index(name)
        change = torch.tensor(found.change[potential]) / torch.tensor(found.spread)
        assert change.abs().argmax() == column
        assert 1 < change[column] < 3  # 2 is asked of ten steps
        assert found.correlation[potential][column] > 0.9


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
