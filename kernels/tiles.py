"""Tiles: how a pass is cut into blocks, where a program keeps what it needs of its samples, and which samples they are.

A program takes one tile of `samples` samples of one potential after another. What a layer gives the next passes through
the program's own scratch in global memory, whose size doesn't depend on the batch and which stays in the second-level
cache: so any width fits, and matrix products run over blocks of `columns` by `inner`. `C` is the pass that a kernel is
compiled for, a `configurations.Pass`.

A stage of a pass is a function of its own in the machine's code too (`noinline`). All that it takes and gives lies in
scratch, so it begins with all registers free; and the compiler's time, which grows with a function's length faster than
its square, stays short.
"""

import triton
import triton.language as tl

# A program's scratch begins with its tile, see `open_tile`, in a header of so many elements.
HEADER = tl.constexpr(16)

# Vectors (samples,) behind it: v and its derivatives, |gamma|^2, the former's cotangents, and what the loss has so far.
V = tl.constexpr(0)
V_T = tl.constexpr(1)
V_TT = tl.constexpr(2)
LAPLACIAN = tl.constexpr(3)
SQUARE = tl.constexpr(4)
V_BAR = tl.constexpr(5)
LAPLACIAN_BAR = tl.constexpr(6)
V_T_BAR = tl.constexpr(7)
V_TT_BAR = tl.constexpr(8)
LAPLACIAN_FACTOR = tl.constexpr(9)  # what v's Laplacian is multiplied by in V_BAR
LOSS = tl.constexpr(10)
VECTORS = tl.constexpr(11)

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
    return tl.load(scratch + HEADER + NAME * C.samples + tl.arange(0, C.samples))


@triton.jit
def load_for_rows(scratch, NAME: tl.constexpr, o_m, C: tl.constexpr):
    """One number of each row's sample, [rows]."""
    return tl.load(scratch + HEADER + NAME * C.samples + o_m)


@triton.jit
def store_vector(scratch, NAME: tl.constexpr, value, C: tl.constexpr):
    """Write one number of each sample."""
    tl.store(scratch + HEADER + NAME * C.samples + tl.arange(0, C.samples), value)


@triton.jit
def add_to_vector(scratch, NAME: tl.constexpr, value, C: tl.constexpr):
    """Add to one number of each sample."""
    store_vector(scratch, NAME, load_vector(scratch, NAME, C) + value, C)


@triton.jit
def array(scratch, NAME: tl.constexpr, LEVEL: tl.constexpr, C: tl.constexpr):
    """One array of the scratch."""
    return scratch + HEADER + VECTORS * C.samples + (NAME * (C.depth + 1) + LEVEL) * (C.samples * C.stride)


@triton.jit
def tangents(scratch, LEVEL: tl.constexpr, block, ARRAYS: tl.constexpr, C: tl.constexpr):
    """X_l of one block of directions (rows, stride); kept for levels 2..L, behind the arrays."""
    offset = HEADER + VECTORS * C.samples + ARRAYS * (C.depth + 1) * (C.samples * C.stride)
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
def rolled(WIDTH: tl.constexpr):
    """A loop's end that the compiler doesn't know: otherwise it unrolls loops of blocks, and spills registers for it.

    Grids have one dimension, so the second index is zero.
    """
    return tl.program_id(1) + WIDTH


@triton.jit
def multiply(a, b, accumulator, C: tl.constexpr):
    """accumulator + a b, in the pass's precision."""
    return tl.dot(a, b, accumulator, input_precision=C.precision, out_dtype=accumulator.dtype)


@triton.jit
def own_scratch(scratch, scratch_size):
    """Where this program's scratch begins."""
    # What a hint says of an argument is lost; of a product it stays, and lets loads take 16 bytes.
    return scratch + tl.multiple_of(tl.program_id(0).to(tl.int64) * scratch_size, 16)


@triton.jit
def open_tile(tile, starts, tile_ends, tile_potential, scratch, partial_size, C: tl.constexpr):
    """Find a tile, and leave what its stages must know of it in scratch; returns its potential.

    That is its potential, the place of its first sample in the order, how many samples it has, and where the program's
    partial gradients of that potential begin. Potential k's samples lie at starts[k] .. starts[k + 1] of the order, and
    its tiles end at tile_ends[k].
    """
    potential = tl.load(tile_potential + tile)
    begin = tl.load(tile_ends + potential - 1, mask=potential > 0, other=0)
    place = tl.load(starts + potential) + (tile - begin) * C.samples
    p_header = scratch.to(tl.pointer_type(tl.int64))
    tl.store(p_header, potential)
    tl.store(p_header + 1, place)
    tl.store(p_header + 2, tl.minimum(tl.load(starts + potential + 1) - place, C.samples))
    tl.store(p_header + 3, (tl.program_id(0) + potential) * partial_size)
    tl.debug_barrier()
    return potential.to(tl.int32)


@triton.jit
def load_potential(scratch):
    """The tile's potential."""
    return tl.load(scratch.to(tl.pointer_type(tl.int64)))


@triton.jit
def load_place(scratch):
    """The place of the tile's first sample in the order, and how many samples it has."""
    p_header = scratch.to(tl.pointer_type(tl.int64))
    return tl.load(p_header + 1), tl.load(p_header + 2)


@triton.jit
def own_partial(partial, scratch):
    """Where the program's partial gradients of the tile's potential begin."""
    return partial + tl.multiple_of(tl.load(scratch.to(tl.pointer_type(tl.int64)) + 3), 16)


@triton.jit
def load_places(p, scratch, C: tl.constexpr):
    """What `p` holds for each of the tile's samples, in their order, and which of the block's samples are there."""
    place, count = load_place(scratch)
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
