"""Files that are whole or absent."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from fastflow.core import files
from fastflow.core.digests import read_digests, read_whole
from fastflow.core.errors import InputError
from fastflow.core.files import (
    LARGEST_JSON,
    check_place,
    left_by_system,
    naming,
    parse_json,
    read_json,
    remove_named,
    replacing,
    replacing_folder,
    write_json,
    write_tensors,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_takes_the_old_ones_place(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with replacing(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "interrupt"]
)
def test_failure_leaves_the_old_file(tmp_path, error):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write():
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def fill(folder, error=None):
    with replacing_folder(folder) as temporary:
        (temporary / "new.txt").write_text("new")
        if error is not None:
            raise error


def test_folder_takes_the_old_ones_place(tmp_path):
    folder = tmp_path / "deep" / "folder"
    fill(folder)
    (folder / "old.txt").write_text("old")
    fill(folder)
    assert names(folder) == ["new.txt"]
    assert names(folder.parent) == ["folder"]


def test_failure_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with pytest.raises(ZeroDivisionError):
        fill(folder, ZeroDivisionError())
    assert names(folder) == ["old.txt"]
    assert names(tmp_path) == ["folder"]


def test_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["new.txt"]


def test_working_directory_can_be_the_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill(type(tmp_path)("."))
    assert names(tmp_path / "here") == ["new.txt"]


def test_errors_without_a_file_get_one(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: 'a\.txt'"), naming(type(tmp_path)("a.txt")):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError, match=r"'b\.txt'"), naming(type(tmp_path)("a.txt")):
        type(tmp_path)("b.txt").read_bytes()


def test_errors_name_the_file_and_not_its_temporary(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent/a\.json'"):
        write_json(tmp_path / "absent" / "a.json", 1)


def test_errors_in_a_folder_name_it_as_the_user_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("new", "link"):
        folder = Path(name)
        with pytest.raises(FileNotFoundError, match=rf"'{name}'$"), replacing_folder(folder) as temporary:
            (temporary / "absent" / "file").write_text("x")
        with pytest.raises(FileNotFoundError, match=rf"'{name}'$"), replacing_folder(folder) as temporary:
            (temporary / "absent").rename(temporary / "file")
        with (
            pytest.raises(InputError, match=rf"^ffmpeg couldn't write '{name}/a\.mp4'"),
            replacing_folder(folder) as temporary,
        ):
            raise InputError(f"ffmpeg couldn't write {str(temporary / 'a.mp4')!r}")
    assert names(tmp_path) == ["link", "real"]


def test_errors_that_clean_up_say_nothing_of_their_own(tmp_path, monkeypatch):
    """Removing what isn't there is another error on a read-only file system."""

    def fail(path, missing_ok=False):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(FileNotFoundError, match=r"absent/a\.json'"):
        write_json(tmp_path / "absent" / "a.json", 1)


# The check before the work


def test_places_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("folder")
    for name in ("new", "folder", "file", "folder/new", "deep/er/new", "link", "link/new", "."):
        check_place(Path(name))
    assert names(tmp_path) == ["file", "folder", "link"]


@pytest.mark.parametrize("name", ["run/a.json", "run/deep/a.json"])
def test_read_only_folder_is_named_before_the_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(files.os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=rf"^'{name}' can't be written: the folder 'run' may not be written to"):
        check_place(Path(name))
    read_only = SimpleNamespace(f_flag=files.os.ST_RDONLY)
    monkeypatch.setattr(files.os, "statvfs", lambda place: read_only)
    with pytest.raises(InputError, match="'mine' can't be written: the folder 'run' lies on a read-only file system"):
        check_place(Path(name), Path("mine"))


@pytest.mark.parametrize("name", ["link", "link/a.json", "link/b/a.json"])
def test_link_that_leads_nowhere_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/mnt/scratch/gone")
    with pytest.raises(
        InputError, match=rf"^'{name}' can't be written: 'link' is a link to '/mnt/scratch/gone', which"
    ):
        check_place(Path(name))


def test_file_in_the_place_of_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"^'file/a' can't be written: 'file' is a file, expected a folder"):
        check_place(Path("file/a"))


# Removing


def test_what_is_named_is_removed_and_links_to_files_too(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("x")
    (tmp_path / "folder" / "inner").symlink_to(tmp_path)  # a link inside goes, and not what it leads to
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").write_text("x")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "nowhere").symlink_to("absent")
    remove_named(tmp_path, ["absent", "folder", "file", "link", "nowhere"])
    assert names(tmp_path) == ["mine"]


def test_nothing_is_removed_where_a_folder_is_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "checkpoints").symlink_to("scratch")
    with pytest.raises(InputError, match="checkpoints' is a link to the folder 'scratch', whose files aren't removed"):
        remove_named(tmp_path, ["file", "checkpoints"])
    assert names(tmp_path) == ["checkpoints", "file", "scratch"]


def test_nothing_is_removed_where_a_folder_is_read_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.setattr(files.os, "access", lambda place, mode: not str(place).endswith("er"))
    with pytest.raises(InputError, match=r"the files in '.*deep/er' can't be removed"):
        remove_named(tmp_path, ["file", "deep"])
    assert names(tmp_path) == ["deep", "file"]


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "can't be read: No such file"), (b"{", "isn't JSON"), (b"\xff", "isn't JSON"), (b"", "isn't JSON")],
    ids=["absent", "cut-off", "binary", "empty"],
)
def test_unreadable_json_is_an_input_error(tmp_path, data, message):
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ('{"%s": 1}' % ("1" * 5000), "has a key of 5000 characters, expected at most 1000"),
        ('{"a": 1, "b": 2, "a": 1}', "has the key 'a' twice"),
        ('{"a": [1, {"b": %s}]}' % ("9" * 5000), r"a\[1\]\.b must be a finite number, got infinity"),
        ("-" + "9" * 400, "it must be a finite number, got infinity"),
        ("[1e999]", r"\[0\] must be a finite number, got infinity"),
        ('{"a": NaN}', "a must be a finite number, got NaN"),
        ('["\\ud83d"]', r"\[0\] holds half of a character \(a lone surrogate\)"),
        ('{"\\udc00x": 1}', "it holds half of a character"),
        ('{"a": 1} {}', "isn't JSON: Extra data"),
    ],
    ids=["deep", "deep-object", "key", "twice", "digits", "integer", "float", "nan", "text", "surrogate-key", "two"],
)
def test_hostile_json_is_an_input_error_of_one_line(text, message):
    with pytest.raises(InputError, match=f"^'a.json' .*{message}") as error:
        parse_json(text, "'a.json'")
    assert len(str(error.value)) < 300


def test_json_that_others_write_is_read():
    text = f'["\\ud83d\\ude00", "\\udcff", 1e308, {"9" * 308}, {"[" * 63 + "]" * 63}]'
    emoji, byte, large, digits, deep = parse_json(text, "a.json")
    assert (emoji, byte, large, digits) == ("\U0001f600", os.fsdecode(b"\xff"), 1e308, int("9" * 308))
    assert deep == json.loads("[" * 63 + "]" * 63)
    assert str(parse_json('{"loss": [NaN, -Infinity]}', "a line", finite=False)) == "{'loss': [nan, -inf]}"


def test_no_more_of_a_json_file_is_read_than_is_stated(tmp_path):
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(LARGEST_JSON + 1)
    with pytest.raises(InputError, match="is larger than 64 MiB, the most that is read of such a file"):
        read_json(tmp_path / "a.json")


def test_tensors_are_written_whatever_their_strides(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).requires_grad_()
    write_tensors(tmp_path / "a.safetensors", {"t": tensor.T, "row": tensor[1]})
    loaded = load_file(tmp_path / "a.safetensors")
    assert torch.equal(loaded["t"], tensor.T)
    assert torch.equal(loaded["row"], tensor[1])


def test_tensor_with_two_names_is_written_twice(tmp_path):
    """As those of a module that is registered under two names."""
    x = torch.arange(6.0)
    write_tensors(tmp_path / "x.safetensors", {"one": x, "two": x, "part": x[2:]})
    read = load_file(tmp_path / "x.safetensors")
    assert torch.equal(read["one"], x)
    assert torch.equal(read["two"], x)
    assert torch.equal(read["part"], x[2:])


@pytest.mark.parametrize("name", [".DS_Store", "._photo.png", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"])
def test_what_an_operating_system_leaves(name, tmp_path):
    assert left_by_system(tmp_path / name)


@pytest.mark.parametrize("name", ["photo.png", ".git", "thumbs.png", "_photo.png", "..png"])
def test_what_people_leave(name, tmp_path):
    assert not left_by_system(tmp_path / name)


@pytest.mark.parametrize(
    "read", [read_json, lambda file: read_whole(file, None), lambda file: read_digests(file.parent)]
)
def test_a_pipe_that_nobody_named_is_not_waited_for(tmp_path, read):
    file = tmp_path / "digests.sha256"
    os.mkfifo(file)
    with pytest.raises((InputError, OSError), match="it is a pipe or a device, expected a file"):
        read(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises((InputError, OSError), match="it is a pipe or a device, expected a file"):
        read(file)


def test_a_pipe_that_somebody_named_is_read():
    read, write = os.pipe()
    os.write(write, b'{"a": 1}')
    os.close(write)
    assert read_json(Path(f"/dev/fd/{read}"), typed=True) == {"a": 1}
    os.close(read)
