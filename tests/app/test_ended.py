"""The server's process: what it answers to strangers, and that nothing of it stays, in whatever way it is ended."""

import http.client
import os
import re
import signal
import subprocess
import sys

import pytest
from support.runs import small_run

import fastflow as ff

pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("ended") / "run"
    small_run(run, ff.generators.load("digits-vae"), path_steps=8)
    return run


def asked(port, path, method="GET", body=None, **headers):
    """The status of an answer, and what it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (BrokenPipeError, ConnectionResetError):  # it was refused before all of it was sent
        return 0, ""
    finally:
        connection.close()


@pytest.mark.slow  # a process that loads torch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_strangers_get_nothing_and_nothing_stays(folder, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastflow", "serve", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # ignored, where tests run in the background
    )  # fmt: skip
    try:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+); Ctrl-C ends it", process.stdout.readline())[1])
        assert len(list(tmp_path.glob("fastflow-page-*"))) == 1
        status, page = asked(port, "/")
        assert (status, "window.gradio_config" in page) == (200, True)
        elsewhere = set(re.findall(r"(?:src|href)=[\"']?(?:https?:)?//([^/\"']+)", page))
        assert elsewhere <= {"fonts.googleapis.com", "fonts.gstatic.com"}  # only named; the headers forbid to load them
        assert asked(port, "/", Host="evil.example")[0] == 400
        assert asked(port, "/theme.css", Origin="http://evil.example")[0] == 403
        assert asked(port, "/docs")[0] == asked(port, "/openapi.json")[0] == 404
        assert asked(port, "/gradio_api/upload", "POST", bytes(30_000_000))[0] in (404, 0)
        assert asked(port, "/gradio_api/queue/join", "POST", bytes(3_000_000))[0] in (413, 0)
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 1 << 20
    finally:
        process.send_signal(number)
        rest, errors = process.communicate(timeout=180)
    assert (process.returncode, rest, errors) == (130, "", "fastflow: interrupted\n")
    assert not list(tmp_path.glob("fastflow-*"))
