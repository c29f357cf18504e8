"""The engine on one thread of a CPU beside its peers: `python -m benchmarks.cpu`."""
