"""Edits: chains and mixes of moves along potentials, which are saved and applied to other latents."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.runs import sigmoid_generator, small_run

import fastflow as ff
from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.paths import flow, mixed_flow
from fastflow.engine.potentials import PotentialBank
from fastflow.saved.edits import Part, fingerprint

METHODS = ("euler", "heun", "rk4")


@pytest.fixture(scope="module")
def bank():
    torch.manual_seed(0)
    return PotentialBank(4, 5, (8, 8)).double().requires_grad_(False)


@pytest.fixture(scope="module")
def companion():
    torch.manual_seed(1)
    return DivergenceFreeField(4, 5, (8,)).double().requires_grad_(False)


def latents(count=3, width=5, seed=2):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "companion"])
@pytest.mark.parametrize("length", [None, 0.1], ids=["free", "step_length"])
@pytest.mark.parametrize("direction", ["forward", "descent", "reverse"])
@pytest.mark.parametrize("method", METHODS)
def test_mix_of_one_potential_is_its_flow(bank, companion, method, direction, length, beside):
    options = (4, 0.5, 0.25, method, direction, length, companion if beside else None)
    path = mixed_flow(bank, latents(), {2: 1.0, 0: 0.0}, *options)
    torch.testing.assert_close(path, flow(bank, latents(), 2, *options), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path, mixed_flow(bank, latents(), {2: 1.0}, *options), rtol=1e-12, atol=1e-12)


def test_mix_steps_along_the_weighted_sum_of_gradients(bank, companion):
    z, mix, t0, dt = latents(), {3: 0.5, 0: -2.0}, 1.5, 0.25

    def velocity(z, t):
        return sum(w * (bank.jet(z, t, k).grad + companion(z, t, k)) for k, w in mix.items())

    euler = mixed_flow(bank, z, mix, 2, t0, dt, companion=companion)
    one = z + dt * velocity(z, t0)
    torch.testing.assert_close(euler[:, 1], one)
    torch.testing.assert_close(euler[:, 2], one + dt * velocity(one, t0 + dt))
    heun = mixed_flow(bank, z, mix, 1, t0, dt, "heun", companion=companion)
    torch.testing.assert_close(heun[:, 1], z + dt / 2 * (velocity(z, t0) + velocity(one, t0 + dt)))
    fixed = mixed_flow(bank, z, mix, 1, t0, dt, step_length=0.3, companion=companion)
    torch.testing.assert_close((fixed[:, 1] - z).norm(dim=1), torch.full((3,), 0.3, dtype=z.dtype))


REFUSED_MIXES = {
    "empty": ({}, "mix must hold weights by potential"),
    "no-mapping": ([0, 1], "mix must hold weights by potential"),
    "unknown": ({4: 1.0}, r"mix must name potentials in 0\.\.3, got 4"),
    "text": ({"a": 1.0}, r"mix must name potentials in 0\.\.3, got 'a'"),
    "infinite": ({0: float("inf")}, "a weight must be a finite number, got inf for potential 0"),
    "zero": ({0: 0.0, 1: 0.0}, "mix must have a weight other than 0"),
}


@pytest.mark.parametrize(("mix", "message"), REFUSED_MIXES.values(), ids=REFUSED_MIXES)
def test_refused_mixes(bank, mix, message):
    with pytest.raises(InputError, match=message):
        mixed_flow(bank, latents(), mix)


@pytest.fixture(scope="module", params=[{}, {"method": "heun", "dt": 0.5, "step_length": 0.2}], ids=["plain", "heun"])
def run(request, tmp_path_factory):
    run = small_run(tmp_path_factory.mktemp("edited") / "run", sigmoid_generator(), **request.param)
    run.name(1, "slant")
    return run


def settings(run):
    return {"dt": run.config.dt, "method": run.config.method, "step_length": run.config.step_length}


@pytest.mark.slow
def test_edit_is_a_chain_of_flows(run):
    z = run.generator.sample(2)
    edit = run.edit("slant", 2, t0=1.0).then({0: 1.0, 2: -0.5}, 3)
    assert edit.parts == (Part(((1, 1.0),), 2, 1.0), Part(((0, 1.0), (2, -0.5)), 3))
    applied = edit.apply(run, z)
    first = flow(run.bank, z, 1, 2, 1.0, **settings(run))
    second = mixed_flow(run.bank, first[:, -1], {0: 1.0, 2: -0.5}, 3, **settings(run))
    torch.testing.assert_close(applied.latents, torch.cat((first, second[:, 1:]), 1))
    assert torch.equal(applied.latents[:, 0], z)
    assert torch.equal(applied.images[:, -1], run.generator.decode(applied.latents[:, -1]))
    assert applied.images.shape == (2, 6, 1, 6, 6)
    assert applied.start == 0


@pytest.mark.parametrize("steps", [1, 3, 2.5, 0.25])
def test_negative_steps_undo_positive_ones(run, steps):
    z = run.generator.sample(3)
    there = run.edit({1: 1.0, 2: 0.5}, steps, t0=0.5)
    back = there.then({1: 1.0, 2: 0.5}, -steps, t0=0.5)
    path = back.path(run, z)
    middle = path.shape[1] // 2
    assert (path[:, middle] - z).abs().max() > 1e-3
    torch.testing.assert_close(path[:, middle:].flip(1), path[:, : middle + 1], rtol=1e-5, atol=1e-5)


def test_last_step_of_a_fraction_is_shorter(run):
    z, config = run.generator.sample(3), run.config
    path = run.edit(1, 2.5, t0=1.0).path(run, z)
    whole = run.edit(1, 2, t0=1.0).path(run, z)
    assert torch.equal(path[:, :3], whole)
    length = None if config.step_length is None else config.step_length / 2
    last = flow(run.bank, whole[:, -1], 1, 1, 1.0 + 2 * config.dt, config.dt / 2, config.method, step_length=length)
    torch.testing.assert_close(path[:, 3], last[:, 1])


def test_saved_edit_is_the_same_edit(run, tmp_path):
    edit = run.edit("slant", 2.5, 0.5, name="leaning").then({0: 1, 2: -0.5}, -3)
    file = edit.save(tmp_path / "edits" / "leaning.json")
    assert ff.load_edit(file) == edit
    assert str(edit) == "2.5 steps along slant, then 3 steps back along potential 0 - 0.5 x potential 2"


@pytest.mark.slow
def test_edit_is_for_the_weights_that_it_was_made_for(run, tmp_path):
    edit, z = run.edit(0, 1), run.generator.sample(1)
    moved = ff.load_run(run.folder, run.generator)
    assert fingerprint(moved) == fingerprint(run)
    edit.apply(moved, z)
    other = small_run(tmp_path / "other", sigmoid_generator(), seed=1)
    with pytest.raises(
        InputError, match=r"has other potentials: edit\.on\(run\), or --retrained, takes it over to them"
    ):
        edit.apply(other, z)
    taken = edit.on(other)
    assert torch.equal(taken.path(other, z), flow(other.bank, z, 0, 1, **settings(other)))
    few = small_run(tmp_path / "few", sigmoid_generator(), num_potentials=2)
    with pytest.raises(InputError, match=r"mix must name potentials in 0\.\.1, got 2"):
        run.edit(2, 1).on(few)


def test_python_lines_reproduce_the_edit(digits_folder):
    run = ff.load_run(digits_folder)
    edit = run.edit(1, 2.5, 0.5).then({0: 1.0, 2: -0.5}, -1)
    namespace: dict = {}
    exec("\n".join(edit.python_lines("run.generator.starts(2, seed=3)")), namespace)
    expected = edit.apply(run, run.generator.starts(2, seed=3))
    assert torch.equal(namespace["path"].latents, expected.latents)
    assert torch.equal(namespace["path"].images, expected.images)
    assert namespace["edit"] == edit


def test_python_lines_ask_for_a_generator_made_in_python(run):
    assert f"run = ff.load_run({str(run.folder)!r}, generator)" in run.edit(0, 1).python_lines()


REFUSED = {
    "no-steps": (lambda run: run.edit(0, 0), "steps must be a number other than 0 and at most 10000"),
    "endless": (lambda run: run.edit(0, 1e9), "steps must be a number other than 0 and at most 10000"),
    "text": (lambda run: run.edit(0, "3"), "steps must be a number other than 0"),
    "t0": (lambda run: run.edit(0, 1, float("nan")), "t0 must be a finite number, got nan"),
    "name": (lambda run: run.edit("zoom", 1), "no potential is called 'zoom'; named is slant"),
    "twice": (lambda run: run.edit({"slant": 1, 1: 2}, 1), "potential 1 is in the mix twice"),
    "unknown": (lambda run: run.edit(3, 1), r"mix must name potentials in 0\.\.2, got 3"),
    "label": (lambda run: run.edit(0, 1, name="two\nlines"), "an edit's name must be at most 60 printable characters"),
    "latents": (lambda run: run.edit(0, 1).apply(run, torch.zeros(2, 3)), r"z0 must be a tensor of shape \(B, 4\)"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_edits(run, make, message):
    with pytest.raises(InputError, match=message):
        make(run)


DAMAGED = {
    "list": (lambda edit: [], "isn't an edit: expected a JSON object of format 'fastflow edit 1'"),
    "format": (lambda edit: {**edit, "format": "2"}, "isn't an edit: expected a JSON object of format"),
    "no-run": (lambda edit: {k: v for k, v in edit.items() if k != "run"}, "its parts, mixes or run are damaged"),
    "no-parts": (lambda edit: {**edit, "parts": []}, "an edit must have at least one part"),
    "mix": (lambda edit: {**edit, "parts": [{"mix": [1], "steps": 1}]}, "its parts, mixes or run are damaged"),
    "weight": (lambda edit: {**edit, "parts": [{"mix": {"0": "x"}, "steps": 1}]}, "a weight must be a finite number"),
    "run": (lambda edit: {**edit, "run": {**edit["run"], "folder": 3}}, "folder can't be 3"),
    "unknown": (lambda edit: {**edit, "run": {**edit["run"], "color": 3}}, "color can't be 3"),
    "name": (lambda edit: {**edit, "run": {**edit["run"], "names": {"0": 3}}}, "the name of potential 0 can't be used"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named(run, tmp_path, damage, message):
    file = tmp_path / "edit.json"
    file.write_text(json.dumps(damage(run.edit(0, 1).to_json())))
    with pytest.raises(InputError) as error:
        ff.load_edit(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


@pytest.fixture
def saved(digits_folder):
    """A run's edit in a file."""
    return ff.load_run(digits_folder).edit({0: 1.0, 2: -0.5}, 1.5).then(1, 2).save(digits_folder.parent / "edit.json")


def test_apply_edits_latents_in_a_file(digits_folder, saved, tmp_path, capsys):
    run = ff.load_run(digits_folder)
    z0 = run.generator.starts(2, seed=5)
    np.save(tmp_path / "z.npy", z0.numpy())
    out = tmp_path / "out"
    main(["apply", str(saved), "--to", str(tmp_path / "z.npy"), "--out", str(out)])
    assert capsys.readouterr().out == f"{ff.load_edit(saved)}: wrote 7 files to {out}\n"
    expected = ff.load_edit(saved).apply(run, z0)
    written = load_file(out / "latents.safetensors")
    assert torch.equal(written["start"], z0)
    assert torch.equal(written["path"], expected.latents)
    assert torch.equal(written["edited"], expected.latents[:, -1])
    assert ff.load_edit(out / "edit.json") == ff.load_edit(saved)
    for row, pixels in enumerate(run.generator.eight_bit(expected.images[:, -1])):
        with Image.open(out / f"edited-{row:02d}.png") as picture:
            assert np.array_equal(np.asarray(picture), np.rint(255 * pixels[0].numpy()))


def test_apply_inverts_images_first(digits_folder, saved, tmp_path, capsys):
    run = ff.load_run(digits_folder)
    digits = run.generator.held_out_images[:2]
    for row, pixels in enumerate(digits):
        Image.fromarray(pixels[0].mul(255).round().byte().numpy()).save(tmp_path / f"digit-{row}.png")
    out = tmp_path / "out"
    main(["apply", str(saved), "--to", str(tmp_path), "--out", str(out), "--latents-format", "npz"])
    printed = capsys.readouterr()
    assert re.search(r"inverted by encoder; .*\n  0\.\d{4}  digit-0\.png\n  0\.\d{4}  digit-1\.png\n", printed.out)
    assert printed.err == ""
    with np.load(out / "latents.npz") as latents:
        torch.testing.assert_close(
            torch.from_numpy(latents["start"]), run.generator.encode(digits), rtol=1e-2, atol=2e-2
        )  # fmt: skip
    assert json.loads((out / "index.json").read_text())["images"]["names"] == ["digit-0.png", "digit-1.png"]
    assert (out / "inverted.png").is_file()


def fails(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    assert (exit_.value.code, printed.err.count("\n")) == (2, 1)
    return printed.err


def test_apply_refuses_what_does_not_fit(digits_folder, saved, tmp_path, capsys):
    np.save(tmp_path / "z.npy", np.zeros((1, 8), dtype=np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((1, 9), dtype=np.float32))
    out, to = tmp_path / "out", ("--to", tmp_path / "z.npy")
    assert "latents in" in fails(capsys, "apply", saved, "--to", tmp_path / "wide.npy", "--out", out)
    assert "isn't an image" in fails(capsys, "apply", saved, "--to", saved, "--out", out)
    assert "isn't JSON" in fails(capsys, "apply", tmp_path / "z.npy", *to, "--out", out)
    assert "one file of latents" in fails(capsys, "apply", saved, *to, saved, "--out", out)
    assert "isn't a run" in fails(capsys, "apply", saved, *to, "--out", out, "--folder", tmp_path)
    assert "lies among the run's checkpoints" in fails(
        capsys, "apply", saved, *to, "--out", digits_folder / "checkpoints" / "edited"
    )
    lost = json.loads(saved.read_text())
    del lost["digest"]  # by which the change would be noticed
    lost["run"]["folder"] = str(tmp_path / "gone")
    (tmp_path / "lost.json").write_text(json.dumps(lost))
    assert "isn't there: say with --folder where it is" in fails(
        capsys, "apply", tmp_path / "lost.json", *to, "--out", out
    )
    assert not out.exists()
    main(["apply", str(saved), *map(str, to), "--out", str(out)])
    assert "holds edited images already" in fails(capsys, "apply", saved, *to, "--out", out)
    (out / "notes.txt").write_text("mine")
    assert "isn't a folder of edited images" in fails(capsys, "apply", saved, *to, "--out", out, "--overwrite")


def test_apply_to_a_run_that_was_trained_on(digits_folder, saved, tmp_path, capsys):
    np.save(tmp_path / "z.npy", np.zeros((1, 8), dtype=np.float32))
    small_run(digits_folder, ff.generators.load("digits-vae"), resume=True, steps=7)
    words = ("apply", saved, "--to", tmp_path / "z.npy", "--out", tmp_path / "out")
    assert "at step 7 has other potentials" in fails(capsys, *words)
    main([*map(str, words), "--retrained"])
    assert ff.load_edit(tmp_path / "out" / "edit.json").run.training_steps == 7


def test_an_edit_that_has_changed_is_refused(digits_folder, tmp_path):
    file = ff.load_run(digits_folder).edit(0, 2.5).save(tmp_path / "edit.json")
    file.write_text(file.read_text().replace("2.5", "3.5"))
    with pytest.raises(ff.InputError, match=r"edit\.json' has changed since it was written"):
        ff.load_edit(file)
