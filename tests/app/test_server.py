"""What `fastflow serve` refuses: one line on standard error, exit status 2."""

import fcntl
import os
import re
import socket
import sys
import tempfile

import pytest

import fastflow as ff
from fastflow.app import serve, server
from fastflow.app.server import listen, opened, page_address
from fastflow.cli.main import main


@pytest.fixture
def refused(digits_folder, capsys):
    """What serving a small run says when it can't."""

    def said(*options):
        with pytest.raises(SystemExit) as exit_:
            main(["serve", str(digits_folder), *options])
        told = capsys.readouterr()
        assert (exit_.value.code, told.out, told.err.count("\n")) == (2, "", 1)
        return told.err

    return said


def test_port_that_is_taken(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused("--port", str(port))
    assert f"can't listen on 127.0.0.1 port {port} (Address already in use): choose another with --port" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "65536"], "port must lie in 0..65535, got 65536"),
        (["--port", "-1"], "port must lie in 0..65535, got -1"),
        (["--port", "http"], "--port"),
        (["--host", "no-such-host.invalid"], "host 'no-such-host.invalid' isn't an address of this machine"),
        (["--host", "192.0.2.1", "--port", "0"], "can't listen on 192.0.2.1 port 0"),
        (["--host", "a" * 70], "isn't an address of this machine"),
    ],
    ids=["high", "negative", "word", "unknown", "foreign", "too-long"],
)
def test_addresses_that_cannot_be_had(refused, options, message):
    assert message in refused(*options)


def test_missing_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "fastflow serve needs the package gradio: pip install 'fastflow[app]'" in refused("--port", "0")


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("0", "localhost")])
def test_who_else_reaches_the_page_is_said_whatever_the_address_is_called(host, shown):
    with listen(host, 0) as listener:
        port = listener.getsockname()[1]
        assert page_address(host, listener) == f"http://{shown}:{port}"
        assert page_address(host, listener, "abc") == f"http://{shown}:{port}/?token=abc"
        note = f"note: port {port} is open to everybody who reaches this machine, without encryption."
        assert opened(listener)[: len(note)] == ("" if host == "127.0.0.1" else note)


@pytest.mark.parametrize(
    ("host", "options", "token"),
    [
        ("127.0.0.1", {}, None),
        ("127.0.0.1", {"token": "of-my-own"}, "of-my-own"),
        ("0.0.0.0", {}, "[A-Za-z0-9_-]{22}"),
        ("0.0.0.0", {"token": "of-my-own"}, "of-my-own"),
    ],
)
def test_a_page_that_others_reach_needs_its_token(digits_folder, monkeypatch, capsys, host, options, token):
    uvicorn = pytest.importorskip("uvicorn")
    guards = []
    monkeypatch.setattr("fastflow.app.page.build_page", lambda *page: None)
    monkeypatch.setattr("gradio.mount_gradio_app", lambda *page, **options: None)
    monkeypatch.setattr("fastflow.app.visits.PageVisits", lambda page: None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: guards.append(self.config.app))
    with pytest.raises(KeyboardInterrupt):
        serve(ff.load_run(digits_folder), host, 0, **options)
    told = capsys.readouterr().out
    found = re.search(r"/\?token=(\S+); Ctrl-C ends it", told)
    assert guards[0]._token == (found and found[1])
    assert re.fullmatch(token or "", found[1] if found else "")
    assert ("is open to everybody who reaches this machine" in told) == (host == "0.0.0.0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token", "short"], "token must have 8 to 128 letters, digits, - or _"),
        (["--token", "a b c d e f"], "token must have 8 to 128 letters"),
        (["--allowed-hosts", "http://page.example.org/"], "allowed_hosts must be names such as page.example.org"),
    ],
)
def test_tokens_and_names_that_cannot_be_used(refused, options, message):
    assert message in refused("--port", "0", *options)


def test_folders_of_servers_that_were_killed_are_removed_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("fastflow-page-killed", "fastflow-page-runs", "fastflow-page-new", "other")
    killed, runs, new, other = folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
        (folder / "image.png").touch()
        os.utime(folder, (0, 0))
    os.utime(new)
    (tmp_path / "fastflow-page-link").symlink_to(other)
    held = os.open(runs, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with server._temporary_folder() as own:
            assert not killed.exists()
            assert all((folder / "image.png").exists() for folder in (runs, new, other))
            (own / "image.png").touch()
    finally:
        os.close(held)
    assert not own.exists()
