"""Starts the command."""

import signal
import sys

from torture.command import main

if __name__ == "__main__":
    # Its parts, and their files in memory, end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
