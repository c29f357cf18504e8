"""Tiles: how a pass is cut into blocks, where a program keeps what it needs of its samples, and which samples they are.

A program takes one tile of `samples` samples of one potential after another. What a layer gives the next passes through
the program's own scratch in global memory, whose size doesn't depend on the batch and which stays in the second-level
cache: so any width fits, and matrix products run over blocks of `columns` by `inner`. `C` is the pass that a kernel is
compiled for, a `configurations.Pass`.
"""

import triton
import triton.language as tl

# Vectors (samples,) at the begin of a program's scratch: cotangents of v and its derivatives.
V_BAR = tl.constexpr(0)
LAPLACIAN_BAR = tl.constexpr(1)
V_T_BAR = tl.constexpr(2)
V_TT_BAR = tl.constexpr(3)
LAPLACIAN_FACTOR = tl.constexpr(4)  # what the tangents' part of v's Laplacian is multiplied by in V_BAR
VECTORS = tl.constexpr(5)

# Arrays (samples, stride) behind them, one for each level 0..L.
OUTPUT = tl.constexpr(0)  # h_l; z at level 0
FIRST = tl.constexpr(1)  # sigma'(a_l)
VELOCITY = tl.constexpr(2)  # p_l
SCALED_VELOCITY = tl.constexpr(3)  # sigma'(a_l) p_l
DELTA = tl.constexpr(4)  # delta_l; at level 0 gamma, the gradient before the output map
CHAIN = tl.constexpr(5)  # c_l = delta_l sigma'(a_l)
BEND = tl.constexpr(6)  # delta_l sigma''(a_l)
SECOND = tl.constexpr(7)  # sigma''(a_l)
FORWARD_ARRAYS = tl.constexpr(8)
THIRD = tl.constexpr(8)  # sigma'''(a_l)
NORMS = tl.constexpr(9)  # s_l
SHARE = tl.constexpr(10)  # sum over directions of Y * X_l
DELTA_BAR = tl.constexpr(11)
A_BAR = tl.constexpr(12)
VELOCITY_BAR = tl.constexpr(13)
BACKWARD_ARRAYS = tl.constexpr(14)


@triton.jit
def load_vector(scratch, NAME: tl.constexpr, C: tl.constexpr):
    """One number of each sample, [samples]. Between stages it lies here: registers are for blocks."""
    return tl.load(scratch + NAME * C.samples + tl.arange(0, C.samples))


@triton.jit
def store_vector(scratch, NAME: tl.constexpr, value, C: tl.constexpr):
    """Write one number of each sample."""
    tl.store(scratch + NAME * C.samples + tl.arange(0, C.samples), value)


@triton.jit
def array(scratch, NAME: tl.constexpr, LEVEL: tl.constexpr, C: tl.constexpr):
    """One array of the scratch."""
    return scratch + VECTORS * C.samples + (NAME * (C.depth + 1) + LEVEL) * (C.samples * C.stride)


@triton.jit
def tangents(scratch, LEVEL: tl.constexpr, block, ARRAYS: tl.constexpr, C: tl.constexpr):
    """X_l of one block of directions (rows, stride); kept for levels 2..L, behind the arrays."""
    offset = VECTORS * C.samples + ARRAYS * (C.depth + 1) * (C.samples * C.stride)
    return scratch + offset + ((LEVEL - 2) * C.kept + block) * (C.rows * C.stride)


@triton.jit
def load_block(p, o_row, o_column, WIDTH: tl.constexpr, C: tl.constexpr):
    """Rows and columns of an array, zero beyond WIDTH: what lies there was never written."""
    return tl.load(p + o_row[:, None] * C.stride + o_column[None, :], mask=(o_column < WIDTH)[None, :], other=0.0)


@triton.jit
def load_transposed(p, o_row, o_column, WIDTH: tl.constexpr, C: tl.constexpr):
    """The same with rows and columns exchanged."""
    return tl.load(p + o_row[None, :] * C.stride + o_column[:, None], mask=(o_column < WIDTH)[:, None], other=0.0)


@triton.jit
def store_block(p, o_row, o_column, value, WIDTH: tl.constexpr, C: tl.constexpr):
    """Write rows and columns of an array."""
    tl.store(p + o_row[:, None] * C.stride + o_column[None, :], value, mask=(o_column < WIDTH)[None, :])


@triton.jit
def load_up(p_weight, o_inner, o_column, BELOW: tl.constexpr, WIDTH: tl.constexpr):
    """W_l^T [inner, columns], for products with what comes from the level below."""
    mask = (o_inner < BELOW)[:, None] & (o_column < WIDTH)[None, :]
    return tl.load(p_weight + o_column[None, :] * BELOW + o_inner[:, None], mask=mask, other=0.0)


@triton.jit
def load_down(p_weight, o_inner, o_column, BELOW: tl.constexpr, WIDTH: tl.constexpr):
    """W_l [inner, columns], for products with what comes from the level above."""
    mask = (o_inner < WIDTH)[:, None] & (o_column < BELOW)[None, :]
    return tl.load(p_weight + o_inner[:, None] * BELOW + o_column[None, :], mask=mask, other=0.0)


@triton.jit
def load_row(p, o_column, WIDTH: tl.constexpr):
    """One row [columns], zero beyond WIDTH."""
    return tl.load(p + o_column, mask=o_column < WIDTH, other=0.0)


@triton.jit
def add_to_row(p, o_column, value, WIDTH: tl.constexpr):
    """Add to one row of an accumulator that this program owns."""
    mask = o_column < WIDTH
    tl.store(p + o_column, tl.load(p + o_column, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def multiply(a, b, accumulator, C: tl.constexpr):
    """accumulator + a b, in the pass's precision."""
    return tl.dot(a, b, accumulator, input_precision=C.precision, out_dtype=accumulator.dtype)


@triton.jit
def find_tile(tile, starts, tile_ends, tile_potential, C: tl.constexpr):
    """A tile's potential, the place of its first sample in the order, and how many samples it has.

    Potential k's samples lie at starts[k] .. starts[k + 1] of the order, and its tiles end at tile_ends[k].
    """
    potential = tl.load(tile_potential + tile)
    begin = tl.load(tile_ends + potential - 1, mask=potential > 0, other=0)
    place = tl.load(starts + potential) + (tile - begin) * C.samples
    return potential, place, tl.minimum(tl.load(starts + potential + 1) - place, C.samples)


@triton.jit
def load_places(p, place, count, C: tl.constexpr):
    """What `p` holds for each of the tile's samples, in their order, and which of the block's samples are there."""
    o_m = tl.arange(0, C.samples)
    valid = o_m < count
    return tl.load(p + place + o_m, mask=valid, other=0), valid


@triton.jit
def my_tiles(tile_ends, num_potentials):
    """The first and the last but one of the tiles that this program takes: as many for each, in their order."""
    total = tl.load(tile_ends + num_potentials - 1)
    each = tl.cdiv(total, tl.num_programs(0))
    first = tl.program_id(0) * each
    return first, tl.minimum(first + each, total)
