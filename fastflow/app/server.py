"""The server of a run's page: the address it listens on, and how it begins and ends."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from fastflow.app.explorer import Explorer
from fastflow.app.guard import Guard
from fastflow.core.errors import InputError
from fastflow.core.files import printable
from fastflow.core.plugins import imported
from fastflow.runs.run import Run

HOST, PORT = "127.0.0.1", 7860
_PATIENCE = 1  # seconds that open pages have to disconnect once the server has to end
_MOST_CONNECTIONS = 256
_PREFIX = "fastflow-page-"
_NEW = 60  # seconds for which a temporary folder may not be locked yet


def serve(
    run: Run,
    host: str = HOST,
    port: int = PORT,
    *,
    generator: str | None = None,
    token: str | None = None,
    allowed_hosts: tuple[str, ...] = (),
) -> None:
    """Serve the page of a run until the process is interrupted.

    It sends nothing to other hosts, not even statistics, and pages load nothing from other hosts. It answers requests
    that name an address or a name of `host`, and that no page of another origin sent.

    Args:
        run: the run to explore.
        host: the address to listen on. Unless it is this machine's own, other machines reach the page.
        port: the port to listen on; 0 chooses a free one. The page's address is printed.
        generator: a further argument of `ff.load_run`, in Python: an expression that loads the run's generator, if the
            run itself doesn't find it, or trust=True.
        token: the token that visitors need; the address that is printed ends with it. By default, a page that other
            machines reach has a random one, and other pages have none.
        allowed_hosts: other host names under which browsers may open the page, such as that of a proxy in front of it.

    Raises:
        InputError: the run has no potentials, the address, the token or a name can't be used, or gradio isn't
            installed.
        KeyboardInterrupt: always, as only an interrupt ends the server.
    """
    explorer = Explorer(run, generator)
    _check_names(token, allowed_hosts)
    with _ending_by_signals(), listen(host, port) as listener, _temporary_folder() as files:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_RUN_HISTORY": "False",
            "GRADIO_TEMP_DIR": str(files),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        gradio = imported("gradio", "app", "fastflow serve")
        uvicorn, fastapi = (imported(name, "app", "fastflow serve") for name in ("uvicorn", "fastapi"))
        page: Any = imported("fastflow.app.page", "app", "fastflow serve")
        visits: Any = imported("fastflow.app.visits", "app", "fastflow serve")
        connections: Any = imported("fastflow.app.connections", "app", "fastflow serve")
        blocks = page.build_page(explorer, files)
        bare = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app = gradio.mount_gradio_app(bare, blocks, path="", footer_links=[], max_file_size=0, **page.LOOKS)
        address = listener.getsockname()[:2]
        if token is None and not _bound(address[0]).is_loopback:
            token = secrets.token_urlsafe(16)
        guard = Guard(
            app,
            address,
            names=_names(host, address[0]),
            allowed_hosts=allowed_hosts,
            files=files,
            token=token,
            visits=visits.PageVisits(blocks),
        )
        print(
            f"serving {printable(str(run.folder))} at {page_address(host, listener, token)}; Ctrl-C ends it", flush=True
        )
        if note := opened(listener):
            print(note, flush=True)
        # Pages that are open when it ends are disconnected, which uvicorn would log as an error.
        settings = uvicorn.Config(
            guard,
            http=connections.Connection,
            log_level="critical",
            timeout_graceful_shutdown=_PATIENCE,
            limit_concurrency=_MOST_CONNECTIONS,
            proxy_headers=False,
            server_header=False,
            ws="none",
        )
        uvicorn.Server(settings).run(sockets=[listener])
        raise KeyboardInterrupt  # only an interrupt ends it, and uvicorn doesn't always pass that on


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; raise InputError if the address can't be used."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 2**16:
        raise InputError(f"port must lie in 0..65535, got {port!r}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a name"
        raise InputError(f"host {host!r} isn't an address of this machine: {reason}") from error
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"can't listen on {host} port {port} ({os.strerror(error.errno or 0)}): choose another with --port, or "
            "--port 0 for any free one"
        ) from error


def page_address(host: str, listener: socket.socket, token: str | None = None) -> str:
    """The page's address as one opens it in a browser."""
    address, port = listener.getsockname()[:2]
    shown = "localhost" if _bound(address).is_unspecified else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" + ("" if token is None else f"/?token={token}")


def opened(listener: socket.socket) -> str:
    """What the page opens to others, in words; empty if only this machine reaches it, whatever name the host has."""
    if _bound(listener.getsockname()[0]).is_loopback:
        return ""
    return (
        f"note: port {listener.getsockname()[1]} is open to everybody who reaches this machine, without encryption. "
        "Whoever has the address with its token can compute here, make temporary files and name the run's potentials."
    )


def _bound(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address that a socket has."""
    return ipaddress.ip_address(address.partition("%")[0])  # a link-local one names its interface


def _names(host: str, address: str) -> tuple[str, ...]:
    """The names by which browsers reach an address: the given one, and this machine's if the address isn't its own."""
    return (host,) if _bound(address).is_loopback else (host, socket.gethostname(), socket.getfqdn())


def _check_names(token: str | None, allowed_hosts: tuple[str, ...]) -> None:
    """Raise InputError for a token that an address can't hold, or a name that isn't a host's."""
    if token is not None and not re.fullmatch("[A-Za-z0-9_-]{8,128}", token):
        raise InputError("token must have 8 to 128 letters, digits, - or _, so that an address can hold it")
    for name in allowed_hosts:
        if not re.fullmatch(r"[A-Za-z0-9._:-]+", name):
            raise InputError(
                f"allowed_hosts must be names such as page.example.org, without http:// and /, got {name!r}"
            )


@contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Within this context, let SIGTERM and SIGHUP end the process as SIGINT does, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def hang_up(number: int, frame: FrameType | None) -> None:
        # While the server runs, SIGTERM goes to uvicorn, which ends in order. An exception may be lost in a callback.
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: interrupt}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        handlers[signal.SIGHUP] = hang_up
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a temporary folder that is removed in the end. Folders of servers that were killed are removed first."""
    _remove_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        held = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)  # ends with the process, in whatever way that ends
            yield Path(name).resolve()
        finally:
            os.close(held)


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of this user's servers that have ended without removing them."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _NEW:
                continue
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its server runs
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
