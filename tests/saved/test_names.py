"""Names of potentials: they stay with the run, and everything shows them."""

import json
import threading
import time

import pytest
import torch
from support.runs import small_run

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.runs.loading import load_run
from fastflow.saved import names


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "run")


def test_name_stays_with_the_run_and_stands_for_the_potential(run):
    assert run.names == {}
    run.name(2, "rotation")
    run.name(0, " slant ")
    loaded = load_run(run.folder, run.generator)
    assert loaded.names == {0: "slant", 2: "rotation"}
    assert loaded.find("rotation") == 2
    z0 = run.generator.sample(2)
    assert torch.equal(loaded.traverse(z0, "rotation").latents, run.traverse(z0, 2).latents)

    loaded.name(2, "turn")  # another name, and none
    loaded.name(0, None)
    loaded.name(1, None)
    assert run.names == {2: "turn"}


@pytest.mark.slow
def test_new_run_in_the_folder_has_no_names(run):
    run.name(1, "rotation")
    resumed = small_run(run.folder, resume=True, steps=8)
    assert resumed.names == {1: "rotation"}
    assert small_run(run.folder, overwrite=True).names == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("potential", "name", "message"),
    [
        (3, "x", r"potential must lie in 0\.\.2, got 3"),
        (-1, "x", r"potential must lie in 0\.\.2, got -1"),
        (True, "x", r"potential must lie in 0\.\.2, got True"),
        ("rotation", "x", "potential must lie in"),
        (1, "", "must be one line of 1 to 60 characters"),
        (1, "  ", "must be one line"),
        (1, "two\nlines", "must be one line"),
        (1, "x" * 61, "must be one line"),
        (1, 7, "must be one line"),
        (1, "7", "must be more than a number"),
        (1, "taken", "potential 0 is called 'taken' already"),
    ],
)
def test_names_that_cannot_be_used(run, potential, name, message):
    run.name(0, "taken")
    with pytest.raises(InputError, match=message):
        run.name(potential, name)
    assert run.names == {0: "taken"}


def test_unknown_name_is_told_with_those_that_are_known(run):
    with pytest.raises(InputError, match=r"no potential of .* is called 'rotation'; none is named"):
        run.traverse(run.generator.sample(1), "rotation")
    run.name(0, "slant")
    run.name(1, "width")
    with pytest.raises(InputError, match="slant, width are named"):
        run.find("rotation")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold names by potential"),
        ("{", "isn't JSON"),
        ('{"a": "b"}', "must hold names by potential"),
        ('{"01": "b"}', "must hold names by potential"),
        ('{"\u0661": "b"}', "must hold names by potential"),
        ('{"%s": "b"}' % ("1" * 900), "must hold names by potential"),
        ('{"1": 2}', "the name of potential 1 can't be used: a potential's name must be one line"),
        ('{"1": ""}', "must be one line of 1 to 60 characters"),
        ('{"1": "two\\nlines"}', "must be one line"),
        ('{"1": "\\u202egnp"}', "must be one line"),
        ('{"1": "\\udcff"}', "must be one line"),
        ('{"1": "%s"}' % ("x" * 100_000), r"must be one line .* \(100002 characters\)$"),
        ('{"1": "7"}', "must be more than a number"),
        ('{"1": " slant"}', "must not begin or end with a space"),
        ('{"1": "slant", "2": "slant"}', "gives two potentials the same name"),
        ('{"1": "slant", "1": "width"}', "has the key '1' twice"),
    ],
)
def test_names_are_held_to_their_rules_when_they_are_read(run, content, message):
    (run.folder / "names.json").write_text(content)
    with pytest.raises(InputError, match=rf"names\.json' ?.*{message}") as error:
        run.names  # noqa: B018
    assert len(str(error.value)) < 500


def test_names_on_the_command_line(digits_folder, capsys):
    main(["name", str(digits_folder)])
    assert capsys.readouterr().out == "no potential has a name\n"
    main(["name", str(digits_folder), "2", "slant to the left"])
    main(["name", str(digits_folder), "0", "width"])
    assert capsys.readouterr().out.splitlines()[-2:] == ["  0  width", "  2  slant to the left"]
    assert json.loads((digits_folder / "names.json").read_text()) == {"0": "width", "2": "slant to the left"}
    main(["name", str(digits_folder), "0", "--remove"])
    assert capsys.readouterr().out == "  2  slant to the left\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0"], "give a potential and its name, a potential and --remove, or neither"),
        (["--remove"], "give a potential and its name"),
        (["0", "x", "--remove"], "give a potential and its name"),
        (["9", "x"], "potential must lie in 0..2, got 9"),
        (["x", "0"], "is called 'x'; none is named"),
    ],
)
def test_names_on_the_command_line_are_checked(digits_folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main(["name", str(digits_folder), *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (digits_folder / "names.json").exists()


def test_names_given_at_once_are_all_kept(run, monkeypatch):
    def slowly(*read):
        found = read_names(*read)
        time.sleep(0.05)
        return found

    read_names = names.read_names
    monkeypatch.setattr(names, "read_names", slowly)
    givers = [threading.Thread(target=run.name, args=(k, f"name {k}")) for k in range(3)]
    for giver in givers:
        giver.start()
    for giver in givers:
        giver.join()
    assert run.names == {k: f"name {k}" for k in range(3)}
