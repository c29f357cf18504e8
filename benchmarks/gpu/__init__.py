"""What there is to check and time on a machine with a GPU: `python -m benchmarks.gpu`."""
