"""What SECURITY.md says runs code, and what it says doesn't: a stranger's files run nothing unless they are trusted."""

import json
import os
import shutil
import subprocess
import sys
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.commands import fails
from support.runs import options, small_config, small_run

import fastflow as ff
from fastflow.app.explorer import Explorer
from fastflow.cli import look, main
from fastflow.cli.main import Command
from fastflow.core.errors import InputError
from fastflow.generators import archives
from fastflow.runs.run import Run

MARK = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
GENERATOR = f"{MARK}import fastflow as ff\ndef make(): return ff.generators.load('digits-vae')\n"
CLASSIFIER = (
    f"{MARK}import torch\n"
    "class Own(torch.nn.Module):\n"
    "    def __init__(self, shape, count):\n"
    "        super().__init__()\n        self.last = torch.nn.Linear(64, count)\n"
    "    def forward(self, x, y): return self.last((y - x).flatten(1))\n"
)


def change(folder, edit):
    """Change a run's config.json, as a stranger may, who can also remove the digest by which a change is noticed."""
    record = json.loads((folder / "config.json").read_text())
    record.pop("digest", None)
    edit(record)
    (folder / "config.json").write_text(json.dumps(record))


def name_generator(folder, kind, path, function="", **given):
    """Let a run's config.json name a generator, as the present version writes it."""
    spec = {"kind": kind, "path": str(path), "function": function, "options": given}
    name = f"{path}:{function}" if function else ",".join([str(path), *(f"{key}={given[key]}" for key in given)])
    change(folder, lambda record: record["generator"].update(name=name, spec=spec))


def ran(folder):
    """Whether a program in a folder was run since this was last asked."""
    mark = folder / "ran"
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found


@pytest.fixture
def strange(digits_folder):
    """A run whose config.json names programs beside it, which leave a mark when they are run."""
    (digits_folder / "generator.py").write_text(GENERATOR)
    (digits_folder / "classifier.py").write_text(CLASSIFIER)
    name_generator(digits_folder, "function", digits_folder / "generator.py", "make")
    change(digits_folder, lambda record: record["config"].update(classifier=f"{digits_folder}/classifier.py:Own"))
    return digits_folder


LINKS = {
    "a folder": ("traversals", True),
    "checkpoints": ("checkpoints", True),
    "a file": ("report.html", False),
    "a file to be": ("metrics.jsonl", None),
    "inside": ("traversals/potential-00.png", False),
    "an unfinished checkpoint": ("checkpoints/.step-000001", True),
}


@pytest.mark.parametrize(
    ("command", "place", "folder"),
    [
        *(("report", *link) for link in LINKS.values()),
        *((command, *LINKS["checkpoints"]) for command in ("traverse", "evaluate", "name", "resume")),
    ],
    ids=[*LINKS, "traverse", "evaluate", "name", "resume"],
)
def test_a_link_in_a_strangers_run_leads_nowhere(digits_folder, tmp_path, monkeypatch, capsys, command, place, folder):
    """Whatever it leads to is neither written nor read."""
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine"
    if folder:
        mine.mkdir()
        (mine / "precious").write_text("mine")
    elif folder is False:
        mine.write_text("mine")
    link = digits_folder / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(mine)
    arguments = {
        "traverse": ["traverse", str(digits_folder), "--potential", "0", "--starts", "1"],
        "name": ["name", str(digits_folder), "0", "slant"],
        "resume": [
            "discover",
            "--generator",
            "digits-vae",
            "--out",
            str(digits_folder),
            *options(steps=8),
            "--resume",
        ],
    }.get(command, [command, str(digits_folder)])
    said = fails(capsys, *arguments)
    assert f"{str(link)!r} is a link, to {str(mine)!r}, where a file or folder of {str(digits_folder)!r} itself" in said
    kept = [path.read_text() for path in sorted(tmp_path.rglob("precious"))] if folder else mine.exists()
    assert kept == (["mine"] if folder else folder is False)


def test_a_link_in_a_folder_that_would_be_moved_back_leads_nowhere(digits_folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("mine")
    shutil.rmtree(digits_folder / "checkpoints")
    hidden = digits_folder / ".checkpoints.99999999.old"
    hidden.mkdir()
    (hidden / "step-000006").symlink_to(mine)
    main(["discover", "--generator", "digits-vae", "--out", str(digits_folder), *options(steps=6), "--resume"])
    assert [path.name for path in mine.iterdir()] == ["precious"]
    assert not (digits_folder / "checkpoints").is_symlink()


def test_a_report_embeds_no_link(digits_folder, tmp_path):
    ff.load_run(digits_folder).report(60)
    picture = digits_folder / "traversals" / "potential-00.png"
    picture.rename(tmp_path / "secret.png")
    picture.symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="is a link"):
        ff.report.write_report(digits_folder)


# Each command that opens a run, an edit or a configuration, on a stranger's.
COMMANDS = {
    "traverse": ["traverse", "RUN", "--starts", "1", "--steps", "1", "--potential", "0", "--out", "out"],
    "evaluate": ["evaluate", "RUN", "--samples", "60"],
    "report": ["report", "RUN"],
    "serve": ["serve", "RUN", "--port", "0"],
    "apply": ["apply", "EDIT", "--to", "latent.npy", "--out", "out"],
    "apply-to-a-run": ["apply", "EDIT", "--folder", "RUN", "--to", "latent.npy", "--out", "out"],
    "discover": ["discover", "--generator", "digits-vae", "--config", "RUN/config.json", "--out", "out"],
}
# What the other commands take names no program, or is typed.
HARMLESS = {"info", "demo", "train-vae", "name", "compare", "study"}


@pytest.fixture
def words(request, strange, tmp_path, monkeypatch):
    """The words of a command, which is run in a folder with what it needs."""
    monkeypatch.chdir(tmp_path)
    np.save("latent.npy", np.zeros((1, 8), np.float32))
    edit = ff.load_run(strange, ff.generators.load("digits-vae")).edit(0, 1).save("edit.json")
    names = {"EDIT": str(edit), "RUN": str(strange), "RUN/config.json": str(strange / "config.json")}
    return [names.get(word, word) for word in COMMANDS[request.param]]


def test_every_command_is_tried_or_takes_nothing_that_names_a_program():
    known = {argument.__metadata__[0].name for argument in typing.get_args(typing.get_args(Command)[0])}
    assert known == {words[0] for words in COMMANDS.values()} | HARMLESS


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_no_command_runs_a_strangers_program(words, strange, capsys):
    message = fails(capsys, *words)
    file = strange / ("classifier.py" if words[0] == "discover" else "generator.py")
    assert f"would run the program '{file}', function" in message
    assert "which you haven't trained it with on this machine" in message
    assert "--trust" in message
    assert not ran(strange)


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_every_command_runs_it_if_it_is_trusted_that_once(words, strange, capsys, monkeypatch):
    monkeypatch.setattr(Run, "report", lambda run, samples: None)
    monkeypatch.setattr(look, "serve", lambda run, *where, generator, **rest: print(generator))
    main([*words, "--trust"])
    assert ran(strange)
    output = capsys.readouterr().out
    assert (words[0] != "serve") or output == "trust=True\n"
    if words[0] != "discover":
        fails(capsys, *words)
        assert not ran(strange)


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_every_command_takes_a_program_of_ones_own_in_its_place(words, strange, monkeypatch):
    monkeypatch.setattr(Run, "report", lambda run, samples: None)
    monkeypatch.setattr(look, "serve", lambda run, *where, **rest: None)
    main([*words, *(["--classifier", "small"] if words[0] == "discover" else ["--generator", "digits-vae"])])
    assert not ran(strange)


def test_names_and_foreign_settings_are_read_without_running_anything(strange, tmp_path, capsys):
    main(["name", str(strange), "0", "tilt"])
    assert "tilt" in capsys.readouterr().out
    message = fails(capsys, "train-vae", "--config", strange / "config.json", "--out", tmp_path / "out")
    assert "unknown key" in message
    assert not ran(strange)


def test_python_needs_trust_too(strange, tmp_path):
    with pytest.raises(InputError, match=r"opening run .* would run the program .*generator\.py', function 'make'"):
        ff.load_run(strange)
    run = ff.load_run(strange, ff.generators.load("digits-vae"))
    for config in (run.config, replace(run.config, steps=2)):
        with pytest.raises(InputError, match=r"training with the settings in .*config\.json' would run the program"):
            ff.discover(run.generator, config, tmp_path / "out", progress=False)
    assert not ran(strange)
    assert ff.load_run(strange, trust=True).step == 6
    assert ran(strange)
    ff.discover(run.generator, run.config, tmp_path / "out", progress=False, trust=True)
    assert ran(strange)


@pytest.mark.slow
def test_a_comparison_with_a_strangers_settings_needs_trust(strange, tmp_path):
    run = ff.load_run(strange, ff.generators.load("digits-vae"))
    for methods in ((), ("flows,pde_weight=2",)):
        with pytest.raises(InputError, match="would run the program"):
            ff.compare(run.generator, tmp_path / "out", run.config, methods=methods, pairs=60, progress=False)
        shutil.rmtree(tmp_path / "out")
    assert not ran(strange)
    settings = {"methods": ("flows", "random"), "seeds": 1, "pairs": 60, "starts": 2, "progress": False}
    ff.compare(run.generator, tmp_path / "out", run.config, **settings, trust=True)
    assert ran(strange)


def test_the_page_runs_nothing_of_a_run_that_takes_the_place_of_its_own(strange):
    explorer = Explorer(ff.load_run(strange, ff.generators.load("digits-vae")))
    os.utime(strange / "config.json", ns=(1, 1))
    explorer.refresh()
    assert not ran(strange)


def relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    name_generator(folder, "function", "generator.py", "make")


def only_named(folder, monkeypatch):
    change(folder, lambda record: record["generator"].update(name=f"{folder}/generator.py:make"))
    change(folder, lambda record: record["generator"].pop("spec"))


def named_otherwise(folder, monkeypatch):
    """The name is harmless, or the other way round."""
    change(folder, lambda record: record["generator"].update(name="digits-vae,x=1"))


def in_odd_folder(folder, monkeypatch):
    odd = folder / "lr=0.1,bs=64 a:b" / "sngan:x.pt,latent_dim=3"
    odd.mkdir(parents=True)
    (odd / "generator.py").write_text(GENERATOR.replace("with_name('ran')", "parents[2].joinpath('ran')"))
    name_generator(folder, "function", odd / "generator.py", "make")


def through_a_link(folder, monkeypatch):
    os.symlink(folder / "generator.py", folder / "link.py")
    name_generator(folder, "function", folder / "link.py", "make")


@pytest.mark.parametrize("way", [relative, only_named, named_otherwise, in_odd_folder, through_a_link])
def test_no_way_to_name_a_program_gets_around_trust(strange, way, monkeypatch):
    way(strange, monkeypatch)
    with pytest.raises(InputError, match=r"would run the program|can't be found by name"):
        ff.load_run(strange)
    assert not ran(strange)


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".ts"])
def test_archives_are_not_opened_without_trust(strange, suffix, monkeypatch):
    opened = []
    monkeypatch.setattr(archives, "check_program", lambda file: None)
    monkeypatch.setattr(archives, "_program", opened.append)
    file = strange / f"net{suffix}"
    file.write_bytes(b"1")
    name_generator(strange, "archive", file, latent_dim="8")
    with pytest.raises(InputError, match=rf"would run the program '{file}', which you haven't"):
        ff.load_run(strange)
    assert opened == []
    with pytest.raises(InputError, match="must be callable"):
        ff.load_run(strange, trust=True)
    assert opened == [file]


# One's own runs


@pytest.fixture
def own(tmp_path):
    """The folder of a program, trained with on this machine: it has a generator, a neighbour and a classifier."""
    folder = tmp_path / "lr=0.1,bs=64 own"
    folder.mkdir()
    (folder / "net.py").write_text("import fastflow as ff\nWIDTH = 8\n")
    (folder / "generator.py").write_text(
        f"{MARK}from net import ff\ndef make():\n    import tyro\n    return ff.generators.load('digits-vae')\n"
    )
    (folder / "classifier.py").write_text(CLASSIFIER)
    generator = ff.generators.load(f"{folder}/generator.py:make")
    small_run(folder / "run", generator, steps=2, classifier=f"{folder}/classifier.py:Own")
    assert ran(folder)
    return folder


def test_ones_own_run_opens_as_it_is(own, monkeypatch):
    monkeypatch.chdir("/")
    assert ff.load_run(own / "run").step == 2
    assert ran(own)


@pytest.mark.slow
def test_ones_own_run_opens_in_another_process(own):
    words = [sys.executable, "-m", "fastflow", "traverse", own / "run", "--starts", "1", "--steps", "1"]
    subprocess.run(words, check=True, capture_output=True)
    assert ran(own)


def test_ones_own_run_opens_where_it_was_moved_to_and_after_it_was_resumed(own, tmp_path):
    moved = (own / "run").rename(tmp_path / "moved")
    run = ff.load_run(moved)
    small_run(moved, run.generator, resume=True, steps=3, classifier=run.config.classifier)
    assert ff.load_run(moved).step == 3


def test_resuming_an_older_run_makes_it_ones_own(own, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(InputError, match="which you haven't trained it with"):
        ff.load_run(own / "run")
    settings = ["--config", str(own / "run/config.json"), "--trust", "--resume", "--out", str(own / "run")]
    main(["discover", "--generator", f"{own}/generator.py:make", *settings])
    assert ff.load_run(own / "run").step == 2


def test_the_settings_of_ones_own_run_train_another(own, tmp_path):
    words = ["--config", str(own / "run/config.json"), "--out", str(tmp_path / "out")]
    main(["discover", "--generator", "digits-vae", *words])
    assert ran(own)


def test_a_run_that_was_stopped_is_remembered(own, monkeypatch):
    def stop(trainer, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastflow.training.loop.Trainer.run", stop)
    generator = ff.generators.load(f"{own}/generator.py:make")
    with pytest.raises(KeyboardInterrupt):
        small_run(own / "stopped", generator)
    ran(own)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        ff.load_run(own / "stopped")
    assert ran(own)


def changed_file(own):
    with (own / "generator.py").open("a") as file:
        file.write("# more\n")


def changed_neighbour(own):
    (own / "net.py").write_text(f"{MARK}import fastflow as ff\nWIDTH = 8\n")


def neighbour_for_a_package(own):
    (own / "tyro.py").write_text(MARK)


@pytest.mark.slow
@pytest.mark.parametrize("edit", [changed_file, changed_neighbour, neighbour_for_a_package])
def test_a_changed_program_is_no_longer_trusted(own, edit):
    edit(own)
    with pytest.raises(InputError, match="or what it imports from its folder, has changed since the run was trained"):
        ff.load_run(own / "run")
    assert not ran(own)


def test_what_a_run_says_of_itself_makes_no_other_program_trusted(own, strange):
    """A stranger who knows a run's whole config.json, as of a published run, names another program in a copy of it."""
    shutil.copy(own / "run/config.json", strange / "config.json")
    (strange / "net.py").write_text(f"{MARK}import fastflow as ff\n")
    shutil.copy(own / "generator.py", strange / "generator.py")
    name_generator(strange, "function", strange / "generator.py", "make")
    with pytest.raises(InputError, match="which you haven't trained it with"):
        ff.load_run(strange)
    assert not ran(strange)


def test_another_function_of_ones_own_file_is_not_trusted(own):
    name_generator(own / "run", "function", own / "generator.py", "MARK")
    with pytest.raises(InputError, match="which you haven't trained it with"):
        ff.load_run(own / "run")
    assert not ran(own)


def test_a_folder_that_others_may_write_is_not_believed(own, tmp_path, monkeypatch):
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    generator = ff.generators.load(f"{own}/generator.py:make")
    small_run(own / "again", generator, steps=2)
    assert ff.load_run(own / "again").step == 2
    (state / "fastflow/runs").chmod(0o777)
    with pytest.warns(UserWarning, match=r"others may write to .*fastflow/runs"):
        small_run(own / "third", generator, steps=2)
    ran(own)
    with pytest.raises(InputError, match="which you haven't trained it with"):
        ff.load_run(own / "again")
    assert not ran(own)


def test_a_training_goes_on_where_nothing_can_be_remembered(own, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    generator = ff.generators.load(f"{own}/generator.py:make")
    with pytest.warns(UserWarning, match=r"it can't be remembered that this run may start .*generator\.py"):
        small_run(own / "again", generator, steps=2)
    with pytest.raises(InputError, match="say so by --trust"):
        ff.load_run(own / "again")


def test_generators_that_run_no_code_need_no_trust(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert ff.load_run(digits_folder).step == 6
    torch.save(ff.generators.DCGAN(widths=(8, 4), latent_dim=6, channels=3).state_dict(), tmp_path / "g.pt")
    small_run(tmp_path / "gan", ff.generators.load(f"dcgan:{tmp_path}/g.pt"), steps=2)
    assert ff.load_run(tmp_path / "gan").step == 2
    assert not (tmp_path / "state").exists()


def test_a_typed_classifier_needs_no_trust(own, tmp_path):
    words = [*options(steps=2), "--classifier", f"{own}/classifier.py:Own"]
    main(["discover", "--generator", "digits-vae", "--out", str(tmp_path / "out"), *words])
    assert ran(own)
    assert small_config().classifier == "small"
