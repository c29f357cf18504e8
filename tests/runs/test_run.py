"""Runs: what a folder must hold to be one, what it is compared with, and what may be removed from it."""

import json
import multiprocessing
import os
import shutil
import signal

import pytest
import torch
from support.runs import contents, metrics, saved, sigmoid_generator, sigmoid_images, small_config, small_run, weights

from fastflow import generators
from fastflow.core import files
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.generators.identity import describe
from fastflow.metrics.evaluation import evaluate
from fastflow.runs.loading import load_run
from fastflow.runs.train import discover
from fastflow.training.discover import Discovery
from fastflow.training.distributed import Team
from fastflow.training.run_folder import About, train_in


def change_record(folder, change):
    file = folder / "config.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def test_folder_holds_what_is_documented(digits_folder):
    record = json.loads((digits_folder / "config.json").read_text())
    assert record["kind"] == "discover"
    assert record["generator"]["name"] == "digits-vae"
    assert record["config"]["num_potentials"] == 3
    assert {"fastflow", "torch", "numpy", "python", "platform"} <= set(record["versions"])
    assert [line["step"] for line in metrics(digits_folder)] == [2, 4, 6]
    assert sorted(path.name for path in digits_folder.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl"]


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


def measured(run):
    result = evaluate(run, 60, progress=False)
    del result["seconds"]
    return result


def test_evaluation_is_of_the_trained_weights(tmp_path):
    trained = small_run(tmp_path / "run", generators.load("digits-vae"), steps=30)
    expected = measured(trained)
    assert measured(load_run(tmp_path / "run")) == expected

    untrained = load_run(tmp_path / "run")
    fresh = Discovery(untrained.config, untrained.generator)
    untrained.bank.load_state_dict(fresh.bank.state_dict())
    untrained.pde.load_state_dict(fresh.pde.state_dict())
    found = measured(untrained)
    assert found["strength"]["per_potential"] != expected["strength"]["per_potential"]
    assert found["residual"]["after"] == found["residual"]["before"] == expected["residual"]["before"]
    assert expected["residual"]["after"] != expected["residual"]["before"]


# What isn't a run


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
        "config.json: dt must be a finite number",
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
        "config must be a DiscoverConfig, got dict: use DiscoverConfig(**settings)",
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


# The report


def test_run_in_hand_is_reported_without_its_generator_having_a_name(tmp_path):
    run = small_run(tmp_path / "run")
    page = run.report(samples=24, progress=False)
    assert page == tmp_path / "run" / "report.html"
    assert "<html" in page.read_text(encoding="utf-8")
    names = ("evaluation.json", "traversals/index.json")
    first = {name: contents(tmp_path / "run")[name] for name in names}
    assert all(json.loads(text)["training_steps"] == 6 for text in first.values())
    run.report(progress=False)
    assert {name: contents(tmp_path / "run")[name] for name in names} == first

    later = small_run(tmp_path / "run", resume=True, steps=8)
    later.report(samples=24, progress=False)
    assert all(json.loads((tmp_path / "run" / name).read_text())["training_steps"] == 8 for name in names)


def test_run_evaluates_itself(tmp_path):
    result = small_run(tmp_path / "run").evaluate(samples=24, seed=2, progress=False)
    assert (result["samples"], result["seed"]) == (24, 2)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == result


# The generator


OTHERS = {
    "negative": lambda z: -sigmoid_images(z),
    "mirrored": lambda z: sigmoid_images(z).flip(3),
    "brighter": lambda z: sigmoid_images(z) + 0.01,
    "of-other-latents": lambda z: sigmoid_images(z.flip(1)),
    "larger": lambda z: sigmoid_images(z).repeat(1, 1, 2, 2),
}


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


# Folders


def test_new_run_refuses_a_folder_that_holds_one(tmp_path):
    small_run(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already: resume it, overwrite it, or choose another folder"):
        small_run(tmp_path / "run", seed=1)
    assert contents(tmp_path / "run") == before


def foreign_file(folder):
    (folder / "thesis.tex").write_text("mine")


def foreign_config(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "weights").write_text("mine")


@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
@pytest.mark.parametrize("fill", [foreign_file, foreign_config])
def test_foreign_folders_are_left_alone(tmp_path, fill, mode):
    folder = tmp_path / "thesis"
    folder.mkdir()
    fill(folder)
    before = contents(folder)
    with pytest.raises(InputError, match="isn't a run"):
        small_run(folder, **mode)
    assert contents(folder) == before


@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
def test_empty_folder_becomes_the_run(tmp_path, mode):
    (tmp_path / "run").mkdir()
    assert small_run(tmp_path / "run", **mode).step == 6


@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
def test_what_a_killed_process_left_of_a_file_is_in_nobodys_way(tmp_path, mode):
    (tmp_path / "run").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "run" / f".{name}.4711.tmp").write_text('{"kind')
    assert small_run(tmp_path / "run", **mode).step == 6
    assert not list((tmp_path / "run").glob(".*"))


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file, expected a folder for the run"):
        small_run(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_overwriting_removes_what_runs_make_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    small_run(folder)
    for name in ("evaluation.json", "report.html", "notes.txt"):
        (folder / name).write_text("old")
    for name in ("traversals", "figures"):
        (folder / name).mkdir()
        (folder / name / "a.png").write_text("old")
    small_run(folder, overwrite=True, seed=1, steps=3)
    small_run(tmp_path / "fresh", seed=1, steps=3)
    assert saved(folder, 3) == saved(tmp_path / "fresh", 3)
    assert [line["step"] for line in metrics(folder)] == [2, 3]
    kept = set(contents(folder)) - set(contents(tmp_path / "fresh"))
    assert kept == {"notes.txt", "figures/a.png"}


def test_overwriting_with_settings_that_do_not_fit_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    small_run(folder)
    before = contents(folder)
    with pytest.raises(InputError, match="carry no gradient"):
        small_run(folder, from_callable(lambda z: z.detach().reshape(-1, 1, 2, 2), 4), overwrite=True)
    assert contents(folder) == before


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(InputError, match="exclude each other"):
        small_run(tmp_path / "run", resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("learning_rate", 0.1), ("num_potentials", 2), ("hidden", (9,)), ("pde", "heat"), ("dt", 0.5)],
)
def test_resume_refuses_changed_settings(tmp_path, name, value):
    small_run(tmp_path / "run", steps=3)
    before = contents(tmp_path / "run")
    with pytest.raises(
        InputError, match=f"can't resume .*: {name} was .* and is now .*; resume with the same settings"
    ):
        small_run(tmp_path / "run", resume=True, **{name: value})
    assert contents(tmp_path / "run") == before


def test_resume_refuses_a_lower_max_loss(tmp_path):
    """A good checkpoint could lie beyond it, and a checkpoint whose next step fails is removed."""
    small_run(tmp_path / "run", steps=3, max_loss=1e3)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="max_loss was 1000 and may only be raised, it is now 999"):
        small_run(tmp_path / "run", resume=True, max_loss=999.0)
    assert contents(tmp_path / "run") == before
    assert small_run(tmp_path / "run", resume=True, max_loss=1e4).step == 6


def test_resume_may_change_how_long_and_how_often(tmp_path):
    small_run(tmp_path / "run", steps=3)
    run = small_run(tmp_path / "run", resume=True, steps=5, log_every=1, checkpoint_every=1)
    assert load_run(tmp_path / "run", sigmoid_generator()).config == run.config == small_config(
        steps=5, log_every=1, checkpoint_every=1
    )  # fmt: skip


def test_resume_from_a_damaged_checkpoint_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    small_run(folder)
    (folder / "checkpoints" / "step-000006" / "optimizer.safetensors").write_bytes(b"no")
    before = contents(folder)
    with pytest.raises(InputError, match=r"is damaged: its optimizer\.safetensors can't be read"):
        small_run(folder, resume=True, steps=9, log_every=1)
    assert contents(folder) == before


@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
def test_folder_in_use_is_refused_and_left_alone(tmp_path, mode):
    folder = tmp_path / "run"
    small_run(folder, steps=3)
    before = contents(folder)
    with files.locked_folder(folder), pytest.raises(InputError, match=r"another process is training in .*run': wait"):
        small_run(folder, **mode)
    assert contents(folder) == before
    assert small_run(folder, resume=True).step == 6


def test_new_folder_in_use_is_refused(tmp_path):
    with files.locked_folder(tmp_path / "run"), pytest.raises(InputError, match="another process is training in"):
        small_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_lock_ends_with_its_process(tmp_path):
    def hold():
        with files.locked_folder(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGKILL)

    (tmp_path / "run").mkdir()
    child = multiprocessing.get_context("fork").Process(target=hold)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with files.locked_folder(tmp_path / "run"):
        pass


def test_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def fail(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    with pytest.warns(UserWarning, match=r"can't lock .*Operation not supported.*no other process trains there"):
        assert small_run(tmp_path / "run").step == 6


def test_new_folder_is_removed_if_its_configuration_can_not_be_written(tmp_path, monkeypatch):
    def fail(path, *rest, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_text", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/run/config.json'"):
        small_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_run_says_what_it_is(digits_folder):
    assert repr(load_run(digits_folder)) == f"Run({str(digits_folder)!r}, step=6, 3 potentials)"


def test_batch_that_cannot_be_shared_leaves_the_run_that_overwrite_would_replace(tmp_path):
    small_run(tmp_path / "run")
    before = contents(tmp_path / "run")
    generator = sigmoid_generator()
    config, about = small_config(), About("discover", {"generator": describe(generator)}, lambda record, folder: None)
    task = Discovery(config, generator)
    with pytest.raises(InputError, match="batch_size must be a multiple of the 5 processes, got 12"):
        train_in(tmp_path / "run", task, config, about, Team(0, 5), resume=False, overwrite=True, progress=False)
    assert contents(tmp_path / "run") == before
