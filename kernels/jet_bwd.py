"""The backward of the jet: from cotangents of its five parts to gradients of latents and parameters."""

import triton
import triton.language as tl

from .activations import output_map
from .jet_fwd import out_tangent, squared_out_tangents
from .jet_pass import forward, load_v_jet
from .jet_reverse import backward, clear_partial, forward_and_backward_tangents
from .tiles import (
    DELTA,
    DELTA_BAR,
    LAPLACIAN_V,
    LAPLACIAN_V_BAR,
    LAPLACIAN_V_FACTOR,
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


@triton.jit(do_not_specialize=["num_potentials", "num_directions", "scratch_size", "partial_size"])
def jet_bwd_kernel(
    z, weights, bias_jets, out_weight, out_bias, seeds, seed_norms, probes, slot, order, starts, tile_ends,
    tile_potential, run, u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar, z_bar, run_rows, partial, scratch,
    num_potentials, num_directions, scratch_size, partial_size, C: tl.constexpr, WITH_Z: tl.constexpr,
):  # fmt: skip
    """Write z_bar and the runs' bias gradients, and add up all others in the partial buffers.

    Those are (programs + K - 1, partial_size): program p writes the gradients of potential k to the (p + k)-th.
    """
    scratch = own_scratch(scratch, scratch_size)
    first, last = my_tiles(tile_ends, num_potentials)
    previous = -1
    for tile in tl.range(first, last, disable_licm=True):
        potential = open_tile(tile, starts, tile_ends, tile_potential, scratch, partial_size, C)
        if potential != previous:
            clear_partial(partial, partial_size, scratch)
        previous = potential
        forward(z, weights, bias_jets, out_weight, out_bias, seed_norms, slot, order, scratch, C, True)
        backward_output_map(
            u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar, probes, num_directions, order, scratch, C
        )
        tl.debug_barrier()
        if C.has_tangents:
            forward_and_backward_tangents(weights, seeds, num_directions, partial, scratch, C)
        if C.laplacian != "none":
            factor = load_vector(scratch, LAPLACIAN_V_FACTOR, C)
            add_to_vector(scratch, V_BAR, factor * load_vector(scratch, LAPLACIAN_V, C), C)
        backward(weights, bias_jets, seed_norms, slot, order, run, run_rows, z_bar, partial, scratch, WITH_Z, C)


@triton.jit(noinline=True)
def backward_output_map(
    u_bar, grad_bar, laplacian_bar, u_t_bar, u_tt_bar, probes, num_directions, order, scratch, C: tl.constexpr
):
    """Turn cotangents of the jet into those of v and its derivatives.

    V_BAR still lacks LAPLACIAN_V_FACTOR times v's Laplacian, which is only known after the tangents.
    """
    v, v_t, v_tt, _, squared_grad_v = load_v_jet(scratch, C)
    if C.laplacian == "hutchinson" and C.out_activation != "identity":
        squared_grad_v = squared_out_tangents(probes, num_directions, scratch, C)
    _, psi1, psi2, psi3 = output_map(v, C.out_activation)

    o_sample, valid = load_places(order, scratch, C)
    b_u_bar = tl.load(u_bar + o_sample, mask=valid, other=0.0)
    b_laplacian_bar = 0 * v
    if C.laplacian != "none":
        b_laplacian_bar = tl.load(laplacian_bar + o_sample, mask=valid, other=0.0)
    b_u_t_bar = tl.load(u_t_bar + o_sample, mask=valid, other=0.0)
    b_u_tt_bar = tl.load(u_tt_bar + o_sample, mask=valid, other=0.0)
    factor = 0 * v
    if C.laplacian == "exact":
        factor = 2 * psi2 * b_laplacian_bar
    inner = store_grad_v_bar(grad_bar, o_sample, valid, psi1, factor, scratch, C)
    if C.laplacian == "hutchinson" and C.out_activation != "identity":
        tl.debug_barrier()
        add_probes_to_grad_v_bar(probes, num_directions, 2 * psi2 * b_laplacian_bar, scratch, C)
    v_bar = psi1 * b_u_bar + psi2 * (inner + b_u_t_bar * v_t + b_u_tt_bar * v_tt)
    store_vector(scratch, V_BAR, v_bar + psi3 * (b_laplacian_bar * squared_grad_v + b_u_tt_bar * v_t * v_t), C)
    store_vector(scratch, LAPLACIAN_V_BAR, psi1 * b_laplacian_bar, C)
    store_vector(scratch, LAPLACIAN_V_FACTOR, psi2 * b_laplacian_bar, C)
    store_vector(scratch, V_T_BAR, psi1 * b_u_t_bar + 2 * psi2 * v_t * b_u_tt_bar, C)
    store_vector(scratch, V_TT_BAR, psi1 * b_u_tt_bar, C)


@triton.jit
def store_grad_v_bar(grad_bar, o_sample, valid, psi1, factor, scratch, C: tl.constexpr):
    """Store grad_v_bar = psi' grad_bar + factor grad_v, and return grad_bar . grad_v, [samples]."""
    o_m = tl.arange(0, C.samples)
    inner = tl.zeros((C.samples,), scratch.dtype.element_ty)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_grad_v = load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C)  # [samples, columns]
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        b_bar = tl.load(grad_bar + o_sample[:, None] * C.widths[0] + o_d[None, :], mask=mask, other=0.0)
        inner += tl.sum(b_bar * b_grad_v, 1)
        grad_v_bar = psi1[:, None] * b_bar + factor[:, None] * b_grad_v
        store_block(array(scratch, DELTA_BAR, 0, C), o_m, o_d, grad_v_bar, C.widths[0], C)
    return inner


@triton.jit
def add_probes_to_grad_v_bar(probes, num_directions, factor, scratch, C: tl.constexpr):
    """Add factor sum_j (probe_j . grad_v) probe_j to grad_v_bar."""
    o_m = tl.arange(0, C.samples)
    for j in range(num_directions):
        product = factor * out_tangent(probes, j, scratch, C)
        for d in range(0, rolled(C.widths[0]), C.columns):
            o_d = d + tl.arange(0, C.columns)
            b_probe = tl.load(probes + j * C.widths[0] + o_d, mask=o_d < C.widths[0], other=0.0)
            p_bar = array(scratch, DELTA_BAR, 0, C)
            b_bar = load_block(p_bar, o_m, o_d, C.widths[0], C) + product[:, None] * b_probe[None, :]
            store_block(p_bar, o_m, o_d, b_bar, C.widths[0], C)
        tl.debug_barrier()
