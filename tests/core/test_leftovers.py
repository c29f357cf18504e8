"""What killed processes leave is removed by the next one that writes there, and nothing else is."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from fastflow.core import files
from fastflow.core.files import replacing, replacing_folder
from fastflow.core.leftovers import in_use, is_leftover, links_in, remove_leftovers, temporary_path

FORK = multiprocessing.get_context("fork")


def in_child(do, *, wait=True):
    child = FORK.Process(target=do)
    child.start()
    if wait:
        child.join()
    return child


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    return in_child(lambda: None).pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_file(folder):
    with replacing(folder / "a.json") as temporary:
        temporary.write_text("new")


def write_folder(folder):
    with replacing_folder(folder / "a.json") as temporary:
        (temporary / "b").write_text("new")


def killed_within(context, path):
    with context(path) as temporary:
        (temporary / "b" if temporary.is_dir() else temporary).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("context", [replacing, replacing_folder])
def test_leftovers_of_a_killed_process_are_removed_by_the_next(tmp_path, context, write):
    in_child(lambda: killed_within(context, tmp_path / "a.json"))
    (left,) = tmp_path.iterdir()
    assert is_leftover(left)
    write(tmp_path)
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("context", [replacing, replacing_folder])
def test_temporary_of_a_living_process_stays(tmp_path, context, write):
    written, go_on = FORK.Event(), FORK.Event()

    def do():
        with context(tmp_path / "a.json") as temporary:
            (temporary / "b" if temporary.is_dir() else temporary).write_text("theirs")
            written.set()
            go_on.wait(60)

    child = in_child(do, wait=False)
    written.wait(60)
    (theirs,) = tmp_path.iterdir()
    assert not is_leftover(theirs)
    remove_leftovers(tmp_path)
    write(tmp_path)
    assert names(tmp_path) == [theirs.name, "a.json"]
    go_on.set()
    child.join()
    if (context, write) in ((replacing, write_file), (replacing_folder, write_folder)):
        assert child.exitcode == 0
        written = tmp_path / "a.json"
        assert (written / "b" if written.is_dir() else written).read_text() == "theirs"


def test_number_of_another_process_keeps_a_file_without_a_lock(tmp_path):
    """As a process of another version, or on a file system without locks."""
    (tmp_path / f".a.json.{os.getppid()}.tmp").write_text("theirs")
    write_file(tmp_path)
    assert names(tmp_path) == [f".a.json.{os.getppid()}.tmp", "a.json"]


def test_lock_keeps_a_file_of_another_machine(tmp_path, gone):
    """Its process has a number that means nothing here."""
    theirs = tmp_path / f".a.json.{gone}.tmp"
    with in_use(theirs):
        write_file(tmp_path)
        assert names(tmp_path) == [theirs.name, "a.json"]
    write_file(tmp_path)
    assert names(tmp_path) == ["a.json"]


def test_file_of_a_former_process_with_our_number_is_a_leftover(tmp_path):
    """In a container, the numbers begin with 1 each time."""
    temporary_path(tmp_path / "b.json").write_text("half")
    remove_leftovers(tmp_path)
    assert not names(tmp_path)


def test_nothing_else_is_removed(tmp_path, gone):
    others = [f".b.json.{gone}.tmp", "a.json.1.tmp", ".a.json.tmp", f".a.json.{gone}.swp", f".a.json.{gone}.tmp.bak"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / f".a.json.{gone}.tmp").symlink_to("elsewhere")
    write_file(tmp_path)
    assert names(tmp_path) == sorted([*others, f".a.json.{gone}.tmp", "a.json"])


def test_folder_that_was_moved_away_is_moved_back(tmp_path, gone):
    """A process was killed after it had moved the old folder, and before it had moved the new one."""
    (tmp_path / f".a.{gone}.old").mkdir()
    (tmp_path / f".a.{gone}.old" / "b").write_text("old")
    (tmp_path / f".a.{gone}.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "b").read_text() == "old"

    (tmp_path / f".a.{gone}.old").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "b").read_text() == "old"


def test_absent_folder_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "absent")
    assert not names(tmp_path)


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_files_are_written_where_there_are_no_locks(tmp_path, monkeypatch, gone, write):
    def fail(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    (tmp_path / f".a.json.{gone}.tmp").write_text("half")
    write(tmp_path)
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("plant", [lambda link, file: link.symlink_to(file), lambda link, file: link.hardlink_to(file)])
def test_a_planted_link_leads_nowhere(tmp_path, plant):
    """Somebody else's folder may hold a link for the number of every process."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    plant(tmp_path / "folder" / f".a.json.{os.getpid()}.tmp", tmp_path / "mine")
    write_file(tmp_path / "folder")
    assert (tmp_path / "mine").read_text() == "mine"
    assert names(tmp_path / "folder") == ["a.json"]
    assert not (tmp_path / "folder" / "a.json").is_symlink()


def test_a_folder_with_a_link_inside_is_not_moved_back(tmp_path, gone):
    """A killed process leaves no links, so somebody else has put it there."""
    (tmp_path / "mine").mkdir()
    older = tmp_path / f".checkpoints.{gone}.old"
    older.mkdir()
    (older / "step-000001").symlink_to(tmp_path / "mine")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [older.name, "mine"]
    (older / "step-000001").unlink()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoints", "mine"]


def test_links_are_found_however_deep_they_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir("a")
        os.chdir("a")
    os.symlink("/", "link")
    monkeypatch.chdir(tmp_path)
    assert [link.name for link in links_in(Path("a"))] == ["link"]
