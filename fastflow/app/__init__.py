"""An interactive page of a run: `serve` it to a browser. Needs the extra `app`."""

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

__all__ = ["serve"]

HOST, PORT = "127.0.0.1", 7860
_PATIENCE = 1  # seconds that open pages are given to let go once the server is told to end


def serve(run: Run, host: str = HOST, port: int = PORT, *, generator: str | None = None) -> None:
    """Serve the page of a run until the process is interrupted.

    Nothing is sent anywhere else: no statistics, no link from outside; pages load nothing from other hosts.

    Args:
        host: the address to listen on; any but this machine's own lets others in, and there is no password.
        port: 0 chooses a free one. The page's address is printed.
        generator: the expression in Python that loads its generator, where the run itself doesn't find it.

    Raises:
        InputError: the run has no potentials, the address can't be had, or gradio isn't installed.
        KeyboardInterrupt: the way it ends.
    """
    explorer = Explorer(run, generator)
    with _listening(host, port) as listener, tempfile.TemporaryDirectory(prefix="fastflow-") as files:
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
        print(f"serving {run.folder} at {_where(host, listener)}; Ctrl-C ends it", flush=True)
        # Pages that are open when it ends are cut off, of which uvicorn would speak as of an error.
        settings = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=_PATIENCE)
        uvicorn.Server(settings).run(sockets=[listener])
        raise KeyboardInterrupt  # nothing else ends it, and uvicorn doesn't always pass that on


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raise InputError if it can't be had."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 2**16:
        raise InputError(f"port must lie in 0..65535, got {port!r}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no name"
        raise InputError(f"host {host!r} isn't an address of this machine: {reason}") from error
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"can't listen on {host} port {port} ({os.strerror(error.errno or 0)}): choose another with --port, or "
            "--port 0 for any free one"
        ) from error


def _where(host: str, listener: socket.socket) -> str:
    """The page's address, and whether others reach it: by what is listened on, as there are many names for that."""
    address, port = listener.getsockname()[:2]
    bound = ipaddress.ip_address(address)
    shown = "localhost" if bound.is_unspecified else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" + ("" if bound.is_loopback else ", to everybody who reaches this machine")
