"""Tiles: how a pass is cut into blocks, which samples a program takes, and where it keeps what it needs of them.

A program takes one tile after another; a tile is `samples` samples of one potential. What a layer gives the next passes
through the program's own scratch in global memory. Its size doesn't depend on the batch, and it stays in the
second-level cache. So any width fits, and matrix products run over blocks of `columns` by `inner`. `C` is the pass that
a kernel is compiled for, a `configurations.Pass`.

A stage of a pass is a function of its own in the machine code too (`noinline`). It reads and writes scratch alone, so
it begins with all registers free. This also keeps compiling short: the compiler's time grows faster than the square of
a function's length.

Names are those of the table at the head of docs/derivation.md: SIGMA1 holds sigma1, V_BAR the cotangent of v.
"""

import triton
import triton.language as tl

# A program's scratch begins with a header of so many elements, which describes its tile: see `open_tile`.
HEADER = tl.constexpr(16)

# Vectors (samples,) behind it: v and its derivatives, |grad_v|^2, cotangents of v and its derivatives, and the loss so
# far.
V = tl.constexpr(0)
V_T = tl.constexpr(1)
V_TT = tl.constexpr(2)
LAPLACIAN_V = tl.constexpr(3)
SQUARED_GRAD_V = tl.constexpr(4)
V_BAR = tl.constexpr(5)
LAPLACIAN_V_BAR = tl.constexpr(6)
V_T_BAR = tl.constexpr(7)
V_TT_BAR = tl.constexpr(8)
LAPLACIAN_V_FACTOR = tl.constexpr(9)  # the factor of v's Laplacian in v_bar
LOSS = tl.constexpr(10)
VECTORS = tl.constexpr(11)

# Arrays (samples, stride) behind them, one for each layer 0..L; layer 0 is the latents.
H = tl.constexpr(0)  # h_l; z at layer 0
SIGMA1 = tl.constexpr(1)  # sigma'(a_l)
TIME_TANGENT = tl.constexpr(2)  # p_l
SCALED_TIME_TANGENT = tl.constexpr(3)  # sigma'(a_l) p_l
DELTA = tl.constexpr(4)  # delta_l = dv/dh_l; grad_v at layer 0
SIGNAL = tl.constexpr(5)  # e_l = delta_l sigma'(a_l)
CURVATURE = tl.constexpr(6)  # kappa_l = delta_l sigma''(a_l)
SIGMA2 = tl.constexpr(7)  # sigma''(a_l)
FORWARD_ARRAYS = tl.constexpr(8)
SIGMA3 = tl.constexpr(8)  # sigma'''(a_l)
NORMS = tl.constexpr(9)  # s_l
SIGMA1_BAR = tl.constexpr(10)  # the tangents' part of sigma'(a_l)'s cotangent: the sum over directions of Y * X_l
DELTA_BAR = tl.constexpr(11)
A_BAR = tl.constexpr(12)
TIME_TANGENT_BAR = tl.constexpr(13)
BACKWARD_ARRAYS = tl.constexpr(14)


@triton.jit
def load_vector(scratch, NAME: tl.constexpr, C: tl.constexpr):
    """Load one number for each sample, [samples]. Stages leave these in scratch, since blocks need the registers."""
    return tl.load(scratch + HEADER + NAME * C.samples + tl.arange(0, C.samples))


@triton.jit
def load_for_rows(scratch, NAME: tl.constexpr, o_m, C: tl.constexpr):
    """Load the number of each row's sample, [rows]."""
    return tl.load(scratch + HEADER + NAME * C.samples + o_m)


@triton.jit
def store_vector(scratch, NAME: tl.constexpr, value, C: tl.constexpr):
    """Write one number for each sample."""
    tl.store(scratch + HEADER + NAME * C.samples + tl.arange(0, C.samples), value)


@triton.jit
def add_to_vector(scratch, NAME: tl.constexpr, value, C: tl.constexpr):
    """Add to one number for each sample."""
    store_vector(scratch, NAME, load_vector(scratch, NAME, C) + value, C)


@triton.jit
def array(scratch, NAME: tl.constexpr, LAYER: tl.constexpr, C: tl.constexpr):
    """Return where one array of the scratch begins."""
    return scratch + HEADER + VECTORS * C.samples + (NAME * (C.depth + 1) + LAYER) * (C.samples * C.stride)


@triton.jit
def tangent_array(scratch, LAYER: tl.constexpr, block, ARRAYS: tl.constexpr, C: tl.constexpr):
    """Return where X_l of one block of directions (rows, stride) begins: behind the arrays, for layers 2..L."""
    offset = HEADER + VECTORS * C.samples + ARRAYS * (C.depth + 1) * (C.samples * C.stride)
    return scratch + offset + ((LAYER - 2) * C.kept + block) * (C.rows * C.stride)


@triton.jit
def load_block(p, o_row, o_column, WIDTH: tl.constexpr, C: tl.constexpr):
    """Load rows and columns of an array, with zeros beyond WIDTH, where nothing was ever written."""
    return tl.load(p + o_row[:, None] * C.stride + o_column[None, :], mask=(o_column < WIDTH)[None, :], other=0.0)


@triton.jit
def load_transposed(p, o_row, o_column, WIDTH: tl.constexpr, C: tl.constexpr):
    """Load the same with rows and columns exchanged."""
    return tl.load(p + o_row[None, :] * C.stride + o_column[:, None], mask=(o_column < WIDTH)[:, None], other=0.0)


@triton.jit
def store_block(p, o_row, o_column, value, WIDTH: tl.constexpr, C: tl.constexpr):
    """Write rows and columns of an array."""
    tl.store(p + o_row[:, None] * C.stride + o_column[None, :], value, mask=(o_column < WIDTH)[None, :])


@triton.jit
def load_up(p_weight, o_inner, o_column, BELOW: tl.constexpr, WIDTH: tl.constexpr):
    """Load W_l^T, [inner, columns], for products with what comes from the layer below."""
    mask = (o_inner < BELOW)[:, None] & (o_column < WIDTH)[None, :]
    return tl.load(p_weight + o_column[None, :] * BELOW + o_inner[:, None], mask=mask, other=0.0)


@triton.jit
def load_down(p_weight, o_inner, o_column, BELOW: tl.constexpr, WIDTH: tl.constexpr):
    """Load W_l, [inner, columns], for products with what comes from the layer above."""
    mask = (o_inner < WIDTH)[:, None] & (o_column < BELOW)[None, :]
    return tl.load(p_weight + o_inner[:, None] * BELOW + o_column[None, :], mask=mask, other=0.0)


@triton.jit
def load_row(p, o_column, WIDTH: tl.constexpr):
    """Load one row, [columns], with zeros beyond WIDTH."""
    return tl.load(p + o_column, mask=o_column < WIDTH, other=0.0)


@triton.jit
def add_to_row(p, o_column, value, WIDTH: tl.constexpr):
    """Add to one row of an accumulator that this program owns."""
    mask = o_column < WIDTH
    tl.store(p + o_column, tl.load(p + o_column, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def rolled(WIDTH: tl.constexpr):
    """Return WIDTH as a loop's end that the compiler doesn't know. Otherwise it unrolls loops, and spills registers.

    Grids have one dimension, so the second index is zero.
    """
    return tl.program_id(1) + WIDTH


@triton.jit
def multiply(a, b, accumulator, C: tl.constexpr):
    """Return accumulator + a b, in the pass's precision."""
    return tl.dot(a, b, accumulator, input_precision=C.precision, out_dtype=accumulator.dtype)


@triton.jit
def own_scratch(scratch, scratch_size):
    """Return where this program's scratch begins."""
    # A hint about an argument is lost. About a product it stays, and lets loads take 16 bytes.
    return scratch + tl.multiple_of(tl.program_id(0).to(tl.int64) * scratch_size, 16)


@triton.jit
def open_tile(tile, starts, tile_ends, tile_potential, scratch, partial_size, C: tl.constexpr):
    """Find a tile, leave in scratch what its stages must know about it, and return its potential.

    They must know its potential, the place of its first sample in the order, how many samples it has, and where the
    program's partial gradients of that potential begin. The samples of potential k lie at starts[k] .. starts[k + 1] of
    the order, and its tiles end at tile_ends[k].
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
    """Load the tile's potential."""
    return tl.load(scratch.to(tl.pointer_type(tl.int64)))


@triton.jit
def load_place(scratch):
    """Load the place of the tile's first sample in the order, and how many samples it has."""
    p_header = scratch.to(tl.pointer_type(tl.int64))
    return tl.load(p_header + 1), tl.load(p_header + 2)


@triton.jit
def own_partial(partial, scratch):
    """Return where the program's partial gradients of the tile's potential begin."""
    return partial + tl.multiple_of(tl.load(scratch.to(tl.pointer_type(tl.int64)) + 3), 16)


@triton.jit
def load_places(p, scratch, C: tl.constexpr):
    """Load what `p` holds for each of the tile's samples, and a mask of the block's places that have a sample."""
    place, count = load_place(scratch)
    o_m = tl.arange(0, C.samples)
    valid = o_m < count
    return tl.load(p + place + o_m, mask=valid, other=0), valid


@triton.jit
def my_tiles(tile_ends, num_potentials):
    """Return the first tile of this program and the end of its tiles: each program takes equally many, in order."""
    total = tl.load(tile_ends + num_potentials - 1)
    each = tl.cdiv(total, tl.num_programs(0))
    first = tl.program_id(0) * each
    return first, tl.minimum(first + each, total)
