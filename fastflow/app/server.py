"""The server of a run's page: the address it listens on, and how it begins and ends."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from fastflow.app.explorer import Explorer
from fastflow.core.errors import InputError
from fastflow.core.plugins import imported
from fastflow.runs.run import Run

HOST, PORT = "127.0.0.1", 7860
_PATIENCE = 1  # seconds that open pages have to disconnect once the server has to end


def serve(run: Run, host: str = HOST, port: int = PORT, *, generator: str | None = None) -> None:
    """Serve the page of a run until the process is interrupted.

    It sends nothing to other hosts, not even statistics, and pages load nothing from other hosts.

    Args:
        run: the run to explore.
        host: the address to listen on. Unless it is this machine's own, other machines reach the page, and there is no
            password.
        port: the port to listen on; 0 chooses a free one. The page's address is printed.
        generator: a further argument of `ff.load_run`, in Python: an expression that loads the run's generator, if the
            run itself doesn't find it, or trust=True.

    Raises:
        InputError: the run has no potentials, the address can't be used, or gradio isn't installed.
        KeyboardInterrupt: always, as only an interrupt ends the server.
    """
    explorer = Explorer(run, generator)
    with listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="fastflow-") as files:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_RUN_HISTORY": "False",
            "GRADIO_TEMP_DIR": files,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        gradio = imported("gradio", "app", "fastflow serve")
        uvicorn, fastapi = (imported(name, "app", "fastflow serve") for name in ("uvicorn", "fastapi"))
        page: Any = imported("fastflow.app.page", "app", "fastflow serve")
        blocks = page.build_page(explorer, Path(files))
        app = gradio.mount_gradio_app(fastapi.FastAPI(), blocks, path="", footer_links=[], **page.LOOKS)
        print(f"serving {run.folder} at {page_address(host, listener)}; Ctrl-C ends it", flush=True)
        # Pages that are open when it ends are disconnected, which uvicorn would log as an error.
        settings = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=_PATIENCE)
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


def page_address(host: str, listener: socket.socket) -> str:
    """The page's address in words, with a warning if other machines reach it, whatever name the host was given by."""
    address, port = listener.getsockname()[:2]
    bound = ipaddress.ip_address(address)
    shown = "localhost" if bound.is_unspecified else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" + ("" if bound.is_loopback else ", to everybody who reaches this machine")
