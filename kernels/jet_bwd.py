"""The jet's backward: from cotangents of its five parts to gradients of latents and parameters."""

import triton
import triton.language as tl

from .activations import map_output
from .jet_fwd import probe_product, probed_square
from .jet_pass import forward, load_values
from .jet_reverse import backward, clear, pull_tangents
from .tiles import (
    DELTA,
    DELTA_BAR,
    LAPLACIAN,
    LAPLACIAN_BAR,
    LAPLACIAN_FACTOR,
    V_BAR,
    V_T_BAR,
    V_TT_BAR,
    add_to_vector,
    array,
    load_block,
    load_places,
    load_vector,
    my_tiles,
    open_tile,
    own_scratch,
    rolled,
    store_block,
    store_vector,
)


@triton.jit(do_not_specialize=["num_potentials", "directions", "scratch_size", "partial_size"])
def jet_bwd_kernel(
    z, weights, bias_jets, out_weight, out_bias, seeds, norms, probes, slot, order, starts, tile_ends, tile_potential,
    run, u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar, z_bar, run_rows, partial, scratch,
    num_potentials, directions, scratch_size, partial_size, C: tl.constexpr, WITH_Z: tl.constexpr,
):  # fmt: skip
    """Partial buffers (programs + K - 1, partial_size): program p writes potential k's gradients to the (p + k)-th."""
    scratch = own_scratch(scratch, scratch_size)
    first, last = my_tiles(tile_ends, num_potentials)
    previous = -1
    for tile in tl.range(first, last, disable_licm=True):
        potential = open_tile(tile, starts, tile_ends, tile_potential, scratch, partial_size, C)
        if potential != previous:
            clear(partial, partial_size, scratch)
        previous = potential
        forward(z, weights, bias_jets, out_weight, out_bias, norms, slot, order, scratch, C, True)
        pull_jet(u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar, probes, directions, order, scratch, C)
        tl.debug_barrier()
        if C.curved:
            pull_tangents(weights, seeds, directions, partial, scratch, C)
        if C.laplacian != "none":
            factor = load_vector(scratch, LAPLACIAN_FACTOR, C)
            add_to_vector(scratch, V_BAR, factor * load_vector(scratch, LAPLACIAN, C), C)
        backward(weights, bias_jets, norms, slot, order, run, run_rows, z_bar, partial, scratch, WITH_Z, C)


@triton.jit(noinline=True)
def pull_jet(u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar, probes, directions, order, scratch, C: tl.constexpr):
    """From cotangents of the jet to those of v and its derivatives; V_BAR lacks what passes through v's Laplacian."""
    v, v_t, v_tt, _, square = load_values(scratch, C)
    if C.laplacian == "probes" and C.out_activation != "identity":
        square = probed_square(probes, directions, scratch, C)
    _, slope, bend, third = map_output(v, C.out_activation)

    o_sample, valid = load_places(order, scratch, C)
    b_u = tl.load(u_bar + o_sample, mask=valid, other=0.0)
    b_laplacian = 0 * v
    if C.laplacian != "none":
        b_laplacian = tl.load(laplacian_bar + o_sample, mask=valid, other=0.0)
    b_u_t = tl.load(u_t_bar + o_sample, mask=valid, other=0.0)
    b_u_tt = tl.load(u_tt_bar + o_sample, mask=valid, other=0.0)
    along = 0 * v
    if C.laplacian == "exact":
        along = 2 * bend * b_laplacian
    inner = pull_gradient(grad_bar, o_sample, valid, slope, along, scratch, C)
    if C.laplacian == "probes" and C.out_activation != "identity":
        tl.debug_barrier()
        pull_probes(probes, directions, 2 * bend * b_laplacian, scratch, C)
    v_bar = slope * b_u + bend * (inner + b_u_t * v_t + b_u_tt * v_tt)
    store_vector(scratch, V_BAR, v_bar + third * (b_laplacian * square + b_u_tt * v_t * v_t), C)
    store_vector(scratch, LAPLACIAN_BAR, slope * b_laplacian, C)
    store_vector(scratch, LAPLACIAN_FACTOR, bend * b_laplacian, C)
    store_vector(scratch, V_T_BAR, slope * b_u_t + 2 * bend * v_t * b_u_tt, C)
    store_vector(scratch, V_TT_BAR, slope * b_u_tt, C)


@triton.jit
def pull_gradient(grad_bar, o_sample, valid, slope, along, scratch, C: tl.constexpr):
    """gammabar = psi' gradbar + along gamma; returns gradbar . gamma, [samples]."""
    o_m = tl.arange(0, C.samples)
    inner = tl.zeros((C.samples,), scratch.dtype.element_ty)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_gamma = load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C)  # [samples, columns]
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        b_bar = tl.load(grad_bar + o_sample[:, None] * C.widths[0] + o_d[None, :], mask=mask, other=0.0)
        inner += tl.sum(b_bar * b_gamma, 1)
        gamma_bar = slope[:, None] * b_bar + along[:, None] * b_gamma
        store_block(array(scratch, DELTA_BAR, 0, C), o_m, o_d, gamma_bar, C.widths[0], C)
    return inner


@triton.jit
def pull_probes(probes, directions, factor, scratch, C: tl.constexpr):
    """gammabar += factor sum_j (probe_j . gamma) probe_j."""
    o_m = tl.arange(0, C.samples)
    for j in range(directions):
        product = factor * probe_product(probes, j, scratch, C)
        for d in range(0, rolled(C.widths[0]), C.columns):
            o_d = d + tl.arange(0, C.columns)
            b_probe = tl.load(probes + j * C.widths[0] + o_d, mask=o_d < C.widths[0], other=0.0)
            p_bar = array(scratch, DELTA_BAR, 0, C)
            b_bar = load_block(p_bar, o_m, o_d, C.widths[0], C) + product[:, None] * b_probe[None, :]
            store_block(p_bar, o_m, o_d, b_bar, C.widths[0], C)
        tl.debug_barrier()
