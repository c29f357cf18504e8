"""What the GPU kernels compile to, without a GPU: `python -m benchmarks.static`."""
