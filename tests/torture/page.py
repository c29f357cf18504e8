"""The page under fire: hostile requests, twenty at once, beside which its own are answered as ever."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from support.runs import small_run

from fastflow import generators
from torture.parts import REFUSED, RIGHT, Fault, Part

_AT_ONCE = 20
_CASES_OF_A_SERVER = 25
_PATIENCE = 60.0  # seconds for an answer, on a busy machine
_MEMORY = 400 << 20  # more than after the first answer
_JOIN, _DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"


class Answer(NamedTuple):
    """What came back: the status, 0 if the connection was closed without one, and the body."""

    status: int
    body: bytes


class Request(NamedTuple):
    """Bytes to send, what is hostile about them, and whether the page may do what they ask for."""

    data: bytes
    what: str
    allowed: bool = True
    waits: bool = True


class Server:
    """`fastflow serve` of a run, in a process of its own."""

    def __init__(self, run: Path, folder: Path, command: tuple[str, ...] = ("-m", "fastflow", "serve")) -> None:
        self._temporary = folder / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self._log = folder / "server.log"
        environment = {**os.environ, "TMPDIR": str(self._temporary), "OMP_NUM_THREADS": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command, str(run), "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise Fault(f"the server didn't start: {line}{self.log()}")
        self.port = int(found[1])

    def log(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def check(self) -> None:
        """Raise Fault unless it lives, and nothing in it has failed."""
        if self._process.poll() is not None:
            raise Fault(f"the server ended with status {self._process.returncode}: {self.log()}")
        if "Traceback" in (log := self.log()):
            raise Fault(f"a traceback in the server's log: {log}")

    def memory(self) -> int:
        """Its resident memory."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        """Let SIGTERM end it; raise Fault unless it cleans up."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Fault("the server doesn't end by SIGTERM") from None
        if "Traceback" in (log := self.log()):
            raise Fault(f"a traceback in the server's log: {log}")
        left = [str(path.relative_to(self._temporary)) for path in self._temporary.iterdir()]
        if left:
            raise Fault(f"after SIGTERM, {left} are left in the folder of temporary files")


class Page(Part):
    """A case sends twenty requests at once, and then one of the page's own.

    Args:
        folder, seed: as for every part.
        command: what starts a server, before the run's folder and options.
    """

    limit = 600.0

    def __init__(self, folder: Path, seed: int, command: tuple[str, ...] = ("-m", "fastflow", "serve")) -> None:
        super().__init__(folder, seed)
        self._run, self._command = folder / "run", command
        if not self._run.exists():
            small_run(self._run, generators.load("digits-vae"), path_steps=8)
        self._server: Server | None = None

    def try_case(self, number: int) -> Counter[str]:
        rng = self.rng(number)
        server = self._running()
        requests = [rng.choice(_KINDS)(rng, server.port, self._calls) for _ in range(_AT_ONCE)]
        text = "\n".join(f"{request.what}: {request.data[:300]!r}" for request in requests)
        (self.fresh_case_folder() / "requests.txt").write_text(text, encoding="utf-8")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda request: ask(server.port, request), requests))
        counts: Counter[str] = Counter()
        for request, answer in zip(requests, answers, strict=True):
            counts[_judged(request, answer)] += 1
        try:
            server.check()
            if (shown := self._shown(f"after{number}")) != self._first:
                raise Fault(f"afterwards the page's own call gives {shown[:500]}")
            if (more := server.memory() - self._memory) > _MEMORY:
                raise Fault(f"the server takes {more >> 20} MB more than at first")
            if number % _CASES_OF_A_SERVER == _CASES_OF_A_SERVER - 1:
                self._server = None
                server.end()
        except Fault as fault:
            server.kill()
            self._server = None
            raise Fault(str(fault), counts) from fault
        return counts

    def close(self) -> None:
        if self._server is not None:
            self._server.end()

    def _running(self) -> Server:
        if self._server is None:
            self._server = Server(self._run, self.folder, self._command)
            self._calls = _calls(self._server.port)
            self._first = self._shown("first")
            self._memory = self._server.memory()
        return self._server

    def _shown(self, session: str) -> str:
        """What the page shows when it has just loaded: its films, as its own call gets them."""
        assert self._server is not None
        number, values = self._calls.load
        body = json.dumps({"fn_index": number, "data": values, "session_hash": session})
        port = self._server.port
        joined = ask(port, Request(_http(port, "POST", _JOIN, body.encode()), "its own call"))
        if joined.status != 200:
            raise Fault(f"the page's own call is answered by {joined.status} {joined.body[:300]!r}")
        events = ask(port, Request(_http(port, "GET", f"{_DATA}?session_hash={session}"), "its events"), b"completed")
        for line in events.body.decode("utf-8", "replace").splitlines():
            if line.startswith("data: ") and '"process_completed"' in line:
                found = json.loads(line[6:])
                if not found.get("success"):
                    raise Fault(f"the page's own call fails: {line[:500]}")
                return str([value for value in found["output"]["data"] if "ff-film" in str(value)])
        raise Fault(f"the page's own call has no end: {events.body[-500:]!r}")


class Calls(NamedTuple):
    """The calls that the page makes: each action's number with values for its inputs, and that of its start."""

    all: list[tuple[int, list[Any]]]
    load: tuple[int, list[Any]]


def _calls(port: int) -> Calls:
    page = ask(port, Request(_http(port, "GET", "/"), "the page"))
    text = page.body.decode("utf-8", "replace")
    found = re.search(r"window\.gradio_config\s*=\s*", text)
    if page.status != 200 or found is None:
        raise Fault(f"the page is answered by {page.status} {text[:300]}")
    config, _ = json.JSONDecoder().raw_decode(text, found.end())
    values = {one["id"]: one.get("props", {}).get("value") for one in config["components"]}
    calls, load = [], None
    for place, dependency in enumerate(config["dependencies"]):
        if not dependency.get("backend_fn", True):
            continue
        call = dependency.get("id", place), [values.get(name) for name in dependency["inputs"]]
        calls.append(call)
        if any(target[1] == "load" for target in dependency["targets"]):
            load = call
    if load is None:
        raise Fault("the page calls nothing when it loads")
    return Calls(calls, load)


def ask(port: int, request: Request, until: bytes | None = None) -> Answer:
    """Send a request, and read its answer to the end, or to some bytes of it."""
    received = bytearray()
    deadline = time.monotonic() + _PATIENCE
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.settimeout(_PATIENCE if request.waits else 0.2)
        with suppress(OSError):
            connection.sendall(request.data)
        if not request.waits:
            connection.shutdown(socket.SHUT_WR)
        while time.monotonic() < deadline and (part := connection.recv(1 << 16)):
            received += part
            if until is not None and until in received:
                break
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    return Answer(0 if status is None else int(status[1]), body)


def _judged(request: Request, answer: Answer) -> str:
    if answer.status >= 500 and answer.status != 503:  # which says that there are too many at once
        raise Fault(f"{request.what} is answered by {answer.status}: {answer.body[:300]!r}; {request.data[:500]!r}")
    if answer.status == 200 and not request.allowed:
        raise Fault(f"{request.what} is answered: {answer.body[:300]!r}; {request.data[:500]!r}")
    if b"root:x:0" in answer.body:
        raise Fault(f"{request.what} reads other files: {request.data[:500]!r}")
    return RIGHT if 200 <= answer.status < 400 else REFUSED


# Requests


def _http(port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    all_headers = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    if body is not None:
        all_headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    all_headers |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + (body or b"")


def _own_page(rng: random.Random, port: int, calls: Calls) -> Request:
    return Request(_http(port, rng.choice(("GET", "HEAD")), "/"), "the page")


def _foreign_host(rng: random.Random, port: int, calls: Calls) -> Request:
    host = rng.choice(
        (
            "evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"127.0.0.1@evil.example:{port}",
            "", f"192.168.0.1:{port}", f"0.0.0.0:{port}", f"2130706433:{port}", f"[::ffff:8.8.8.8]:{port}", "a" * 5000,
            f"127.0.0.1:{port}, evil.example", "\x00", "localhost.evil.example",
        )
    )  # fmt: skip
    method, path = rng.choice((("GET", "/"), ("GET", "/config"), ("POST", _JOIN), ("GET", f"{_DATA}?session_hash=x")))
    body = json.dumps({"fn_index": calls.load[0], "data": calls.load[1], "session_hash": "x"}).encode()
    data = _http(port, method, path, body if method == "POST" else None, {"Host": host})
    return Request(data, f"the host {host[:40]!r}", allowed=False)


def _foreign_origin(rng: random.Random, port: int, calls: Calls) -> Request:
    headers = rng.choice(
        (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{port + 1}"},
            {"Origin": f"http://127.0.0.1:{port}.evil.example"},
            {"Origin": "http://evil.example", "Referer": f"http://127.0.0.1:{port}/"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        )
    )
    number, values = rng.choice(calls.all)
    body = json.dumps({"fn_index": number, "data": values, "session_hash": f"o{rng.getrandbits(40)}"}).encode()
    path = rng.choice((_JOIN, _JOIN, "/gradio_api/upload", "/gradio_api/reset"))
    return Request(_http(port, "POST", path, body, headers), f"the origin {headers}", allowed=False)


_ROUTES = (
    "/docs", "/redoc", "/openapi.json", "/config", "/gradio_api/info", "/gradio_api/upload", "/gradio_api/call/open",
    "/gradio_api/run/predict", "/gradio_api/api/open", "/gradio_api/reset", "/gradio_api/cancel", "/login", "/logout",
    "/gradio_api/startup-events", "/gradio_api/queue/status", "/gradio_api/proxy=http://169.254.169.254/",
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd", "/file=/etc/passwd", "/robots.txt",
    "/static/../../etc/passwd",
    "/static/%2e%2e/%2e%2e/etc/passwd", "/assets/..%2f..%2f..%2fetc/passwd", "/gradio_api/file=%2Fetc%2Fpasswd",
    "/gradio_api/file=\x00", "/gradio_api/heartbeat/", "/gradio_api/heartbeat/../x", "/gradio_api/stream/x/y/z",
    "/gradio_api/deep_link", "/gradio_api/component_server", "/gradio_api/vibe-edit/", "/gradio_api/process_recording",
    "/theme.css", "/manifest.json", "/pwa_icon", "/svelte/x", "/custom_component/x/y/z/w", "/monitoring", "//", "/%00",
    "/" + "a" * 20_000, "/?token=" + "x" * 5000, "/gradio_api/mcp/sse",
)  # fmt: skip
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "get")


def _route(rng: random.Random, port: int, calls: Calls) -> Request:
    path, method = rng.choice(_ROUTES), rng.choice(_METHODS)
    body = rng.choice((None, b"", b"{}", b"x" * rng.choice((10, 3_000_000)), b'{"fn": "ls", "data": []}'))
    multipart = rng.random() < 0.3 and body
    headers = {"Content-Type": "multipart/form-data; boundary=x"} if multipart else None
    return Request(_http(port, method, path, body, headers), f"{method} {path[:60]!r}", waits="heartbeat" not in path)


def _half_sent(rng: random.Random, port: int, calls: Calls) -> Request:
    whole = _http(port, "POST", _JOIN, json.dumps({"fn_index": 0, "data": [], "session_hash": "h"}).encode())
    data = rng.choice(
        (
            whole[: rng.randrange(len(whole))],
            whole.replace(b"Content-Length: ", b"Content-Length: 9"),
            whole.replace(b"Content-Length: ", b"Content-Length: -"),
            whole.replace(b"Connection: close", b"Transfer-Encoding: chunked"),
            whole.replace(b"HTTP/1.1", rng.choice((b"HTTP/9.9", b"HTTP/1.1\r\nX: " + b"y" * 200_000, b"", b"HTTP/2"))),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
            rng.randbytes(rng.choice((1, 100, 10_000))),
            b"\r\n" * 1000,
        )
    )
    return Request(data, "half a request", waits=False)


_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 10**9, 2**63, -(2**70), 1e308, "", "0", "real", "x" * 100_000, "\ud800", "<script>", [],
    {}, [[]], {"path": "/etc/passwd"}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    "data:image/png;base64,", "data:image/png;base64,AAAA", float("nan"), float("inf"), "-inf", ["a"] * 1000,
)  # fmt: skip


def _hostile_call(rng: random.Random, port: int, calls: Calls) -> Request:
    number, values = rng.choice(calls.all)
    values = [rng.choice(_VALUES) if rng.random() < rng.choice((0.1, 0.5, 1)) else value for value in values]
    call: dict[str, Any] = {"fn_index": number, "data": values, "session_hash": f"s{rng.getrandbits(40):x}"}
    if rng.random() < 0.4:
        key = rng.choice(
            ("fn_index", "data", "session_hash", "event_data", "trigger_id", "api_name", "batched", "request")
        )
        call[key] = rng.choice((*_VALUES, [*values, 1], values[:-1], {"0": 1}))
    body = json.dumps(call).encode()
    way = rng.randrange(12)
    if way == 0:
        body = b"[" * 200_000
    elif way == 1:
        body = body[: rng.randrange(len(body))]
    elif way == 2:
        body = rng.randbytes(1000)
    elif way == 3:
        body = body.replace(b"{", b'{"data": [], ', 1)
    return Request(_http(port, "POST", _JOIN, body), f"a call of action {number}")


def _events(rng: random.Random, port: int, calls: Calls) -> Request:
    session = rng.choice(("x", "", "a" * 10_000, "../x", "%00", f"{rng.getrandbits(40):x}"))
    return Request(_http(port, "GET", f"{_DATA}?session_hash={session}"), "events", waits=False)


_KINDS = (_own_page, _foreign_host, _foreign_origin, _route, _half_sent, _hostile_call, _hostile_call, _events)
