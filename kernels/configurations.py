"""How each pass is cut into blocks: by its widths alone and never by the batch, so that no shape compiles twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, NamedTuple

import triton.language as tl

from .tiles import BACKWARD_ARRAYS, FORWARD_ARRAYS, HEADER, VECTORS


@dataclass(frozen=True)
class Pass:
    """Everything about a pass that its kernel is compiled for; fields are constexpr, as kernels read them.

    widths: (D, H_1, .., H_L). laplacian: "exact", "hutchinson" or "none". triangular: direction j has no entry before
    column j. samples, columns, inner: the block of a matrix product. stack: how many directions' tangents share a
    block. kept: how many blocks of tangents a backward pass keeps at a time. stride: the length of a row of scratch.
    """

    depth: tl.constexpr
    widths: tuple[tl.constexpr, ...]
    activation: tl.constexpr
    out_activation: tl.constexpr
    timed: tl.constexpr
    laplacian: tl.constexpr
    triangular: tl.constexpr
    precision: tl.constexpr
    samples: tl.constexpr
    columns: tl.constexpr
    inner: tl.constexpr
    stack: tl.constexpr
    kept: tl.constexpr
    stride: tl.constexpr

    @property
    def rows(self) -> tl.constexpr:
        """How many rows a block of tangents has."""
        return tl.constexpr(self.stack.value * self.samples.value)

    @property
    def has_tangents(self) -> tl.constexpr:
        """Whether tangents run through the layers after the first."""
        return tl.constexpr(self.laplacian.value != "none" and self.depth.value > 1)

    @property
    def keeps_all(self) -> tl.constexpr:
        """Whether a residual loss keeps the tangents of all directions on the way from its residual to its gradient."""
        directions = min(self.widths[0].value, self.widths[1].value)
        exact = self.has_tangents.value and self.laplacian.value == "exact"
        return tl.constexpr(exact and directions <= self.kept.value * self.stack.value)

    # Where a program's gradients lie in its partial buffer, in elements: those of out_bias, the coefficients,
    # out_weight, seed_norms (H_1,), each weight, and the seeds (num_directions, H_1).
    out_bias_at: ClassVar[tl.constexpr] = tl.constexpr(0)
    coefficients_at: ClassVar[tl.constexpr] = tl.constexpr(8)
    out_weight_at: ClassVar[tl.constexpr] = tl.constexpr(16)

    @property
    def seed_norms_at(self) -> tl.constexpr:
        """Where the gradient of seed_norms lies: behind that of out_weight."""
        return tl.constexpr(16 + round_up(self.widths[-1].value))

    @cached_property
    def weights_at(self) -> tuple[tl.constexpr, ...]:
        """Where each layer's gradient lies, behind that of seed_norms; and the end of the last one."""
        places = [self.seed_norms_at.value + round_up(self.widths[1].value)]
        for below, width in zip(self.widths[:-1], self.widths[1:], strict=True):
            places.append(places[-1] + round_up(below.value * width.value))
        return tuple(tl.constexpr(place) for place in places)

    @cached_property
    def bias_at(self) -> tuple[tl.constexpr, ...]:
        """Where each layer's (3, H_l) lies in a row with the gradient of all bias jets, and the row's length."""
        places = [0]
        for width in self.widths[1:]:
            places.append(places[-1] + 3 * width.value)
        return tuple(tl.constexpr(place) for place in places)


def round_up(size: int) -> int:
    """Round up to a multiple of 16 elements, where blocks of memory begin."""
    return -(-size // 16) * 16


class Launch(NamedTuple):
    """A kernel's compile-time arguments: the pass and the compiler's options; and the size of a program's scratch."""

    config: Pass
    options: dict[str, int]
    scratch_size: int


@cache
def choose(
    widths: tuple[int, ...], activation: str, out_activation: str, timed: bool, laplacian: str, triangular: bool,
    precision: str, backward: bool, itemsize: int = 4,
) -> Launch:  # fmt: skip
    """Choose the blocks for networks of these widths (D, H_1, .., H_L)."""
    widest, depth = max(widths), len(widths) - 1
    # The wider a block, the less often its operands are read again; it is as wide as it can be without spilling
    # registers. Tensor cores need more registers for their operands, and three products instead of one more still.
    columns = 16 if widest <= 16 or itemsize == 8 else 32 if widest <= 32 else 64
    if precision != "ieee" and (widest <= 64 or (backward and precision == "tf32x3")):
        columns = min(columns, 32)
    samples = 64 if widest <= 64 and itemsize == 4 else 32
    inner = 16
    # The tangents' blocks have 64 rows, or 32 in float64. A backward pass keeps the blocks of all directions, or where
    # there are many, of some at a time.
    stack = 1 if laplacian == "none" or depth == 1 else (64 if itemsize == 4 else 32) // samples
    blocks = -(-min(widths[0], widths[1]) // stack) if laplacian == "exact" else 17
    kept = 1 if laplacian == "none" or depth == 1 else blocks if blocks <= 16 else (8 if widest <= 128 else 4) // stack
    stride = -(-widest // 16) * 16
    config = Pass(
        tl.constexpr(depth), tuple(tl.constexpr(width) for width in widths), tl.constexpr(activation),
        tl.constexpr(out_activation), tl.constexpr(timed), tl.constexpr(laplacian), tl.constexpr(triangular),
        tl.constexpr(precision), tl.constexpr(samples), tl.constexpr(columns), tl.constexpr(inner),
        tl.constexpr(stack), tl.constexpr(kept), tl.constexpr(stride),
    )  # fmt: skip
    arrays = (BACKWARD_ARRAYS if backward else FORWARD_ARRAYS).value
    tangent_layers = depth - 1 if laplacian != "none" and (backward or depth > 2) else 0
    scratch_size = (
        HEADER.value
        + VECTORS.value * samples
        + arrays * (depth + 1) * samples * stride
        + tangent_layers * kept * stack * samples * stride
    )
    # Loads aren't pipelined: blocks come from the caches, and stages in flight would need registers. maxnreg is the
    # device's own limit. Without it, the assembler sometimes spills in order to halve the registers.
    options = {"num_warps": 4 if columns == 16 else 8, "num_stages": 1, "maxnreg": 255}
    return Launch(config, options, scratch_size)
