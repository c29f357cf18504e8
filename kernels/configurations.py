"""How each pass is cut into blocks, by its widths alone: never by the batch, so that no shape compiles twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, NamedTuple

import triton.language as tl

from .tiles import BACKWARD_ARRAYS, FORWARD_ARRAYS, HEADER, VECTORS


@dataclass(frozen=True)
class Pass:
    """Everything about a pass that its kernel is compiled for; fields are constexpr, as kernels read them.

    widths: (D, H_1, .., H_L). laplacian: "exact", "probes" or "none". triangular: direction j has no entry before
    column j. samples, columns, inner: a matrix product's block. stack: directions whose tangents share a block.
    kept: blocks of tangents kept at a time by a backward pass. stride: a row of scratch.
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
        """Rows of a block of tangents."""
        return tl.constexpr(self.stack.value * self.samples.value)

    @property
    def curved(self) -> tl.constexpr:
        """Whether tangents run through the layers beyond the first."""
        return tl.constexpr(self.laplacian.value != "none" and self.depth.value > 1)

    @property
    def keeps_all(self) -> tl.constexpr:
        """Whether a residual loss keeps the tangents of all directions on the way from its residual to its gradient."""
        directions = min(self.widths[0].value, self.widths[1].value)
        exact = self.curved.value and self.laplacian.value == "exact"
        return tl.constexpr(exact and directions <= self.kept.value * self.stack.value)

    # Where a program's gradients lie in its partial buffer, in elements: the output unit's, the coefficients', those of
    # the squared norms of the seeds (H_1,), of each weight, and of the seeds (directions, H_1).
    out_bias_at: ClassVar[tl.constexpr] = tl.constexpr(0)
    coefficients_at: ClassVar[tl.constexpr] = tl.constexpr(8)
    out_weight_at: ClassVar[tl.constexpr] = tl.constexpr(16)

    @property
    def norms_at(self) -> tl.constexpr:
        """Behind out_weight."""
        return tl.constexpr(16 + round_up(self.widths[-1].value))

    @cached_property
    def weights_at(self) -> tuple[tl.constexpr, ...]:
        """Behind the norms, one for each layer, and the end of the last."""
        places = [self.norms_at.value + round_up(self.widths[1].value)]
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
    """To a multiple of 16 elements, where blocks of memory begin."""
    return -(-size // 16) * 16


class Launch(NamedTuple):
    """A kernel's compile-time arguments: the pass and the compiler's options; and a program's scratch in elements."""

    config: Pass
    options: dict[str, int]
    scratch_size: int


@cache
def choose(
    widths: tuple[int, ...], activation: str, out_activation: str, timed: bool, laplacian: str, triangular: bool,
    precision: str, backward: bool, itemsize: int = 4,
) -> Launch:  # fmt: skip
    """The blocks for networks of these widths (D, H_1, .., H_L)."""
    widest, depth = max(widths), len(widths) - 1
    # The wider a block, the less often its operands are read again; as wide as no register spills. Tensor cores want
    # more for theirs, and three products in place of one more still.
    columns = 16 if widest <= 16 or itemsize == 8 else 32 if widest <= 32 else 64
    if precision != "ieee" and (widest <= 64 or (backward and precision == "tf32x3")):
        columns = min(columns, 32)
    samples = 64 if widest <= 64 and itemsize == 4 else 32
    inner = 16
    # The tangents' blocks have 64 rows, or half of them in float64. A backward pass keeps those of all directions, or
    # of some at a time where these are many.
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
    tangent_levels = depth - 1 if laplacian != "none" and (backward or depth > 2) else 0
    scratch_size = (
        HEADER.value
        + VECTORS.value * samples
        + arrays * (depth + 1) * samples * stride
        + tangent_levels * kept * stack * samples * stride
    )
    # Loads aren't pipelined: blocks come from the caches, and stages in flight would take the registers. maxnreg is the
    # device's own limit; unless it is named, the assembler at times spills to halve the registers.
    options = {"num_warps": 4 if columns == 16 else 8, "num_stages": 1, "maxnreg": 255}
    return Launch(config, options, scratch_size)
