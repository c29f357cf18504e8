"""The page of a run in a browser, on which one explores it: `serve` starts its server. It needs the extra `app`."""

from fastflow.app.server import HOST, PORT, serve

__all__ = ["HOST", "PORT", "serve"]
