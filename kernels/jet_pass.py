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
    LAPLACIAN_BAR,
    NORMS,
    OUTPUT,
    SCALED_VELOCITY,
    SECOND,
    THIRD,
    VELOCITY,
    array,
    load_block,
    load_down,
    load_places,
    load_row,
    load_up,
    multiply,
    store_block,
    tangents,
)


@triton.jit
def load_latents(z, order, place, count, scratch, C: tl.constexpr):
    """Copy the tile's latents to level 0."""
    o_sample, valid = load_places(order, place, count, C)
    o_m = tl.arange(0, C.samples)
    for d in range(0, C.widths[0], C.columns):
        o_d = d + tl.arange(0, C.columns)
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        b_z = tl.load(z + o_sample[:, None] * C.widths[0] + o_d[None, :], mask=mask, other=0.0)  # [samples, columns]
        store_block(array(scratch, OUTPUT, 0, C), o_m, o_d, b_z, C.widths[0], C)


@triton.jit
def forward(
    weights, bias_jets, out_weight, out_bias, norms, potential, slot, place, count, scratch,
    C: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """v, v_t, v_tt, the part of v's Laplacian that needs no tangents, and |gamma|^2, each [samples]."""
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v, v_t, v_tt, laplacian, square = zero, zero, zero, zero, zero
    tl.debug_barrier()
    for level in tl.static_range(1, C.depth + 1):
        more_v, more_v_t, more_v_tt, more_laplacian = climb_values(
            weights, bias_jets, out_weight, out_bias, norms, potential, slot, place, count, scratch, level, C, BACKWARD
        )
        v, v_t, v_tt, laplacian = v + more_v, v_t + more_v_t, v_tt + more_v_tt, laplacian + more_laplacian
        tl.debug_barrier()
    for i in tl.static_range(C.depth):
        more_v_tt, more_laplacian, more_square = descend_chain(
            weights, bias_jets, norms, potential, slot, place, count, scratch, C.depth - i, C, BACKWARD
        )
        v_tt, laplacian, square = v_tt + more_v_tt, laplacian + more_laplacian, square + more_square
        tl.debug_barrier()
    return v, v_t, v_tt, laplacian, square


@triton.jit
def climb_values(
    weights, bias_jets, out_weight, out_bias, norms, potential, slot, place, count, scratch,
    LEVEL: tl.constexpr, C: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Layer LEVEL's outputs, slopes and velocities; its shares of v, v_t, v_tt and the Laplacian if it is the last."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_m = tl.arange(0, C.samples)
    p_weight = weights[LEVEL - 1] + potential.to(tl.int64) * (WIDTH * BELOW)
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v, lost, v_t, v_tt, laplacian = zero, zero, zero, zero, zero
    if C.depth == LEVEL:
        v += tl.load(out_bias + potential)
    for n in range(0, WIDTH, C.columns):
        o_n = n + tl.arange(0, C.columns)
        a = load_bias(bias_jets, slot, place, count, o_n, LEVEL, 0, C)  # [samples, columns]
        p = load_bias(bias_jets, slot, place, count, o_n, LEVEL, 1, C) if C.timed else a
        for k in range(0, BELOW, C.inner):
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
            b_delta = load_row(out_weight + potential.to(tl.int64) * WIDTH, o_n, WIDTH)[None, :]
            # What each addition rounds off is put back: v's error scales every output where the output map saturates.
            part = tl.sum(h * b_delta, 1) - lost
            total = v + part
            lost = (total - v) - part
            v = total
            if C.timed:
                v_t += tl.sum(first * b_delta * p, 1)
            more_v_tt, more_laplacian = weigh(
                bias_jets, norms, potential, slot, place, count, scratch, o_n, tl.broadcast_to(b_delta, h.shape), first,
                second, p, LEVEL, C,
            )  # fmt: skip
            v_tt, laplacian = v_tt + more_v_tt, laplacian + more_laplacian
    return v, v_t, v_tt, laplacian


@triton.jit
def descend_chain(
    weights, bias_jets, norms, potential, slot, place, count, scratch,
    LEVEL: tl.constexpr, C: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """delta_{l-1} = W_l^T c_l, its shares of v_tt and the Laplacian, and at level 0 |gamma|^2."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_m = tl.arange(0, C.samples)
    p_weight = weights[LEVEL - 1] + potential.to(tl.int64) * (WIDTH * BELOW)
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v_tt, laplacian, square = zero, zero, zero
    for n in range(0, BELOW, C.columns):
        o_n = n + tl.arange(0, C.columns)
        delta = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, WIDTH, C.inner):
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
                bias_jets, norms, potential, slot, place, count, scratch, o_n, delta, first, second, p, LEVEL - 1, C
            )
            v_tt, laplacian = v_tt + more_v_tt, laplacian + more_laplacian
    return v_tt, laplacian, square


@triton.jit
def weigh(
    bias_jets, norms, potential, slot, place, count, scratch, o_n, delta, first, second, p,
    LEVEL: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
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
        b_acceleration = load_bias(bias_jets, slot, place, count, o_n, LEVEL, 2, C)
        v_tt = tl.sum(bend * p * p + chain * b_acceleration, 1)
    if LEVEL == 1 and C.laplacian != "none":
        b_norms = load_row(norms + potential.to(tl.int64) * WIDTH, o_n, WIDTH)
        laplacian = tl.sum(bend * b_norms[None, :], 1)
    return v_tt, laplacian


@triton.jit
def load_bias(bias_jets, slot, place, count, o_n, LEVEL: tl.constexpr, ORDER: tl.constexpr, C: tl.constexpr):
    """A derivative of the bias of layer LEVEL, each sample's own [samples, columns]."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    o_slot, valid = load_places(slot, place, count, C)
    mask = valid[:, None] & (o_n < WIDTH)[None, :]
    return tl.load(bias_jets[LEVEL - 1] + (o_slot * 3 + ORDER)[:, None] * WIDTH + o_n[None, :], mask=mask, other=0.0)


@triton.jit
def tangent_laplacian(weights, seeds, directions, potential, scratch, ARRAYS: tl.constexpr, C: tl.constexpr):
    """The part of v's Laplacian that comes from the tangents of layers 2..L, [samples]."""
    sums = tl.zeros((C.rows,), scratch.dtype.element_ty)
    for j in range(0, directions, C.stack):
        for level in tl.static_range(2, C.depth + 1):
            sums += push_tangents(weights, seeds, directions, potential, scratch, j, 0, level, ARRAYS, "none", C)
            if C.depth > 2:
                tl.debug_barrier()
    return tl.sum(tl.reshape(sums, (C.stack, C.samples)), 0)


@triton.jit
def push_tangents(
    weights, seeds, directions, potential, scratch, j, block,
    LEVEL: tl.constexpr, ARRAYS: tl.constexpr, KEEP: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """X_l of directions j .. j + stack from the level below, and sum(delta sigma'' X^2), [rows].

    KEEP is "none", or for a backward pass, which adds to s_l too, what the last level keeps: "tangents" X_l, or
    "bars" 2 sbar_l X_l.
    """
    WIDTH: tl.constexpr = C.widths[LEVEL]
    BELOW: tl.constexpr = C.widths[LEVEL - 1]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    p_weight = weights[LEVEL - 1] + potential.to(tl.int64) * (WIDTH * BELOW)
    p_tangents = tangents(scratch, LEVEL, block, ARRAYS, C)
    sums = tl.zeros((C.rows,), scratch.dtype.element_ty)
    start = 0
    if C.triangular and LEVEL == 2:
        start = j // C.inner * C.inner
    for n in range(0, WIDTH, C.columns):
        o_n = n + tl.arange(0, C.columns)
        x = tl.zeros((C.rows, C.columns), scratch.dtype.element_ty)
        for k in range(start, BELOW, C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_scaled = load_scaled(seeds, directions, potential, scratch, j, block, o_r, o_k, LEVEL - 1, ARRAYS, C)
            x = multiply(b_scaled, load_up(p_weight, o_k, o_n, BELOW, WIDTH), x, C)  # [rows, columns]
        b_bend = load_block(array(scratch, BEND, LEVEL, C), o_m, o_n, WIDTH, C)
        sums += tl.sum(b_bend * x * x, 1)
        if KEEP != "none":
            add_over_stack(array(scratch, NORMS, LEVEL, C), x * x, o_n, j > 0, WIDTH, C)
        if KEEP == "bars" and C.depth == LEVEL:
            rows_bar = tl.load(scratch + LAPLACIAN_BAR * C.samples + o_m)
            store_block(p_tangents, o_r, o_n, 2 * rows_bar[:, None] * b_bend * x, WIDTH, C)
        elif KEEP == "tangents" or C.depth > LEVEL:
            store_block(p_tangents, o_r, o_n, x, WIDTH, C)
    return sums


@triton.jit
def load_tangents(
    seeds, directions, potential, scratch, j, block, o_r, o_k,
    LEVEL: tl.constexpr, ARRAYS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """X_l of one block [rows, inner]; X_1 is the same for all samples of a potential."""
    WIDTH: tl.constexpr = C.widths[LEVEL]
    if LEVEL == 1:
        o_j = j + o_r // C.samples
        mask = (o_j < directions)[:, None] & (o_k < WIDTH)[None, :]
        o_seed = potential.to(tl.int64) * directions + o_j
        return tl.load(seeds + o_seed[:, None] * WIDTH + o_k[None, :], mask=mask, other=0.0)
    else:
        return load_block(tangents(scratch, LEVEL, block, ARRAYS, C), o_r, o_k, WIDTH, C)


@triton.jit
def load_scaled(
    seeds, directions, potential, scratch, j, block, o_r, o_k,
    LEVEL: tl.constexpr, ARRAYS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """diag(sigma'(a_l)) X_l of one block [rows, inner]."""
    b_slope = load_block(array(scratch, FIRST, LEVEL, C), o_r % C.samples, o_k, C.widths[LEVEL], C)
    return b_slope * load_tangents(seeds, directions, potential, scratch, j, block, o_r, o_k, LEVEL, ARRAYS, C)


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
