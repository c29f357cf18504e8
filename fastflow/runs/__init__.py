"""What one types of a run: train it, load it, and everything that is asked of it."""

from fastflow.runs.loading import load_run
from fastflow.runs.run import Run, VAERun
from fastflow.runs.train import discover, train_vae

__all__ = ["Run", "VAERun", "discover", "load_run", "train_vae"]
