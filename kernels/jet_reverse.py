"""The backward half of every pass: from cotangents of v and its derivatives to gradients of everything they depend on.

Three sweeps: the tangents', whose result the next one needs; the backward of the signal, up the layers; and that of the
values, down the layers. Gradients of parameters are added to the program's own partial buffer for the tile's potential.
No other program writes there.
"""

import triton
import triton.language as tl

from .jet_pass import add_over_stack, forward_tangents, load_bias, load_scaled, load_tangents
from .tiles import (
    A_BAR,
    BACKWARD_ARRAYS,
    CURVATURE,
    DELTA,
    DELTA_BAR,
    LAPLACIAN_V_BAR,
    NORMS,
    SCALED_TIME_TANGENT,
    SIGMA1,
    SIGMA1_BAR,
    SIGMA2,
    SIGMA3,
    SIGNAL,
    TIME_TANGENT,
    TIME_TANGENT_BAR,
    V_BAR,
    V_T_BAR,
    V_TT_BAR,
    H,
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
    tangent_array,
)


@triton.jit(noinline=True)
def clear_partial(partial, size, scratch):
    """Set the tile's partial buffer to zero."""
    p_partial = own_partial(partial, scratch)
    for i in range(0, size, 1024):
        o_i = i + tl.arange(0, 1024)
        tl.store(p_partial + o_i, tl.zeros((1024,), partial.dtype.element_ty), mask=o_i < size)


@triton.jit
def forward_and_backward_tangents(weights, seeds, num_directions, partial, scratch, C: tl.constexpr):
    """Run the tangents of layers 2..L up the layers and their cotangents down again, some directions at a time.

    Adds to the weights' and the seeds' gradients and to v's Laplacian, and leaves s_l in NORMS and the sums over
    directions of Y * X_l in SIGMA1_BAR.
    """
    for j in range(0, num_directions, C.stack * C.kept):
        forward_kept_tangents(weights, seeds, num_directions, scratch, j, "bars", C)
        backward_kept_tangents(weights, seeds, num_directions, partial, scratch, j, C)


@triton.jit
def forward_kept_tangents(weights, seeds, num_directions, scratch, j, KEEP: tl.constexpr, C: tl.constexpr):
    """Compute the tangents of directions j, j + 1, .., as many as are kept, and add their part of v's Laplacian."""
    for block in range(tl.minimum(C.kept, tl.cdiv(num_directions - j, C.stack))):
        for layer in tl.static_range(2, C.depth + 1):
            forward_tangents(
                weights[layer - 1], seeds, num_directions, scratch, j + block * C.stack, block, layer,
                BACKWARD_ARRAYS, KEEP, C,
            )  # fmt: skip
            tl.debug_barrier()


@triton.jit(noinline=True)
def weigh_kept_tangents(num_directions, scratch, C: tl.constexpr):
    """Replace X_L of all directions by 2 s_L_bar X_L, once the Laplacian's cotangent is known."""
    WIDTH: tl.constexpr = C.widths[C.depth]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    for block in range(tl.cdiv(num_directions, C.stack)):
        p_tangents = tangent_array(scratch, C.depth, block, BACKWARD_ARRAYS, C)
        for n in range(0, rolled(WIDTH), C.columns):
            o_n = n + tl.arange(0, C.columns)
            b_curvature = load_block(array(scratch, CURVATURE, C.depth, C), o_m, o_n, WIDTH, C)  # [rows, columns]
            rows_bar = load_for_rows(scratch, LAPLACIAN_V_BAR, o_m, C)
            tangents_bar = 2 * rows_bar[:, None] * b_curvature * load_block(p_tangents, o_r, o_n, WIDTH, C)
            store_block(p_tangents, o_r, o_n, tangents_bar, WIDTH, C)


@triton.jit
def backward_kept_tangents(weights, seeds, num_directions, partial, scratch, j, C: tl.constexpr):
    """Carry X_L_bar of the directions that are kept down the layers."""
    blocks = tl.minimum(C.kept, tl.cdiv(num_directions - j, C.stack))
    for layer in tl.static_range(C.depth, 1, -1):
        tangent_weight_gradient(seeds, num_directions, partial, scratch, j, blocks, layer, C)
        tl.debug_barrier()
        for block in range(blocks):
            backward_tangents(
                weights[layer - 1], seeds, num_directions, partial, scratch, j + block * C.stack, block,
                layer, C,
            )  # fmt: skip
            tl.debug_barrier()


@triton.jit(noinline=True)
def tangent_weight_gradient(seeds, num_directions, partial, scratch, j, blocks, LAYER: tl.constexpr, C: tl.constexpr):
    """Add X_l_bar (diag(sigma'(a_{l-1})) X_{l-1})^T to W_l_bar, summed over the directions that are kept."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    start = 0
    if C.triangular and LAYER == 2:
        start = j // C.columns * C.columns
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        for k in range(start, rolled(BELOW), C.columns):
            o_k = k + tl.arange(0, C.columns)
            p_gradient = own_partial(partial, scratch) + C.weights_at[LAYER - 1] + o_n[:, None] * BELOW + o_k[None, :]
            mask = (o_n < WIDTH)[:, None] & (o_k < BELOW)[None, :]
            total = tl.load(p_gradient, mask=mask, other=0.0)  # [columns, columns]
            for block in range(blocks):
                p_bar = tangent_array(scratch, LAYER, block, BACKWARD_ARRAYS, C)
                for r in range(0, rolled(C.rows), C.inner):
                    o_r = r + tl.arange(0, C.inner)
                    b_bar = load_transposed(p_bar, o_r, o_n, WIDTH, C)  # [columns, inner]
                    b_scaled = load_scaled(
                        seeds, num_directions, scratch, j + block * C.stack, block, o_r, o_k, LAYER - 1,
                        BACKWARD_ARRAYS, C,
                    )  # fmt: skip
                    total = multiply(b_bar, b_scaled, total, C)
            tl.store(p_gradient, total, mask=mask)


@triton.jit(noinline=True)
def backward_tangents(weight, seeds, num_directions, partial, scratch, j, block, LAYER: tl.constexpr, C: tl.constexpr):
    """With Y = W_l^T X_l_bar: replace X_{l-1} by X_{l-1}_bar, or add to the seeds' gradient; add to SIGMA1_BAR."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    for n in range(0, rolled(BELOW), C.columns):
        o_n = n + tl.arange(0, C.columns)
        y = tl.zeros((C.rows, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            p_bar = tangent_array(scratch, LAYER, block, BACKWARD_ARRAYS, C)
            b_bar = load_block(p_bar, o_r, o_k, WIDTH, C)  # [rows, inner]
            y = multiply(b_bar, load_down(p_weight, o_k, o_n, BELOW, WIDTH), y, C)
        b_tangents = load_tangents(seeds, num_directions, scratch, j, block, o_r, o_n, LAYER - 1, BACKWARD_ARRAYS, C)
        add_over_stack(array(scratch, SIGMA1_BAR, LAYER - 1, C), b_tangents * y, o_n, j > 0, BELOW, C)
        scaled = load_block(array(scratch, SIGMA1, LAYER - 1, C), o_m, o_n, BELOW, C) * y
        if LAYER == 2:
            over_samples = tl.sum(tl.reshape(scaled, (C.stack, C.samples, C.columns)), 1)  # [stack, columns]
            o_j = j + tl.arange(0, C.stack)
            p_seeds = own_partial(partial, scratch) + C.weights_at[C.depth] + o_j[:, None] * BELOW + o_n[None, :]
            mask = (o_j < num_directions)[:, None] & (o_n < BELOW)[None, :]
            tl.store(p_seeds, tl.load(p_seeds, mask=mask, other=0.0) + over_samples, mask=mask)
        else:
            b_curvature = load_block(array(scratch, CURVATURE, LAYER - 1, C), o_m, o_n, BELOW, C)
            rows_bar = load_for_rows(scratch, LAPLACIAN_V_BAR, o_m, C)
            tangents_bar = 2 * rows_bar[:, None] * b_curvature * b_tangents + scaled
            store_block(tangent_array(scratch, LAYER - 1, block, BACKWARD_ARRAYS, C), o_r, o_n, tangents_bar, BELOW, C)


@triton.jit
def backward(
    weights, bias_jets, seed_norms, slot, order, run, run_rows, z_bar, partial, scratch,
    WITH_Z: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Run the backward of the signal up the layers and that of the values down, after that of the tangents.

    Expects grad_v_bar in DELTA_BAR of layer 0. Leaves a_l_bar and p_l_bar in A_BAR and TIME_TANGENT_BAR, and adds to
    the gradients of the weights and the output unit.
    """
    tl.debug_barrier()
    for layer in tl.static_range(1, C.depth + 1):
        backward_of_signal(weights[layer - 1], bias_jets[layer - 1], seed_norms, slot, partial, scratch, layer, C)
        tl.debug_barrier()
    for layer in tl.static_range(C.depth, 0, -1):
        weight_gradient(partial, scratch, layer, C)
        if layer > 1:
            backward_values(weights[layer - 1], scratch, layer, C)
            tl.debug_barrier()
    bias_gradient(run, run_rows, scratch, C)
    if WITH_Z:
        latent_gradient(weights[0], order, z_bar, scratch, C)
    tl.debug_barrier()


@triton.jit(noinline=True)
def backward_of_signal(weight, bias_jet, seed_norms, slot, partial, scratch, LAYER: tl.constexpr, C: tl.constexpr):
    """Compute delta_l_bar, and the parts of a_l_bar and p_l_bar that come from layer l itself."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    LAST: tl.constexpr = C.depth == LAYER
    v_bar, laplacian_v_bar = load_vector(scratch, V_BAR, C), load_vector(scratch, LAPLACIAN_V_BAR, C)
    v_t_bar, v_tt_bar = load_vector(scratch, V_T_BAR, C), load_vector(scratch, V_TT_BAR, C)
    p_partial = own_partial(partial, scratch)
    if LAST:
        add_scalar(p_partial + C.out_bias_at, v_bar)
    o_m = tl.arange(0, C.samples)
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        signal_bar = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(BELOW), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_below = load_block(array(scratch, DELTA_BAR, LAYER - 1, C), o_m, o_k, BELOW, C)  # [samples, inner]
            signal_bar = multiply(b_below, load_up(p_weight, o_k, o_n, BELOW, WIDTH), signal_bar, C)
        sigma1 = load_block(array(scratch, SIGMA1, LAYER, C), o_m, o_n, WIDTH, C)
        sigma2 = load_block(array(scratch, SIGMA2, LAYER, C), o_m, o_n, WIDTH, C)
        delta = load_block(array(scratch, DELTA, LAYER, C), o_m, o_n, WIDTH, C)
        curvature_bar = tl.zeros_like(sigma1)
        if C.timed:
            time_tangent = load_block(array(scratch, TIME_TANGENT, LAYER, C), o_m, o_n, WIDTH, C)
            signal_bar += v_tt_bar[:, None] * load_bias(bias_jet, slot, scratch, o_n, LAYER, 2, C)
            curvature_bar += v_tt_bar[:, None] * time_tangent * time_tangent
            time_tangent_bar = 2 * v_tt_bar[:, None] * delta * sigma2 * time_tangent
            if LAST:
                signal_bar += v_t_bar[:, None] * time_tangent
                time_tangent_bar += v_t_bar[:, None] * delta * sigma1
            store_block(array(scratch, TIME_TANGENT_BAR, LAYER, C), o_m, o_n, time_tangent_bar, WIDTH, C)
        if C.laplacian != "none":
            if LAYER == 1:
                b_norms = load_row(seed_norms + load_potential(scratch) * WIDTH, o_n, WIDTH)[None, :]
                seed_norms_bar = tl.sum(laplacian_v_bar[:, None] * delta * sigma2, 0)
                add_to_row(p_partial + C.seed_norms_at, o_n, seed_norms_bar, WIDTH)
            else:
                b_norms = load_block(array(scratch, NORMS, LAYER, C), o_m, o_n, WIDTH, C)
            curvature_bar += laplacian_v_bar[:, None] * b_norms
        delta_bar = signal_bar * sigma1 + sigma2 * curvature_bar
        sigma3 = load_block(array(scratch, SIGMA3, LAYER, C), o_m, o_n, WIDTH, C)
        a_bar = signal_bar * delta * sigma2 + delta * sigma3 * curvature_bar
        if C.has_tangents and not LAST:
            a_bar += sigma2 * load_block(array(scratch, SIGMA1_BAR, LAYER, C), o_m, o_n, WIDTH, C)
        if LAST:
            a_bar += v_bar[:, None] * delta * sigma1
            h = load_block(array(scratch, H, LAYER, C), o_m, o_n, WIDTH, C)
            add_to_row(p_partial + C.out_weight_at, o_n, tl.sum(delta_bar + v_bar[:, None] * h, 0), WIDTH)
        store_block(array(scratch, DELTA_BAR, LAYER, C), o_m, o_n, delta_bar, WIDTH, C)
        store_block(array(scratch, A_BAR, LAYER, C), o_m, o_n, a_bar, WIDTH, C)


@triton.jit
def add_scalar(p, value):
    """Add the sum of a block to one number in memory."""
    tl.store(p, tl.load(p) + tl.sum(value, 0))


@triton.jit(noinline=True)
def weight_gradient(partial, scratch, LAYER: tl.constexpr, C: tl.constexpr):
    """Add a_l_bar h_{l-1}^T + e_l delta_{l-1}_bar^T + p_l_bar (sigma'(a_{l-1}) p_{l-1})^T to W_l_bar, over samples."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        for k in range(0, rolled(BELOW), C.columns):
            o_k = k + tl.arange(0, C.columns)
            p_gradient = own_partial(partial, scratch) + C.weights_at[LAYER - 1] + o_n[:, None] * BELOW + o_k[None, :]
            mask = (o_n < WIDTH)[:, None] & (o_k < BELOW)[None, :]
            total = tl.load(p_gradient, mask=mask, other=0.0)  # [columns, columns]
            for m in range(0, rolled(C.samples), C.inner):
                o_m = m + tl.arange(0, C.inner)
                b_bar = load_transposed(array(scratch, A_BAR, LAYER, C), o_m, o_n, WIDTH, C)  # [columns, inner]
                b_below = load_block(array(scratch, H, LAYER - 1, C), o_m, o_k, BELOW, C)  # [inner, columns]
                total = multiply(b_bar, b_below, total, C)
                b_signal = load_transposed(array(scratch, SIGNAL, LAYER, C), o_m, o_n, WIDTH, C)
                b_below = load_block(array(scratch, DELTA_BAR, LAYER - 1, C), o_m, o_k, BELOW, C)
                total = multiply(b_signal, b_below, total, C)
                if C.timed and LAYER > 1:
                    b_bar = load_transposed(array(scratch, TIME_TANGENT_BAR, LAYER, C), o_m, o_n, WIDTH, C)
                    b_below = load_block(array(scratch, SCALED_TIME_TANGENT, LAYER - 1, C), o_m, o_k, BELOW, C)
                    total = multiply(b_bar, b_below, total, C)
            tl.store(p_gradient, total, mask=mask)


@triton.jit(noinline=True)
def backward_values(weight, scratch, LAYER: tl.constexpr, C: tl.constexpr):
    """Add to a_{l-1}_bar and p_{l-1}_bar what comes from a_l_bar and p_l_bar."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    o_m = tl.arange(0, C.samples)
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    for n in range(0, rolled(BELOW), C.columns):
        o_n = n + tl.arange(0, C.columns)
        h_bar = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        scaled_bar = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_weight = load_down(p_weight, o_k, o_n, BELOW, WIDTH)  # [inner, columns]
            h_bar = multiply(load_block(array(scratch, A_BAR, LAYER, C), o_m, o_k, WIDTH, C), b_weight, h_bar, C)
            if C.timed:
                b_bar = load_block(array(scratch, TIME_TANGENT_BAR, LAYER, C), o_m, o_k, WIDTH, C)
                scaled_bar = multiply(b_bar, b_weight, scaled_bar, C)
        sigma1 = load_block(array(scratch, SIGMA1, LAYER - 1, C), o_m, o_n, BELOW, C)
        a_bar = load_block(array(scratch, A_BAR, LAYER - 1, C), o_m, o_n, BELOW, C) + sigma1 * h_bar
        if C.timed:
            time_tangent = load_block(array(scratch, TIME_TANGENT, LAYER - 1, C), o_m, o_n, BELOW, C)
            sigma2 = load_block(array(scratch, SIGMA2, LAYER - 1, C), o_m, o_n, BELOW, C)
            a_bar += sigma2 * scaled_bar * time_tangent
            p_bar = array(scratch, TIME_TANGENT_BAR, LAYER - 1, C)
            time_tangent_bar = load_block(p_bar, o_m, o_n, BELOW, C) + sigma1 * scaled_bar
            store_block(p_bar, o_m, o_n, time_tangent_bar, BELOW, C)
        store_block(array(scratch, A_BAR, LAYER - 1, C), o_m, o_n, a_bar, BELOW, C)


@triton.jit(noinline=True)
def latent_gradient(weight, order, z_bar, scratch, C: tl.constexpr):
    """Write z_bar = W_1^T a_1_bar of the tile's samples."""
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
    """Write the gradient of the bias jets, summed over each run: samples of the tile that share a row of them.

    Samples lie in the order of their rows, and `run` numbers the runs. Every tile begins a new run.
    """
    place, count = load_place(scratch)
    first_run = tl.load(run + place)
    o_run, valid = load_places(run, scratch, C)
    o_run = tl.where(valid, o_run, -1)  # [samples]
    v_tt_bar = load_vector(scratch, V_TT_BAR, C)
    last_run = tl.max(o_run, 0)
    alone = last_run - first_run + 1 == count
    for layer in tl.static_range(1, C.depth + 1):
        sum_runs(array(scratch, A_BAR, layer, C), None, o_run, first_run, last_run, alone, run_rows, layer, 0, C)
        if C.timed:
            p_bar = array(scratch, TIME_TANGENT_BAR, layer, C)
            sum_runs(p_bar, None, o_run, first_run, last_run, alone, run_rows, layer, 1, C)
            p_signal = array(scratch, SIGNAL, layer, C)
            sum_runs(p_signal, v_tt_bar, o_run, first_run, last_run, alone, run_rows, layer, 2, C)


@triton.jit
def sum_runs(
    p, factor, o_run, first_run, last_run, alone, run_rows, LAYER: tl.constexpr, ORDER: tl.constexpr, C: tl.constexpr
):
    """Sum an array's rows, each times its factor, over every run, and write the sums to the runs' own `run_rows`."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    ROW: tl.constexpr = C.bias_at[C.depth]
    p_rows = run_rows + first_run.to(tl.int64) * ROW + C.bias_at[LAYER - 1] + ORDER * WIDTH
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
