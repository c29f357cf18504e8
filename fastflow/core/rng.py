"""Random numbers that depend only on a seed and a step, so that a resumed run draws what an unbroken one draws."""

from __future__ import annotations

import numpy as np
import torch


def step_rng(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A random number generator for one step of a run. Training uses stream 0; what must differ from it uses others."""
    return torch.Generator().manual_seed(step_seed(seed, step, stream))


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed that belongs to one step and one stream of a run, and to no other."""
    # NumPy takes a number of more than 32 bits as two. In the entropy, the second could pass for a step.
    upper = (seed >> 32,) if seed >> 32 else ()
    entropy = np.random.SeedSequence((seed % 2**32, step, stream), spawn_key=upper)
    return int(entropy.generate_state(1, np.uint64)[0])
