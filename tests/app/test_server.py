"""What `fastflow serve` refuses: one line on standard error, exit status 2."""

import socket
import sys

import pytest

from fastflow.app.server import listen, page_address
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
        said = page_address(host, listener)
        open_to_all = "" if host == "127.0.0.1" else ", to everybody who reaches this machine"
        assert said == f"http://{shown}:{listener.getsockname()[1]}{open_to_all}"
