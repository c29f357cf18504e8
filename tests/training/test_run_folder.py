"""Run folders: new, resumed and overwritten runs, and what is left alone."""

import multiprocessing
import os
import signal

import pytest
from support.runs import contents, metrics, saved, sigmoid_generator, small_config, small_run

from fastflow.core import files
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.generators.identity import describe
from fastflow.runs.loading import load_run
from fastflow.training.discover import Discovery
from fastflow.training.distributed import ProcessGroup
from fastflow.training.run_folder import RunDescription, train_in


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


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
def test_empty_folder_becomes_the_run(tmp_path, mode):
    (tmp_path / "run").mkdir()
    assert small_run(tmp_path / "run", **mode).step == 6


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("learning_rate", 0.1), ("num_potentials", 2), ("hidden", (9,)), ("pde", "heat"), ("dt", 0.5)],
)
def test_resume_refuses_changed_settings(tmp_path, name, value):
    small_run(tmp_path / "run", steps=3)
    before = contents(tmp_path / "run")
    with pytest.raises(
        InputError, match=f"can't resume .*: {name} was .* and is now .*; resume with the same configuration"
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


@pytest.mark.slow
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


def test_batch_that_cannot_be_shared_leaves_the_run_that_overwrite_would_replace(tmp_path):
    small_run(tmp_path / "run")
    before = contents(tmp_path / "run")
    generator = sigmoid_generator()
    config = small_config()
    description = RunDescription("discover", {"generator": describe(generator)}, lambda record, folder: None)
    task = Discovery(config, generator)
    with pytest.raises(InputError, match="batch_size must be a multiple of the 5 processes, got 12"):
        train_in(
            tmp_path / "run",
            task,
            config,
            description,
            ProcessGroup(0, 5),
            resume=False,
            overwrite=True,
            progress=False,
        )
    assert contents(tmp_path / "run") == before


def test_a_folder_that_a_file_manager_has_looked_at_is_empty(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert small_run(tmp_path / "run", steps=1).step == 1
