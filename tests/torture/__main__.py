"""Starts the command."""

from torture.command import main

if __name__ == "__main__":
    main()
