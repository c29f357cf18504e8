"""`python -m fastflow`."""

from fastflow.cli.main import main

main()
