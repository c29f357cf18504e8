"""Random numbers that depend on a seed and a step alone, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import numpy as np
import torch


def step_rng(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """The random numbers of one step of one run; streams other than 0 are for what must differ from all training."""
    return torch.Generator().manual_seed(step_seed(seed, step, stream))


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed for one step of one run and one stream, alike to no other's."""
    # Numbers of more than 32 bits are taken for two: with its upper half among them a seed could be another one's step.
    upper = (seed >> 32,) if seed >> 32 else ()
    entropy = np.random.SeedSequence((seed % 2**32, step, stream), spawn_key=upper)
    return int(entropy.generate_state(1, np.uint64)[0])
