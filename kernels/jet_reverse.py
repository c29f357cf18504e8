"""The backward half of every pass: from cotangents of v and its derivatives to gradients of everything they depend on.

Tangents first, as their share enters the walk up the gradient chain, then up the chain, then down the layers. Gradients
of parameters are added to the program's own partial buffer for the potential at hand; nobody else writes there.
"""

import triton
import triton.language as tl

from .jet_pass import add_over_stack, load_bias, load_scaled, load_tangents, push_tangents
from .tiles import (
    A_BAR,
    BACKWARD_ARRAYS,
    BEND,
    CHAIN,
    DELTA,
    DELTA_BAR,
    FIRST,
    LAPLACIAN_BAR,
    NORMS,
    OUTPUT,
    SCALED_VELOCITY,
    SECOND,
    SHARE,
    THIRD,
    V_BAR,
    V_T_BAR,
    V_TT_BAR,
    VELOCITY,
    VELOCITY_BAR,
    add_to_row,
    array,
    load_block,
    load_down,
    load_for_rows,
    load_place,
    load_places,
    load_potential,
    load_row,
    load_transposed,
    load_up,
    load_vector,
    multiply,
    own_partial,
    rolled,
    store_block,
    tangents,
)


@triton.jit(noinline=True)
def clear(partial, size, scratch):
    """Begin the tile's partial buffer."""
    p_partial = own_partial(partial, scratch)
    for i in range(0, size, 1024):
        o_i = i + tl.arange(0, 1024)
        tl.store(p_partial + o_i, tl.zeros((1024,), partial.dtype.element_ty), mask=o_i < size)


@triton.jit
def pull_tangents(weights, seeds, directions, partial, scratch, C: tl.constexpr):
    """All that passes through the tangents of layers 2..L, some directions at a time: up, then down again.

    Adds to the weights' and the seeds' gradients and to v's Laplacian, and leaves s_l in NORMS and the sums over
    directions of Y * X_l in SHARE.
    """
    for j in range(0, directions, C.stack * C.kept):
        keep_tangents(weights, seeds, directions, scratch, j, "bars", C)
        pull_kept(weights, seeds, directions, partial, scratch, j, C)


@triton.jit
def keep_tangents(weights, seeds, directions, scratch, j, KEEP: tl.constexpr, C: tl.constexpr):
    """Up the layers with directions j, j + 1, .., as many as are kept; adds their part of v's Laplacian."""
    for block in range(tl.minimum(C.kept, tl.cdiv(directions - j, C.stack))):
        for level in tl.static_range(2, C.depth + 1):
            push_tangents(
                weights[level - 1], seeds, directions, scratch, j + block * C.stack, block, level,
                BACKWARD_ARRAYS, KEEP, C,
            )  # fmt: skip
            tl.debug_barrier()


@triton.jit(noinline=True)
def weigh_kept(directions, scratch, C: tl.constexpr):
    """2 sbar_L X_L in place of all directions' X_L, once the Laplacian's cotangent is known."""
    WIDTH: tl.constexpr = C.widths[C.depth]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    for block in range(tl.cdiv(directions, C.stack)):
        p_tangents = tangents(scratch, C.depth, block, BACKWARD_ARRAYS, C)
        for n in range(0, rolled(WIDTH), C.columns):
            o_n = n + tl.arange(0, C.columns)
            b_bend = load_block(array(scratch, BEND, C.depth, C), o_m, o_n, WIDTH, C)  # [rows, columns]
            rows_bar = load_for_rows(scratch, LAPLACIAN_BAR, o_m, C)
            x_bar = 2 * rows_bar[:, None] * b_bend * load_block(p_tangents, o_r, o_n, WIDTH, C)
            store_block(p_tangents, o_r, o_n, x_bar, WIDTH, C)


@triton.jit
def pull_kept(weights, seeds, directions, partial, scratch, j, C: tl.constexpr):
    """Down the layers with the directions that are kept, from Xbar_L."""
    blocks = tl.minimum(C.kept, tl.cdiv(directions - j, C.stack))
    for level in tl.static_range(C.depth, 1, -1):
        tangent_weight_gradient(seeds, directions, partial, scratch, j, blocks, level, C)
        tl.debug_barrier()
        for block in range(blocks):
            pull_level(
                weights[level - 1], seeds, directions, partial, scratch, j + block * C.stack, block,
                level, C,
            )  # fmt: skip
            tl.debug_barrier()


@triton.jit(noinline=True)
def tangent_weight_gradient(seeds, directions, partial, scratch, j, blocks, LEVEL: tl.constexpr, C: tl.constexpr):
    """Wbar_l += Xbar_l (diag(sigma'(a_{l-1})) X_{l-1})^T, over the directions that are kept."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    start = 0
    if C.triangular and LEVEL == 2:
        start = j // C.columns * C.columns
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        for k in range(start, rolled(BELOW), C.columns):
            o_k = k + tl.arange(0, C.columns)
            p_gradient = own_partial(partial, scratch) + C.weights_at[LEVEL - 1] + o_n[:, None] * BELOW + o_k[None, :]
            mask = (o_n < WIDTH)[:, None] & (o_k < BELOW)[None, :]
            total = tl.load(p_gradient, mask=mask, other=0.0)  # [columns, columns]
            for block in range(blocks):
                p_bar = tangents(scratch, LEVEL, block, BACKWARD_ARRAYS, C)
                for r in range(0, rolled(C.rows), C.inner):
                    o_r = r + tl.arange(0, C.inner)
                    b_bar = load_transposed(p_bar, o_r, o_n, WIDTH, C)  # [columns, inner]
                    b_scaled = load_scaled(
                        seeds, directions, scratch, j + block * C.stack, block, o_r, o_k, LEVEL - 1,
                        BACKWARD_ARRAYS, C,
                    )  # fmt: skip
                    total = multiply(b_bar, b_scaled, total, C)
            tl.store(p_gradient, total, mask=mask)


@triton.jit(noinline=True)
def pull_level(weight, seeds, directions, partial, scratch, j, block, LEVEL: tl.constexpr, C: tl.constexpr):
    """With Y = W_l^T Xbar_l: Xbar_{l-1} in place of X_{l-1}, or the seeds' gradient at level 1, and the share."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    for n in range(0, rolled(BELOW), C.columns):
        o_n = n + tl.arange(0, C.columns)
        y = tl.zeros((C.rows, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_bar = load_block(tangents(scratch, LEVEL, block, BACKWARD_ARRAYS, C), o_r, o_k, WIDTH, C)  # [rows, inner]
            y = multiply(b_bar, load_down(p_weight, o_k, o_n, BELOW, WIDTH), y, C)
        x = load_tangents(seeds, directions, scratch, j, block, o_r, o_n, LEVEL - 1, BACKWARD_ARRAYS, C)
        add_over_stack(array(scratch, SHARE, LEVEL - 1, C), x * y, o_n, j > 0, BELOW, C)
        scaled = load_block(array(scratch, FIRST, LEVEL - 1, C), o_m, o_n, BELOW, C) * y
        if LEVEL == 2:
            over_samples = tl.sum(tl.reshape(scaled, (C.stack, C.samples, C.columns)), 1)  # [stack, columns]
            o_j = j + tl.arange(0, C.stack)
            p_seeds = own_partial(partial, scratch) + C.weights_at[C.depth] + o_j[:, None] * BELOW + o_n[None, :]
            mask = (o_j < directions)[:, None] & (o_n < BELOW)[None, :]
            tl.store(p_seeds, tl.load(p_seeds, mask=mask, other=0.0) + over_samples, mask=mask)
        else:
            b_bend = load_block(array(scratch, BEND, LEVEL - 1, C), o_m, o_n, BELOW, C)
            rows_bar = load_for_rows(scratch, LAPLACIAN_BAR, o_m, C)
            x_bar = 2 * rows_bar[:, None] * b_bend * x + scaled
            store_block(tangents(scratch, LEVEL - 1, block, BACKWARD_ARRAYS, C), o_r, o_n, x_bar, BELOW, C)


@triton.jit
def backward(
    weights, bias_jets, norms, slot, order, run, run_rows, z_bar, partial, scratch,
    WITH_Z: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """After pull_tangents, and with gamma's cotangent in DELTA_BAR of level 0: up the chain, and down the layers.

    Leaves abar_l and pbar_l in A_BAR and VELOCITY_BAR, and adds to the gradients of the weights and the output unit.
    """
    tl.debug_barrier()
    for level in tl.static_range(1, C.depth + 1):
        climb_bars(weights[level - 1], bias_jets[level - 1], norms, slot, partial, scratch, level, C)
        tl.debug_barrier()
    for level in tl.static_range(C.depth, 0, -1):
        weight_gradient(partial, scratch, level, C)
        if level > 1:
            descend_bars(weights[level - 1], scratch, level, C)
            tl.debug_barrier()
    bias_gradient(run, run_rows, scratch, C)
    if WITH_Z:
        latent_gradient(weights[0], order, z_bar, scratch, C)
    tl.debug_barrier()


@triton.jit(noinline=True)
def climb_bars(weight, bias_jet, norms, slot, partial, scratch, LEVEL: tl.constexpr, C: tl.constexpr):
    """deltabar_l, and what abar_l and pbar_l get from layer l itself."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    LAST: tl.constexpr = C.depth == LEVEL
    v_bar, laplacian_bar = load_vector(scratch, V_BAR, C), load_vector(scratch, LAPLACIAN_BAR, C)
    v_t_bar, v_tt_bar = load_vector(scratch, V_T_BAR, C), load_vector(scratch, V_TT_BAR, C)
    p_partial = own_partial(partial, scratch)
    if LAST:
        add_scalar(p_partial + C.out_bias_at, v_bar)
    o_m = tl.arange(0, C.samples)
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        chain_bar = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(BELOW), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_below = load_block(array(scratch, DELTA_BAR, LEVEL - 1, C), o_m, o_k, BELOW, C)  # [samples, inner]
            chain_bar = multiply(b_below, load_up(p_weight, o_k, o_n, BELOW, WIDTH), chain_bar, C)
        first = load_block(array(scratch, FIRST, LEVEL, C), o_m, o_n, WIDTH, C)
        second = load_block(array(scratch, SECOND, LEVEL, C), o_m, o_n, WIDTH, C)
        delta = load_block(array(scratch, DELTA, LEVEL, C), o_m, o_n, WIDTH, C)
        factor = tl.zeros_like(first)  # of delta_l sigma''(a_l) in v's derivatives
        if C.timed:
            p = load_block(array(scratch, VELOCITY, LEVEL, C), o_m, o_n, WIDTH, C)
            chain_bar += v_tt_bar[:, None] * load_bias(bias_jet, slot, scratch, o_n, LEVEL, 2, C)
            factor += v_tt_bar[:, None] * p * p
            p_bar = 2 * v_tt_bar[:, None] * delta * second * p
            if LAST:
                chain_bar += v_t_bar[:, None] * p
                p_bar += v_t_bar[:, None] * delta * first
            store_block(array(scratch, VELOCITY_BAR, LEVEL, C), o_m, o_n, p_bar, WIDTH, C)
        if C.laplacian != "none":
            if LEVEL == 1:
                squares = load_row(norms + load_potential(scratch) * WIDTH, o_n, WIDTH)[None, :]
                along = tl.sum(laplacian_bar[:, None] * delta * second, 0)
                add_to_row(p_partial + C.norms_at, o_n, along, WIDTH)
            else:
                squares = load_block(array(scratch, NORMS, LEVEL, C), o_m, o_n, WIDTH, C)
            factor += laplacian_bar[:, None] * squares
        delta_bar = chain_bar * first + second * factor
        third = load_block(array(scratch, THIRD, LEVEL, C), o_m, o_n, WIDTH, C)
        a_bar = chain_bar * delta * second + delta * third * factor
        if C.curved and not LAST:
            a_bar += second * load_block(array(scratch, SHARE, LEVEL, C), o_m, o_n, WIDTH, C)
        if LAST:
            a_bar += v_bar[:, None] * delta * first
            h = load_block(array(scratch, OUTPUT, LEVEL, C), o_m, o_n, WIDTH, C)
            add_to_row(p_partial + C.out_weight_at, o_n, tl.sum(delta_bar + v_bar[:, None] * h, 0), WIDTH)
        store_block(array(scratch, DELTA_BAR, LEVEL, C), o_m, o_n, delta_bar, WIDTH, C)
        store_block(array(scratch, A_BAR, LEVEL, C), o_m, o_n, a_bar, WIDTH, C)


@triton.jit
def add_scalar(p, value):
    """Add a block's sum to one number of the program's own."""
    tl.store(p, tl.load(p) + tl.sum(value, 0))


@triton.jit(noinline=True)
def weight_gradient(partial, scratch, LEVEL: tl.constexpr, C: tl.constexpr):
    """Wbar_l += abar_l h_{l-1}^T + c_l deltabar_{l-1}^T + pbar_l (sigma'(a_{l-1}) p_{l-1})^T, over the samples."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        for k in range(0, rolled(BELOW), C.columns):
            o_k = k + tl.arange(0, C.columns)
            p_gradient = own_partial(partial, scratch) + C.weights_at[LEVEL - 1] + o_n[:, None] * BELOW + o_k[None, :]
            mask = (o_n < WIDTH)[:, None] & (o_k < BELOW)[None, :]
            total = tl.load(p_gradient, mask=mask, other=0.0)  # [columns, columns]
            for m in range(0, rolled(C.samples), C.inner):
                o_m = m + tl.arange(0, C.inner)
                b_bar = load_transposed(array(scratch, A_BAR, LEVEL, C), o_m, o_n, WIDTH, C)  # [columns, inner]
                b_below = load_block(array(scratch, OUTPUT, LEVEL - 1, C), o_m, o_k, BELOW, C)  # [inner, columns]
                total = multiply(b_bar, b_below, total, C)
                b_chain = load_transposed(array(scratch, CHAIN, LEVEL, C), o_m, o_n, WIDTH, C)
                b_below = load_block(array(scratch, DELTA_BAR, LEVEL - 1, C), o_m, o_k, BELOW, C)
                total = multiply(b_chain, b_below, total, C)
                if C.timed and LEVEL > 1:
                    b_bar = load_transposed(array(scratch, VELOCITY_BAR, LEVEL, C), o_m, o_n, WIDTH, C)
                    b_below = load_block(array(scratch, SCALED_VELOCITY, LEVEL - 1, C), o_m, o_k, BELOW, C)
                    total = multiply(b_bar, b_below, total, C)
            tl.store(p_gradient, total, mask=mask)


@triton.jit(noinline=True)
def descend_bars(weight, scratch, LEVEL: tl.constexpr, C: tl.constexpr):
    """What layer l's abar and pbar mean for those of layer l - 1."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_m = tl.arange(0, C.samples)
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    for n in range(0, rolled(BELOW), C.columns):
        o_n = n + tl.arange(0, C.columns)
        from_a = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        from_p = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_weight = load_down(p_weight, o_k, o_n, BELOW, WIDTH)  # [inner, columns]
            from_a = multiply(load_block(array(scratch, A_BAR, LEVEL, C), o_m, o_k, WIDTH, C), b_weight, from_a, C)
            if C.timed:
                b_bar = load_block(array(scratch, VELOCITY_BAR, LEVEL, C), o_m, o_k, WIDTH, C)
                from_p = multiply(b_bar, b_weight, from_p, C)
        first = load_block(array(scratch, FIRST, LEVEL - 1, C), o_m, o_n, BELOW, C)
        a_bar = load_block(array(scratch, A_BAR, LEVEL - 1, C), o_m, o_n, BELOW, C) + first * from_a
        if C.timed:
            p = load_block(array(scratch, VELOCITY, LEVEL - 1, C), o_m, o_n, BELOW, C)
            a_bar += load_block(array(scratch, SECOND, LEVEL - 1, C), o_m, o_n, BELOW, C) * from_p * p
            p_bar = load_block(array(scratch, VELOCITY_BAR, LEVEL - 1, C), o_m, o_n, BELOW, C) + first * from_p
            store_block(array(scratch, VELOCITY_BAR, LEVEL - 1, C), o_m, o_n, p_bar, BELOW, C)
        store_block(array(scratch, A_BAR, LEVEL - 1, C), o_m, o_n, a_bar, BELOW, C)


@triton.jit(noinline=True)
def latent_gradient(weight, order, z_bar, scratch, C: tl.constexpr):
    """zbar = W_1^T abar_1 of the tile's samples."""
    o_sample, valid = load_places(order, scratch, C)
    WIDTH: tl.constexpr = C.widths[1]
    DIM: tl.constexpr = C.widths[0]
    o_m = tl.arange(0, C.samples)
    p_weight = weight + load_potential(scratch) * (WIDTH * DIM)
    for n in range(0, rolled(DIM), C.columns):
        o_n = n + tl.arange(0, C.columns)
        b_bar = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_a_bar = load_block(array(scratch, A_BAR, 1, C), o_m, o_k, WIDTH, C)  # [samples, inner]
            b_bar = multiply(b_a_bar, load_down(p_weight, o_k, o_n, DIM, WIDTH), b_bar, C)
        mask = valid[:, None] & (o_n < DIM)[None, :]
        tl.store(z_bar + o_sample[:, None] * DIM + o_n[None, :], b_bar, mask=mask)


@triton.jit(noinline=True)
def bias_gradient(run, run_rows, scratch, C: tl.constexpr):
    """The gradient of the bias jets, summed over each run of the tile's samples that share a bias row.

    Samples lie in the order of their rows, and `run` numbers the runs; a tile begins a run of its own.
    """
    place, count = load_place(scratch)
    first_run = tl.load(run + place)
    o_run, valid = load_places(run, scratch, C)
    o_run = tl.where(valid, o_run, -1)  # [samples]
    v_tt_bar = load_vector(scratch, V_TT_BAR, C)
    last_run = tl.max(o_run, 0)
    alone = last_run - first_run + 1 == count
    for level in tl.static_range(1, C.depth + 1):
        sum_runs(array(scratch, A_BAR, level, C), None, o_run, first_run, last_run, alone, run_rows, level, 0, C)
        if C.timed:
            p_bar = array(scratch, VELOCITY_BAR, level, C)
            sum_runs(p_bar, None, o_run, first_run, last_run, alone, run_rows, level, 1, C)
            p_chain = array(scratch, CHAIN, level, C)
            sum_runs(p_chain, v_tt_bar, o_run, first_run, last_run, alone, run_rows, level, 2, C)


@triton.jit
def sum_runs(
    p, factor, o_run, first_run, last_run, alone, run_rows, LEVEL: tl.constexpr, ORDER: tl.constexpr, C: tl.constexpr
):
    """An array's rows, times a factor each, summed over runs into these runs' own rows of `run_rows`."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    ROW: tl.constexpr = C.bias_at[C.depth]
    p_rows = run_rows + first_run.to(tl.int64) * ROW + C.bias_at[LEVEL - 1] + ORDER * WIDTH
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        value = load_block(p, tl.arange(0, C.samples), o_n, WIDTH, C)  # [samples, columns]
        if factor is not None:
            value *= factor[:, None]
        if alone:  # every sample has a row of its own
            mask = (o_run >= 0)[:, None] & (o_n < WIDTH)[None, :]
            tl.store(p_rows + (o_run - first_run)[:, None] * ROW + o_n[None, :], value, mask=mask)
        else:
            for i in range(first_run, last_run + 1):
                total = tl.sum(tl.where((o_run == i)[:, None], value, 0.0), 0)
                tl.store(p_rows + (i - first_run) * ROW + o_n, total, mask=o_n < WIDTH)
