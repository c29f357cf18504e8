"""The forward half of every pass: values up the layers, the gradient chain down, and the tangents' squares.

It works on v = w_o . h_L + b_o, the potential before its output map: gamma = grad v, the Laplacian and time derivatives
of v. Tangents carry directions on rows: a block is `stack` directions of `samples` samples.
"""

import triton
import triton.language as tl

from .activations import activate
from .tiles import (
    BEND,
    CHAIN,
    DELTA,
    FIRST,
    LAPLACIAN,
    LAPLACIAN_BAR,
    NORMS,
    OUTPUT,
    SCALED_VELOCITY,
    SECOND,
    SQUARE,
    THIRD,
    V_T,
    V_TT,
    VELOCITY,
    V,
    add_to_vector,
    array,
    load_block,
    load_down,
    load_for_rows,
    load_places,
    load_potential,
    load_row,
    load_up,
    load_vector,
    multiply,
    rolled,
    store_block,
    store_vector,
    tangents,
)


@triton.jit(noinline=True)
def load_latents(z, order, scratch, C: tl.constexpr):
    """Copy the tile's latents to level 0."""
    o_sample, valid = load_places(order, scratch, C)
    o_m = tl.arange(0, C.samples)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        b_z = tl.load(z + o_sample[:, None] * C.widths[0] + o_d[None, :], mask=mask, other=0.0)  # [samples, columns]
        store_block(array(scratch, OUTPUT, 0, C), o_m, o_d, b_z, C.widths[0], C)


@triton.jit
def forward(
    z, weights, bias_jets, out_weight, out_bias, norms, slot, order, scratch, C: tl.constexpr, BACKWARD: tl.constexpr
):
    """Leaves v, v_t, v_tt, the part of v's Laplacian that needs no tangents, and |gamma|^2 in the tile's vectors."""
    load_latents(z, order, scratch, C)
    tl.debug_barrier()
    for level in tl.static_range(1, C.depth + 1):
        climb_values(
            weights[level - 1], bias_jets[level - 1], out_weight, out_bias, norms, slot, scratch, level, C, BACKWARD
        )
        tl.debug_barrier()
    for level in tl.static_range(C.depth, 0, -1):
        descend_chain(weights[level - 1], bias_jets[max(level - 2, 0)], norms, slot, scratch, level, C)
        tl.debug_barrier()


@triton.jit
def load_values(scratch, C: tl.constexpr):
    """v, v_t, v_tt, v's Laplacian as far as it is known, and |gamma|^2, each [samples]."""
    v, v_t, v_tt = load_vector(scratch, V, C), load_vector(scratch, V_T, C), load_vector(scratch, V_TT, C)
    return v, v_t, v_tt, load_vector(scratch, LAPLACIAN, C), load_vector(scratch, SQUARE, C)


@triton.jit(noinline=True)
def climb_values(
    weight, bias_jet, out_weight, out_bias, norms, slot, scratch,
    LEVEL: tl.constexpr, C: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Layer LEVEL's outputs, slopes and velocities; if it is the last, v and v_t, and its shares of the others."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_m = tl.arange(0, C.samples)
    potential = load_potential(scratch)
    p_weight = weight + potential * (WIDTH * BELOW)
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v, lost, v_t, v_tt, laplacian = zero, zero, zero, zero, zero
    if C.depth == LEVEL:
        v += tl.load(out_bias + potential)
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        a = load_bias(bias_jet, slot, scratch, o_n, LEVEL, 0, C)  # [samples, columns]
        p = load_bias(bias_jet, slot, scratch, o_n, LEVEL, 1, C) if C.timed else a
        for k in range(0, rolled(BELOW), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_weight = load_up(p_weight, o_k, o_n, BELOW, WIDTH)  # [inner, columns]
            b_below = load_block(array(scratch, OUTPUT, LEVEL - 1, C), o_m, o_k, BELOW, C)  # [samples, inner]
            a = multiply(b_below, b_weight, a, C)
            if C.timed and LEVEL > 1:
                b_velocity = load_block(array(scratch, SCALED_VELOCITY, LEVEL - 1, C), o_m, o_k, BELOW, C)
                p = multiply(b_velocity, b_weight, p, C)
        h, first, second, third = activate(a, C.activation)
        store_block(array(scratch, OUTPUT, LEVEL, C), o_m, o_n, h, WIDTH, C)
        store_block(array(scratch, FIRST, LEVEL, C), o_m, o_n, first, WIDTH, C)
        store_block(array(scratch, SECOND, LEVEL, C), o_m, o_n, second, WIDTH, C)
        if BACKWARD:
            store_block(array(scratch, THIRD, LEVEL, C), o_m, o_n, third, WIDTH, C)
        if C.timed:
            store_block(array(scratch, VELOCITY, LEVEL, C), o_m, o_n, p, WIDTH, C)
            store_block(array(scratch, SCALED_VELOCITY, LEVEL, C), o_m, o_n, first * p, WIDTH, C)
        if C.depth == LEVEL:
            b_delta = load_row(out_weight + load_potential(scratch) * WIDTH, o_n, WIDTH)[None, :]
            # What each addition rounds off is put back: v's error scales every output where the output map saturates.
            part = tl.sum(h * b_delta, 1) - lost
            total = v + part
            lost = (total - v) - part
            v = total
            if C.timed:
                v_t += tl.sum(first * b_delta * p, 1)
            delta = tl.broadcast_to(b_delta, h.shape)
            more_v_tt, more_laplacian = weigh(bias_jet, norms, slot, scratch, o_n, delta, first, second, p, LEVEL, C)
            v_tt, laplacian = v_tt + more_v_tt, laplacian + more_laplacian
    if C.depth == LEVEL:
        store_vector(scratch, V, v, C)
        store_vector(scratch, V_T, v_t, C)
        store_vector(scratch, V_TT, v_tt, C)
        store_vector(scratch, LAPLACIAN, laplacian, C)


@triton.jit(noinline=True)
def descend_chain(weight, bias_jet, norms, slot, scratch, LEVEL: tl.constexpr, C: tl.constexpr):
    """delta_{l-1} = W_l^T c_l, its shares of v_tt and the Laplacian, and at level 0 |gamma|^2.

    bias_jet is that of level l - 1, which level 0 doesn't have.
    """
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_m = tl.arange(0, C.samples)
    potential = load_potential(scratch)
    p_weight = weight + potential * (WIDTH * BELOW)
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v_tt, laplacian, square = zero, zero, zero
    for n in range(0, rolled(BELOW), C.columns):
        o_n = n + tl.arange(0, C.columns)
        delta = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_chain = load_block(array(scratch, CHAIN, LEVEL, C), o_m, o_k, WIDTH, C)  # [samples, inner]
            delta = multiply(b_chain, load_down(p_weight, o_k, o_n, BELOW, WIDTH), delta, C)
        if LEVEL == 1:
            store_block(array(scratch, DELTA, 0, C), o_m, o_n, delta, BELOW, C)
            square += tl.sum(delta * delta, 1)  # columns beyond the width are zero, as the weights are
        else:
            first = load_block(array(scratch, FIRST, LEVEL - 1, C), o_m, o_n, BELOW, C)
            second = load_block(array(scratch, SECOND, LEVEL - 1, C), o_m, o_n, BELOW, C)
            p = load_block(array(scratch, VELOCITY, LEVEL - 1, C), o_m, o_n, BELOW, C) if C.timed else first
            more_v_tt, more_laplacian = weigh(
                bias_jet, norms, slot, scratch, o_n, delta, first, second, p, LEVEL - 1, C
            )
            v_tt, laplacian = v_tt + more_v_tt, laplacian + more_laplacian
    if LEVEL == 1:
        store_vector(scratch, SQUARE, square, C)
    else:
        add_to_vector(scratch, V_TT, v_tt, C)
        add_to_vector(scratch, LAPLACIAN, laplacian, C)


@triton.jit
def weigh(bias_jet, norms, slot, scratch, o_n, delta, first, second, p, LEVEL: tl.constexpr, C: tl.constexpr):
    """With delta_l known: the products that later stages read, and layer l's terms of v_tt and, at layer 1, lap v."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    o_m = tl.arange(0, C.samples)
    chain = delta * first
    bend = tl.where((o_n < WIDTH)[None, :], delta * second, 0.0)
    store_block(array(scratch, DELTA, LEVEL, C), o_m, o_n, delta, WIDTH, C)
    store_block(array(scratch, CHAIN, LEVEL, C), o_m, o_n, chain, WIDTH, C)
    store_block(array(scratch, BEND, LEVEL, C), o_m, o_n, bend, WIDTH, C)
    v_tt = tl.zeros((C.samples,), scratch.dtype.element_ty)
    laplacian = tl.zeros((C.samples,), scratch.dtype.element_ty)
    if C.timed:
        b_acceleration = load_bias(bias_jet, slot, scratch, o_n, LEVEL, 2, C)
        v_tt = tl.sum(bend * p * p + chain * b_acceleration, 1)
    if LEVEL == 1 and C.laplacian != "none":
        b_norms = load_row(norms + load_potential(scratch) * WIDTH, o_n, WIDTH)
        laplacian = tl.sum(bend * b_norms[None, :], 1)
    return v_tt, laplacian


@triton.jit
def load_bias(bias_jet, slot, scratch, o_n, LEVEL: tl.constexpr, ORDER: tl.constexpr, C: tl.constexpr):
    """A derivative of the bias of layer LEVEL, each sample's own [samples, columns]."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    o_slot, valid = load_places(slot, scratch, C)
    mask = valid[:, None] & (o_n < WIDTH)[None, :]
    return tl.load(bias_jet + (o_slot * 3 + ORDER)[:, None] * WIDTH + o_n[None, :], mask=mask, other=0.0)


@triton.jit
def tangent_laplacian(weights, seeds, directions, scratch, ARRAYS: tl.constexpr, C: tl.constexpr):
    """Add the part of v's Laplacian that comes from the tangents of layers 2..L."""
    for j in range(0, directions, C.stack):
        for level in tl.static_range(2, C.depth + 1):
            push_tangents(weights[level - 1], seeds, directions, scratch, j, 0, level, ARRAYS, "none", C)
            tl.debug_barrier()


@triton.jit(noinline=True)
def push_tangents(
    weight, seeds, directions, scratch, j, block,
    LEVEL: tl.constexpr, ARRAYS: tl.constexpr, KEEP: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """X_l of directions j .. j + stack from the level below; adds sum(delta sigma'' X^2) to v's Laplacian.

    KEEP is "none", or for a backward pass, which adds to s_l too, what the last level keeps: "tangents" X_l, or
    "bars" 2 sbar_l X_l.
    """
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    p_tangents = tangents(scratch, LEVEL, block, ARRAYS, C)
    sums = tl.zeros((C.rows,), scratch.dtype.element_ty)
    start = 0
    if C.triangular and LEVEL == 2:
        start = j // C.inner * C.inner
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        x = tl.zeros((C.rows, C.columns), scratch.dtype.element_ty)
        for k in range(start, rolled(BELOW), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_scaled = load_scaled(seeds, directions, scratch, j, block, o_r, o_k, LEVEL - 1, ARRAYS, C)
            x = multiply(b_scaled, load_up(p_weight, o_k, o_n, BELOW, WIDTH), x, C)  # [rows, columns]
        b_bend = load_block(array(scratch, BEND, LEVEL, C), o_m, o_n, WIDTH, C)
        sums += tl.sum(b_bend * x * x, 1)
        if KEEP != "none":
            add_over_stack(array(scratch, NORMS, LEVEL, C), x * x, o_n, j > 0, WIDTH, C)
        if KEEP == "bars" and C.depth == LEVEL:
            rows_bar = load_for_rows(scratch, LAPLACIAN_BAR, o_m, C)
            store_block(p_tangents, o_r, o_n, 2 * rows_bar[:, None] * b_bend * x, WIDTH, C)
        elif KEEP == "tangents" or C.depth > LEVEL:
            store_block(p_tangents, o_r, o_n, x, WIDTH, C)
    add_to_vector(scratch, LAPLACIAN, tl.sum(tl.reshape(sums, (C.stack, C.samples)), 0), C)


@triton.jit
def load_tangents(
    seeds, directions, scratch, j, block, o_r, o_k,
    LEVEL: tl.constexpr, ARRAYS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """X_l of one block [rows, inner]; X_1 is the same for all samples of a potential."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    if LEVEL == 1:
        o_j = j + o_r // C.samples
        mask = (o_j < directions)[:, None] & (o_k < WIDTH)[None, :]
        o_seed = load_potential(scratch) * directions + o_j
        return tl.load(seeds + o_seed[:, None] * WIDTH + o_k[None, :], mask=mask, other=0.0)
    else:
        return load_block(tangents(scratch, LEVEL, block, ARRAYS, C), o_r, o_k, WIDTH, C)


@triton.jit
def load_scaled(
    seeds, directions, scratch, j, block, o_r, o_k,
    LEVEL: tl.constexpr, ARRAYS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """diag(sigma'(a_l)) X_l of one block [rows, inner]."""
    b_slope = load_block(array(scratch, FIRST, LEVEL, C), o_r % C.samples, o_k, C.widths[LEVEL], C)
    return b_slope * load_tangents(seeds, directions, scratch, j, block, o_r, o_k, LEVEL, ARRAYS, C)


@triton.jit
def add_over_stack(p, value, o_n, again, WIDTH: tl.constexpr, C: tl.constexpr):
    """Sum a block over its directions and add that to an array, or begin the array with it unless `again`."""
    o_m = tl.arange(0, C.samples)
    total = value
    if C.stack > 1:
        total = tl.sum(tl.reshape(value, (C.stack, C.samples, C.columns)), 0)  # [samples, columns]
    offsets = o_m[:, None] * C.stride + o_n[None, :]
    mask = (o_n < WIDTH)[None, :]
    before = tl.load(p + offsets, mask=mask & again, other=0.0)
    tl.store(p + offsets, before + total, mask=mask)
