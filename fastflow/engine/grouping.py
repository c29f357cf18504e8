"""Samples brought together by potential, so that K stacked networks become batched matrix products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.engine.tracing import has_one_value


class Grouping(NamedTuple):
    """B samples laid out as (K, N), padded with copies of sample 0; `pack` and `unpack` go there and back.

    table (K, N): the sample in each place. place (B,): where each sample went, in the flattened table.
    """

    table: Tensor
    place: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(B, ...) to (K, N, ...)."""
        return x.index_select(0, self.table.flatten()).unflatten(0, self.table.shape)

    def unpack(self, x: Tensor) -> Tensor:
        """(K, N, ...) to (B, ...)."""
        return x.flatten(0, 1).index_select(0, self.place)


def group(index: Tensor, num_groups: int) -> Grouping:
    """Group samples by `index` (B,), whose values lie in [0, num_groups).

    N is the largest group's size, and B where sizes may not depend on values: while tracing, and under vmap.
    """
    batch = index.shape[0]
    if num_groups == 1 or not has_one_value(index):
        samples = torch.arange(batch, device=index.device)
        return Grouping(samples.expand(num_groups, batch), index * batch + samples)
    counts = torch.bincount(index, minlength=num_groups)
    order = torch.argsort(index, stable=True)
    grouped = index[order]
    rank = torch.arange(batch, device=index.device) - (counts.cumsum(0) - counts)[grouped]
    widest = int(counts.max()) if batch else 0
    table = index.new_zeros(num_groups, widest)
    table[grouped, rank] = order
    place = torch.empty_like(index)
    place[order] = grouped * widest + rank
    return Grouping(table, place)
