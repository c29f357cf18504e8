"""The command line: `fastflow COMMAND`, also `python -m fastflow`."""

from fastflow.cli.main import main

__all__ = ["main"]
