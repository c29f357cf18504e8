"""Losses that reach every operator through the public functions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastflow as ff

Loss = Callable[[ff.PotentialBank, Tensor, Tensor], Tensor]


def bank_and_samples(batch: int = 8) -> tuple[ff.PotentialBank, Tensor, Tensor]:
    torch.manual_seed(0)
    bank = ff.PotentialBank(3, 4, (6, 5)).double()
    return bank, torch.randn(batch, 4, dtype=torch.float64), torch.arange(batch) % 3


def times_like(z: Tensor) -> Tensor:
    return torch.linspace(0, 1, z.shape[0], dtype=z.dtype)


LOSSES: dict[str, Loss] = {
    "jet": lambda bank, z, index: sum(x.square().mean() for x in bank.jet(z, 0.5, index)),
    "pde_loss": lambda bank, z, index: ff.pde_loss(bank, z, times_like(z), index),
    "flow": lambda bank, z, index: ff.flow(bank, z, index, 3).square().mean(),
    "rollout_loss": lambda bank, z, index: ff.rollout_loss(bank, z, index, 3)[0],
    "rollout_loss and path": lambda bank, z, index: sum(x.square().mean() for x in ff.rollout_loss(bank, z, index, 3)),
    "one index": lambda bank, z, index: ff.pde_loss(bank, z, 0.5, 1, ff.pde.WAVE),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
