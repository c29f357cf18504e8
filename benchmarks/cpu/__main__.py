"""`python -m benchmarks.cpu`."""

from benchmarks.cpu.suite import main

if __name__ == "__main__":
    main()
