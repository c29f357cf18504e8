"""The forward half of every pass: values up the layers, the signal of the gradient down, and the tangents' squares.

It computes v = w . h_L + c, the potential before its output map, with its gradient, Laplacian and time derivatives. The
head of docs/derivation.md has all symbols. A block of tangents has `stack` directions of `samples` samples as its rows.
"""

import triton
import triton.language as tl

from .activations import activate
from .tiles import (
    CURVATURE,
    DELTA,
    LAPLACIAN_V,
    LAPLACIAN_V_BAR,
    NORMS,
    SCALED_TIME_TANGENT,
    SIGMA1,
    SIGMA2,
    SIGMA3,
    SIGNAL,
    SQUARED_GRAD_V,
    TIME_TANGENT,
    V_T,
    V_TT,
    H,
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
    tangent_array,
)


@triton.jit(noinline=True)
def load_latents(z, order, scratch, C: tl.constexpr):
    """Copy the tile's latents to layer 0."""
    o_sample, valid = load_places(order, scratch, C)
    o_m = tl.arange(0, C.samples)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        b_z = tl.load(z + o_sample[:, None] * C.widths[0] + o_d[None, :], mask=mask, other=0.0)  # [samples, columns]
        store_block(array(scratch, H, 0, C), o_m, o_d, b_z, C.widths[0], C)


@triton.jit
def forward(
    z, weights, bias_jets, out_weight, out_bias, seed_norms, slot, order, scratch,
    C: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Leave v, v_t, v_tt, the part of v's Laplacian that needs no tangents, and |grad_v|^2 in the tile's vectors."""
    load_latents(z, order, scratch, C)
    tl.debug_barrier()
    for layer in tl.static_range(1, C.depth + 1):
        forward_values(
            weights[layer - 1], bias_jets[layer - 1], out_weight, out_bias, seed_norms, slot, scratch,
            layer, C, BACKWARD,
        )  # fmt: skip
        tl.debug_barrier()
    for layer in tl.static_range(C.depth, 0, -1):
        backward_signal(weights[layer - 1], bias_jets[max(layer - 2, 0)], seed_norms, slot, scratch, layer, C)
        tl.debug_barrier()


@triton.jit
def load_v_jet(scratch, C: tl.constexpr):
    """Load v, v_t, v_tt, v's Laplacian as far as it is known, and |grad_v|^2, each [samples]."""
    v, v_t, v_tt = load_vector(scratch, V, C), load_vector(scratch, V_T, C), load_vector(scratch, V_TT, C)
    return v, v_t, v_tt, load_vector(scratch, LAPLACIAN_V, C), load_vector(scratch, SQUARED_GRAD_V, C)


@triton.jit(noinline=True)
def forward_values(
    weight, bias_jet, out_weight, out_bias, seed_norms, slot, scratch,
    LAYER: tl.constexpr, C: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Compute h_l, the activation's derivatives and p_l of one layer; the last also gives v, v_t and its own terms."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    o_m = tl.arange(0, C.samples)
    potential = load_potential(scratch)
    p_weight = weight + potential * (WIDTH * BELOW)
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v, lost, v_t, v_tt, laplacian_v = zero, zero, zero, zero, zero
    if C.depth == LAYER:
        v += tl.load(out_bias + potential)
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        a = load_bias(bias_jet, slot, scratch, o_n, LAYER, 0, C)  # [samples, columns]
        time_tangent = load_bias(bias_jet, slot, scratch, o_n, LAYER, 1, C) if C.timed else a
        for k in range(0, rolled(BELOW), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_weight = load_up(p_weight, o_k, o_n, BELOW, WIDTH)  # [inner, columns]
            b_below = load_block(array(scratch, H, LAYER - 1, C), o_m, o_k, BELOW, C)  # [samples, inner]
            a = multiply(b_below, b_weight, a, C)
            if C.timed and LAYER > 1:
                b_scaled = load_block(array(scratch, SCALED_TIME_TANGENT, LAYER - 1, C), o_m, o_k, BELOW, C)
                time_tangent = multiply(b_scaled, b_weight, time_tangent, C)
        h, sigma1, sigma2, sigma3 = activate(a, C.activation)
        store_block(array(scratch, H, LAYER, C), o_m, o_n, h, WIDTH, C)
        store_block(array(scratch, SIGMA1, LAYER, C), o_m, o_n, sigma1, WIDTH, C)
        store_block(array(scratch, SIGMA2, LAYER, C), o_m, o_n, sigma2, WIDTH, C)
        if BACKWARD:
            store_block(array(scratch, SIGMA3, LAYER, C), o_m, o_n, sigma3, WIDTH, C)
        if C.timed:
            store_block(array(scratch, TIME_TANGENT, LAYER, C), o_m, o_n, time_tangent, WIDTH, C)
            store_block(array(scratch, SCALED_TIME_TANGENT, LAYER, C), o_m, o_n, sigma1 * time_tangent, WIDTH, C)
        if C.depth == LAYER:
            b_delta = load_row(out_weight + load_potential(scratch) * WIDTH, o_n, WIDTH)[None, :]
            # What each addition rounds off is put back: where the output map saturates, v's error scales every result.
            part = tl.sum(h * b_delta, 1) - lost
            total = v + part
            lost = (total - v) - part
            v = total
            if C.timed:
                v_t += tl.sum(sigma1 * b_delta * time_tangent, 1)
            delta = tl.broadcast_to(b_delta, h.shape)
            more_v_tt, more_laplacian_v = weigh(
                bias_jet, seed_norms, slot, scratch, o_n, delta, sigma1, sigma2, time_tangent, LAYER, C
            )
            v_tt, laplacian_v = v_tt + more_v_tt, laplacian_v + more_laplacian_v
    if C.depth == LAYER:
        store_vector(scratch, V, v, C)
        store_vector(scratch, V_T, v_t, C)
        store_vector(scratch, V_TT, v_tt, C)
        store_vector(scratch, LAPLACIAN_V, laplacian_v, C)


@triton.jit(noinline=True)
def backward_signal(weight, bias_jet, seed_norms, slot, scratch, LAYER: tl.constexpr, C: tl.constexpr):
    """Compute delta_{l-1} = W_l^T e_l and the terms of v_tt and the Laplacian that need it; at layer 0, |grad_v|^2.

    bias_jet belongs to layer l - 1; layer 0 has none.
    """
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    o_m = tl.arange(0, C.samples)
    potential = load_potential(scratch)
    p_weight = weight + potential * (WIDTH * BELOW)
    zero = tl.zeros((C.samples,), scratch.dtype.element_ty)
    v_tt, laplacian_v, squared_grad_v = zero, zero, zero
    for n in range(0, rolled(BELOW), C.columns):
        o_n = n + tl.arange(0, C.columns)
        delta = tl.zeros((C.samples, C.columns), scratch.dtype.element_ty)
        for k in range(0, rolled(WIDTH), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_signal = load_block(array(scratch, SIGNAL, LAYER, C), o_m, o_k, WIDTH, C)  # [samples, inner]
            delta = multiply(b_signal, load_down(p_weight, o_k, o_n, BELOW, WIDTH), delta, C)
        if LAYER == 1:
            store_block(array(scratch, DELTA, 0, C), o_m, o_n, delta, BELOW, C)
            squared_grad_v += tl.sum(delta * delta, 1)  # columns beyond the width are zero, as the weights are
        else:
            sigma1 = load_block(array(scratch, SIGMA1, LAYER - 1, C), o_m, o_n, BELOW, C)
            sigma2 = load_block(array(scratch, SIGMA2, LAYER - 1, C), o_m, o_n, BELOW, C)
            time_tangent = sigma1
            if C.timed:
                time_tangent = load_block(array(scratch, TIME_TANGENT, LAYER - 1, C), o_m, o_n, BELOW, C)
            more_v_tt, more_laplacian_v = weigh(
                bias_jet, seed_norms, slot, scratch, o_n, delta, sigma1, sigma2, time_tangent, LAYER - 1, C
            )
            v_tt, laplacian_v = v_tt + more_v_tt, laplacian_v + more_laplacian_v
    if LAYER == 1:
        store_vector(scratch, SQUARED_GRAD_V, squared_grad_v, C)
    else:
        add_to_vector(scratch, V_TT, v_tt, C)
        add_to_vector(scratch, LAPLACIAN_V, laplacian_v, C)


@triton.jit
def weigh(
    bias_jet, seed_norms, slot, scratch, o_n, delta, sigma1, sigma2, time_tangent,
    LAYER: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Store delta_l, e_l and kappa_l, and return layer l's term of v_tt; at layer 1, that of v's Laplacian too."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    o_m = tl.arange(0, C.samples)
    signal = delta * sigma1
    curvature = tl.where((o_n < WIDTH)[None, :], delta * sigma2, 0.0)
    store_block(array(scratch, DELTA, LAYER, C), o_m, o_n, delta, WIDTH, C)
    store_block(array(scratch, SIGNAL, LAYER, C), o_m, o_n, signal, WIDTH, C)
    store_block(array(scratch, CURVATURE, LAYER, C), o_m, o_n, curvature, WIDTH, C)
    v_tt = tl.zeros((C.samples,), scratch.dtype.element_ty)
    laplacian_v = tl.zeros((C.samples,), scratch.dtype.element_ty)
    if C.timed:
        bias_tt = load_bias(bias_jet, slot, scratch, o_n, LAYER, 2, C)
        v_tt = tl.sum(curvature * time_tangent * time_tangent + signal * bias_tt, 1)
    if LAYER == 1 and C.laplacian != "none":
        b_seed_norms = load_row(seed_norms + load_potential(scratch) * WIDTH, o_n, WIDTH)
        laplacian_v = tl.sum(curvature * b_seed_norms[None, :], 1)
    return v_tt, laplacian_v


@triton.jit
def load_bias(bias_jet, slot, scratch, o_n, LAYER: tl.constexpr, ORDER: tl.constexpr, C: tl.constexpr):
    """Load the bias of one layer, or its first or second time derivative by ORDER, [samples, columns]."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    o_slot, valid = load_places(slot, scratch, C)
    mask = valid[:, None] & (o_n < WIDTH)[None, :]
    return tl.load(bias_jet + (o_slot * 3 + ORDER)[:, None] * WIDTH + o_n[None, :], mask=mask, other=0.0)


@triton.jit
def tangent_laplacian(weights, seeds, num_directions, scratch, ARRAYS: tl.constexpr, C: tl.constexpr):
    """Add what the tangents of layers 2..L contribute to v's Laplacian."""
    for j in range(0, num_directions, C.stack):
        for layer in tl.static_range(2, C.depth + 1):
            forward_tangents(weights[layer - 1], seeds, num_directions, scratch, j, 0, layer, ARRAYS, "none", C)
            tl.debug_barrier()


@triton.jit(noinline=True)
def forward_tangents(
    weight, seeds, num_directions, scratch, j, block,
    LAYER: tl.constexpr, ARRAYS: tl.constexpr, KEEP: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Compute X_l of directions j .. j + stack from the layer below, and add sum(kappa_l X_l^2) to v's Laplacian.

    KEEP is "none" for a forward pass. A backward pass also adds to s_l, and KEEP says what the last layer keeps: X_l
    for "tangents", 2 s_l_bar X_l for "bars".
    """
    WIDTH: tl.constexpr = C.widths[LAYER]
    BELOW: tl.constexpr = C.widths[LAYER - 1]
    o_r = tl.arange(0, C.rows)
    o_m = o_r % C.samples
    p_weight = weight + load_potential(scratch) * (WIDTH * BELOW)
    p_tangents = tangent_array(scratch, LAYER, block, ARRAYS, C)
    sums = tl.zeros((C.rows,), scratch.dtype.element_ty)
    start = 0
    if C.triangular and LAYER == 2:
        start = j // C.inner * C.inner
    for n in range(0, rolled(WIDTH), C.columns):
        o_n = n + tl.arange(0, C.columns)
        b_tangents = tl.zeros((C.rows, C.columns), scratch.dtype.element_ty)
        for k in range(start, rolled(BELOW), C.inner):
            o_k = k + tl.arange(0, C.inner)
            b_scaled = load_scaled(seeds, num_directions, scratch, j, block, o_r, o_k, LAYER - 1, ARRAYS, C)
            b_weight = load_up(p_weight, o_k, o_n, BELOW, WIDTH)  # [inner, columns]
            b_tangents = multiply(b_scaled, b_weight, b_tangents, C)  # [rows, columns]
        b_curvature = load_block(array(scratch, CURVATURE, LAYER, C), o_m, o_n, WIDTH, C)
        sums += tl.sum(b_curvature * b_tangents * b_tangents, 1)
        if KEEP != "none":
            add_over_stack(array(scratch, NORMS, LAYER, C), b_tangents * b_tangents, o_n, j > 0, WIDTH, C)
        if KEEP == "bars" and C.depth == LAYER:
            rows_bar = load_for_rows(scratch, LAPLACIAN_V_BAR, o_m, C)
            store_block(p_tangents, o_r, o_n, 2 * rows_bar[:, None] * b_curvature * b_tangents, WIDTH, C)
        elif KEEP == "tangents" or C.depth > LAYER:
            store_block(p_tangents, o_r, o_n, b_tangents, WIDTH, C)
    add_to_vector(scratch, LAPLACIAN_V, tl.sum(tl.reshape(sums, (C.stack, C.samples)), 0), C)


@triton.jit
def load_tangents(
    seeds, num_directions, scratch, j, block, o_r, o_k,
    LAYER: tl.constexpr, ARRAYS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Load X_l of one block, [rows, inner]; X_1 is the same for all samples of a potential."""
    WIDTH: tl.constexpr = C.widths[LAYER]
    if LAYER == 1:
        o_j = j + o_r // C.samples
        mask = (o_j < num_directions)[:, None] & (o_k < WIDTH)[None, :]
        o_seed = load_potential(scratch) * num_directions + o_j
        return tl.load(seeds + o_seed[:, None] * WIDTH + o_k[None, :], mask=mask, other=0.0)
    else:
        return load_block(tangent_array(scratch, LAYER, block, ARRAYS, C), o_r, o_k, WIDTH, C)


@triton.jit
def load_scaled(
    seeds, num_directions, scratch, j, block, o_r, o_k,
    LAYER: tl.constexpr, ARRAYS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Load diag(sigma'(a_l)) X_l of one block, [rows, inner]."""
    sigma1 = load_block(array(scratch, SIGMA1, LAYER, C), o_r % C.samples, o_k, C.widths[LAYER], C)
    return sigma1 * load_tangents(seeds, num_directions, scratch, j, block, o_r, o_k, LAYER, ARRAYS, C)


@triton.jit
def add_over_stack(p, value, o_n, again, WIDTH: tl.constexpr, C: tl.constexpr):
    """Sum a block over its directions, and add that to an array where `again`; otherwise begin the array with it."""
    o_m = tl.arange(0, C.samples)
    total = value
    if C.stack > 1:
        total = tl.sum(tl.reshape(value, (C.stack, C.samples, C.columns)), 0)  # [samples, columns]
    offsets = o_m[:, None] * C.stride + o_n[None, :]
    mask = (o_n < WIDTH)[None, :]
    before = tl.load(p + offsets, mask=mask & again, other=0.0)
    tl.store(p + offsets, before + total, mask=mask)
