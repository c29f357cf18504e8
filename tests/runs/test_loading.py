"""Loading runs: what isn't one, and which generator a run needs."""

import json
import shutil

import pytest
import torch
from support.runs import contents, sigmoid_generator, sigmoid_images, small_run, weights

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.runs.loading import load_run
from fastflow.runs.train import discover


def change_record(folder, change):
    file = folder / "config.json"
    record = json.loads(file.read_text())
    del record["digest"]  # as somebody does who changes the file on purpose
    change(record)
    file.write_text(json.dumps(record))


def test_loaded_run_is_the_trained_one(tmp_path):
    trained = small_run(tmp_path / "run", generators.load("digits-vae"))
    loaded = load_run(tmp_path / "run")
    assert (loaded.step, loaded.config, loaded.folder) == (6, trained.config, tmp_path / "run")
    assert all(torch.equal(value, weights(trained)[name]) for name, value in weights(loaded).items())
    assert not any(parameter.requires_grad for parameter in loaded.bank.parameters())

    z0 = loaded.generator.starts(2)
    one, other = trained.traverse(z0, 1), loaded.traverse(z0, 1)
    assert torch.equal(one.latents, other.latents)
    assert torch.equal(one.images, other.images)


def test_loaded_run_takes_the_newest_checkpoint(digits_folder):
    newest = load_run(digits_folder)
    shutil.rmtree(digits_folder / "checkpoints" / "step-000006")
    older = load_run(digits_folder)
    assert (newest.step, older.step) == (6, 3)
    assert not torch.equal(newest.bank.out_weight, older.bank.out_weight)


NO_RUNS = {
    "absent": (
        lambda folder: shutil.rmtree(folder),
        "isn't a run: expected a folder that fastflow discover or train-vae made",
    ),
    "no-config": (lambda folder: (folder / "config.json").unlink(), "isn't a run: expected a folder"),
    "config-cut-off": (lambda folder: (folder / "config.json").write_text('{"kind": '), "isn't JSON"),
    "config-binary": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "isn't JSON"),
    "config-of-another-program": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        "isn't a run: its config.json isn't one that fastflow discover or train-vae wrote",
    ),
    "config-list": (lambda folder: (folder / "config.json").write_text("[]"), "isn't a run"),
    "no-checkpoints": (lambda folder: shutil.rmtree(folder / "checkpoints"), "has no checkpoint yet"),
    "unknown-key": (
        lambda folder: change_record(folder, lambda record: record["config"].update(potentials=3)),
        "config.json has an unknown key 'potentials'",
    ),
    "wrong-type": (
        lambda folder: change_record(folder, lambda record: record["config"].update(learn_pde="false")),
        "config.json: learn_pde must be true or false, got 'false'",
    ),
    "no-potentials": (
        lambda folder: change_record(folder, lambda record: record["config"].update(num_potentials=0)),
        "config.json: num_potentials must be above 0, got 0",
    ),
    "another-size": (
        lambda folder: change_record(folder, lambda record: record["config"].update(hidden=[9])),
        "is of another model",
    ),
    "no-generator": (lambda folder: change_record(folder, lambda record: record.pop("generator")), "isn't a run"),
    "unknown-generator": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(name="my-gan")),
        "can't be found by name: pass it to ff.load_run as generator=, or to the command as --generator FILE.py:FUNC",
    ),
    "named-without-path": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(name="sngan")),
        "can't be found by name: pass it to ff.load_run as generator=",
    ),
    "generator-name-list": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(name=["x"])),
        "isn't a run: its config.json isn't one",
    ),
    "generator-width-text": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(latent_dim="8")),
        "isn't a run: its config.json isn't one",
    ),
    "generator-pixels": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(pixels=[[0.5], "x"])),
        "isn't a run: its config.json isn't one",
    ),
    "generator-pixels-gone": (
        lambda folder: change_record(folder, lambda record: record["generator"].pop("pixels")),
        "isn't a run: its config.json isn't one",
    ),
    "beyond-floats": (
        lambda folder: change_record(folder, lambda record: record["config"].update(dt=10**400)),
        "config.json' can't be used: config.dt must be a finite number",
    ),
    "generator-file-gone": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(name="gone.py:make")),
        "generator file 'gone.py' doesn't exist",
    ),
    "zero-width": (
        lambda folder: change_record(folder, lambda record: record["generator"].update(latent_dim=0)),
        "has latents of width 8, not 0",
    ),
    "checkpoint-damaged": (
        lambda folder: (folder / "checkpoints" / "step-000006" / "weights.safetensors").write_bytes(b"no"),
        "is damaged: its weights.safetensors can't be read",
    ),
}


@pytest.mark.parametrize(("damage", "message"), NO_RUNS.values(), ids=NO_RUNS)
def test_load_run_refuses(digits_folder, damage, message):
    damage(digits_folder)
    before = contents(digits_folder)
    with pytest.raises(InputError) as error:
        load_run(digits_folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(digits_folder) == before


WRONG_ARGUMENTS = {
    "no-folder": (lambda run: load_run(None), "a run's folder must be a path, got None"),
    "no-out": (lambda run: discover(run.generator, run.config, None), "a run's folder must be a path, got None"),
    "device": (lambda run: load_run(run.folder, device="foo"), "device must be cpu, cuda or cuda:N, got 'foo'"),
    "callable-to-load": (
        lambda run: load_run(run.folder, sigmoid_images),
        "generator must be a fastflow generator, got function: wrap it in ff.generators.from_callable",
    ),
    "callable-to-discover": (
        lambda run: discover(sigmoid_images, run.config, run.folder / "new"),
        "generator must be a fastflow generator, got function: wrap it in ff.generators.from_callable",
    ),
    "settings": (
        lambda run: discover(run.generator, {"steps": 3}, run.folder / "new"),
        "config must be a DiscoverConfig, got dict: use DiscoverConfig(**options)",
    ),
    "no-generator": (lambda run: generators.load(None), "a generator's name must be a text, digits-vae, faces, KIND"),
}


@pytest.mark.parametrize(("call", "message"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_arguments_of_the_wrong_kind_are_named(digits_folder, call, message):
    run = load_run(digits_folder)
    with pytest.raises(InputError) as error:
        call(run)
    assert message in str(error.value)
    assert not (digits_folder / "new").exists()


OTHERS = {
    "negative": lambda z: -sigmoid_images(z),
    "mirrored": lambda z: sigmoid_images(z).flip(3),
    "brighter": lambda z: sigmoid_images(z) + 0.01,
    "of-other-latents": lambda z: sigmoid_images(z.flip(1)),
    "larger": lambda z: sigmoid_images(z).repeat(1, 1, 2, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("images", OTHERS.values(), ids=OTHERS)
def test_another_generator_is_noticed(tmp_path, images):
    small_run(tmp_path / "run")
    other = from_callable(images, 4)
    with pytest.raises(InputError, match="was trained on another generator than this one"):
        load_run(tmp_path / "run", other)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="was trained on another generator"):
        small_run(tmp_path / "run", other, resume=True)
    assert contents(tmp_path / "run") == before


def test_another_value_range_is_noticed(tmp_path):
    small_run(tmp_path / "run")
    with pytest.raises(InputError, match="was trained on another generator"):
        load_run(tmp_path / "run", sigmoid_generator(value_range=(-1, 1)))


def test_rounding_of_another_machine_is_not_another_generator(tmp_path):
    small_run(tmp_path / "run")
    assert load_run(tmp_path / "run", from_callable(lambda z: sigmoid_images(z) * (1 + 1e-5), 4)).step == 6


def test_generator_made_in_python_must_be_passed(tmp_path):
    small_run(tmp_path / "run")
    with pytest.raises(InputError, match="a generator made in Python"):
        load_run(tmp_path / "run")
    assert load_run(tmp_path / "run", sigmoid_generator()).step == 6


def test_generator_from_a_file_is_found_again(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def decode(z):\n    return z.sigmoid().reshape(-1, 1, 2, 2)\n")
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "run", generators.load("mine.py:decode", 4))
    monkeypatch.chdir("/")
    assert load_run(tmp_path / "run").generator.latent_dim == 4
