"""Runs that can't be looked at as asked: one line on stderr, exit status 2, nothing half-written, nothing lost."""

import multiprocessing
import os

import pytest
from support.commands import fails, fails_after_a_word, files_up_to
from support.runs import contents, options

from fastflow.cli.main import main
from fastflow.core import leftovers
from fastflow.metrics import evaluation
from fastflow.runs.loading import load_run
from fastflow.runs.run import Run

TRAVERSE_REFUSES = {
    "potential": (["--potential", "3"], "potential must be one or more of 0..2, got 3"),
    "negative-potential": (["--potential", "-1"], "potential must be one or more of 0..2, got -1"),
    "no-potential": (["--potential"], "potential must be one or more of 0..2, got none"),
    "steps": (["--steps", "0"], "steps must be a whole number of at least 1, got 0"),
    "forward-steps": (["--steps", "0", "--direction", "forward"], "steps must be a whole number of at least 1, got 0"),
    "starts": (["--starts", "0"], "starts must be at least 1, got 0"),
    "more-starts-than-digits": (["--starts", "1000"], "count must be at most the 359 held-out digits, got 1000"),
    "direction": (["--direction", "up"], "--direction"),
    "seed": (["--seed", "-1"], "seed must be a whole number in 0..2^63 - 1, got -1"),
    "large-seed": (["--seed", str(2**64)], "seed must be a whole number in 0..2^63 - 1, got 18446744073709551616"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), TRAVERSE_REFUSES.values(), ids=TRAVERSE_REFUSES)
def test_traverse_refuses_and_writes_nothing(digits_folder, capsys, arguments, message):
    before = contents(digits_folder)
    assert message in fails(capsys, "traverse", digits_folder, *arguments)
    assert contents(digits_folder) == before
    assert not (digits_folder / "traversals").exists()


def test_traversals_stay_out_of_the_checkpoints(digits_folder, tmp_path, capsys, monkeypatch):
    before = contents(digits_folder)
    (tmp_path / "cwd" / "link").symlink_to(digits_folder / "checkpoints")
    for out in (digits_folder / "checkpoints" / "x", digits_folder / "checkpoints" / "step-000003" / "x", "link/x"):
        assert "lies among the run's checkpoints" in fails(capsys, "traverse", digits_folder, "--out", out)
    assert contents(digits_folder) == before


def test_occupied_traversal_folders(digits_folder, tmp_path, capsys):
    main(["traverse", str(digits_folder), "--starts", "1"])
    capsys.readouterr()
    before = contents(digits_folder)
    assert "holds traversals already: overwrite them" in fails(capsys, "traverse", digits_folder, "--starts", "1")
    assert contents(digits_folder) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    "names", [["notes.txt"], ["index.json", "index.html"], ["potential-00.png", "a/b"]], ids="+".join
)
def test_traversals_never_replace_other_files(digits_folder, tmp_path, capsys, names, overwrite):
    for name in names:
        file = tmp_path / "cwd" / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    before = contents(tmp_path / "cwd")
    assert "isn't a folder of traversals" in fails(capsys, "traverse", digits_folder, "--out", "site", *overwrite)
    assert contents(tmp_path / "cwd") == before


def test_no_space_for_traversals(digits_folder, capsys):
    main(["traverse", str(digits_folder), "--starts", "1"])
    capsys.readouterr()
    before = contents(digits_folder)
    with files_up_to(4_000):
        said = fails(capsys, "traverse", digits_folder, "--starts", "6", "--overwrite")
    assert said == f"File too large: '{digits_folder}/traversals'"
    assert contents(digits_folder) == before


@pytest.mark.parametrize(("samples", "seed"), [(5, 1), (0, 1), (24, -1)])
def test_evaluate_refuses_and_writes_nothing(digits_folder, capsys, samples, seed):
    said = fails(capsys, "evaluate", digits_folder, "--samples", samples, "--seed", seed)
    assert "whole number of at least 6" in said or "seed must be a whole number" in said
    assert not (digits_folder / "evaluation.json").exists()


@pytest.mark.parametrize(("samples", "seed"), [(5, 1), (24, -1)])
def test_evaluate_refuses_before_it_asks_a_predictor(digits_folder, tmp_path, capsys, samples, seed):
    (tmp_path / "look.py").write_text("def look(images):\n    return images.mean((1, 2, 3))\n")
    words = ("--samples", samples, "--seed", seed, "--predictor", f"{tmp_path}/look.py:look")
    assert "must be a whole number" in fails(capsys, "evaluate", digits_folder, *words)
    assert not (digits_folder / "attributes.json").exists()


def test_attributes_need_a_predictor(digits_folder, capsys):
    assert "--attributes are the names" in fails(capsys, "evaluate", digits_folder, "--attributes", "smile")


def test_no_space_for_the_evaluation(digits_folder, capsys):
    before = contents(digits_folder)
    with files_up_to(200):
        said = fails_after_a_word(capsys, "evaluate", digits_folder, "--samples", "24")
    assert said == f"File too large: '{digits_folder}/evaluation.json'"
    assert contents(digits_folder) == before


# Before the work

WORK = {
    "name": (["name", "run", "0", "x"], "run/names.json", "run"),
    "evaluate": (["evaluate", "run"], "run/evaluation.json", "run"),
    "report": (["report", "run"], "run/report.html", "run"),
    "traverse": (["traverse", "run"], "run/traversals", "run"),
    "traverse-images": (["traverse", "run", "--out", "new/er", "--images", "absent.png"], "new/er", "."),
    "apply": (["apply", "edit.json", "--to", "absent.png", "--out", "out"], "out", "."),
}


@pytest.mark.parametrize(("words", "file", "folder"), WORK.values(), ids=WORK)
def test_read_only_folder_is_named_as_the_user_named_it_and_before_the_work(
    digits_folder, tmp_path, capsys, monkeypatch, words, file, folder
):
    monkeypatch.chdir(tmp_path)
    load_run(digits_folder).edit(0, 1).save("edit.json")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    monkeypatch.setattr(Run, "traverse", None)  # no work is done
    monkeypatch.setattr(evaluation, "path_pairs", None)
    before = contents(tmp_path)
    said = fails(capsys, *words)
    assert said.startswith(f"{file!r} can't be written: the folder {folder!r} may not be written to")
    assert contents(tmp_path) == before


def test_read_only_file_system_is_said_without_a_temporary_file(digits_folder, capsys, monkeypatch):
    """Also where the check before the work couldn't foresee it."""

    def fail(path, *rest):
        raise OSError(30, "Read-only file system", str(path))

    before = contents(digits_folder)
    monkeypatch.setattr(leftovers.os, "open", fail)
    assert fails(capsys, "name", digits_folder, 0, "x") == f"Read-only file system: '{digits_folder}/names.json'"
    assert contents(digits_folder) == before


# After a command that was killed


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    child.join()
    return child.pid


COMMANDS = {
    "name": ["name", "run", "0", "x"],
    "evaluate": ["evaluate", "run", "--samples", "6"],
    "traverse": ["traverse", "run", "--starts", "1", "--potential", "0"],
    "resume": ["discover", "--generator", "digits-vae", "--out", "run", *options(steps=7), "--resume"],
    "overwrite": ["discover", "--generator", "digits-vae", "--out", "run", *options(steps=1), "--overwrite"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_each_command_removes_what_killed_ones_left_in_the_run(digits_folder, tmp_path, monkeypatch, words, gone):
    monkeypatch.chdir(tmp_path)
    files = [f".{name}.{gone}.tmp" for name in ("names.json", "evaluation.json", "config.json", "report.html")]
    folders = [f".traversals.{gone}.tmp", f".traversals.{gone}.old", f"checkpoints/.step-000003.{gone}.tmp"]
    alive = f".attributes.json.{os.getppid()}.tmp"
    for name in (*files, alive):
        (digits_folder / name).write_text("half")
    for name in folders:
        (digits_folder / name).mkdir()
        (digits_folder / name / "a.png").write_text("half")
    (digits_folder / "traversals").mkdir()
    main(words)
    assert [path.name for path in digits_folder.glob(".*")] == [alive]
    if "discover" in words:
        assert not list((digits_folder / "checkpoints").glob(".*"))
