"""`python -m benchmarks.static`."""

from benchmarks.static.kernels import main

if __name__ == "__main__":
    raise SystemExit(main())
