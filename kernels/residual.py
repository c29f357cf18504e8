"""The residual loss, the mean of (c0 u + c1 u_t + c2 u_tt + c3 lap u + c4 |grad u|^2 + source)^2, and its gradients."""

import triton
import triton.language as tl

from .activations import output_map
from .jet_pass import forward, load_v_jet, tangent_laplacian
from .jet_reverse import (
    add_scalar,
    backward,
    backward_kept_tangents,
    clear_partial,
    forward_and_backward_tangents,
    forward_kept_tangents,
    weigh_kept_tangents,
)
from .tiles import (
    BACKWARD_ARRAYS,
    DELTA,
    DELTA_BAR,
    FORWARD_ARRAYS,
    LAPLACIAN_V_BAR,
    LOSS,
    V_BAR,
    V_T_BAR,
    V_TT_BAR,
    add_to_vector,
    array,
    load_block,
    load_places,
    load_potential,
    load_vector,
    my_tiles,
    open_tile,
    own_partial,
    own_scratch,
    rolled,
    store_block,
    store_vector,
)


@triton.jit(do_not_specialize=["batch", "num_potentials", "num_directions", "scratch_size", "partial_size"])
def residual_kernel(
    z, weights, bias_jets, out_weight, out_bias, seeds, seed_norms, coefficients, source, slot, order, starts,
    tile_ends, tile_potential, run, losses, z_bar, source_bar, run_rows, partial, scratch,
    batch, num_potentials, num_directions, scratch_size, partial_size,
    C: tl.constexpr, HAS_SOURCE: tl.constexpr, WITH_GRADIENT: tl.constexpr, WITH_Z: tl.constexpr,
):  # fmt: skip
    """Write each program's part of the loss to losses (programs,). Partial buffers are those of `jet_bwd_kernel`.

    The loss is a mean, so a sample's cotangent is known as soon as its residual is. So one pass computes both.
    """
    ARRAYS: tl.constexpr = BACKWARD_ARRAYS if WITH_GRADIENT else FORWARD_ARRAYS
    scratch = own_scratch(scratch, scratch_size)
    first, last = my_tiles(tile_ends, num_potentials)
    previous = -1
    store_vector(scratch, LOSS, tl.zeros((C.samples,), scratch.dtype.element_ty), C)
    for tile in tl.range(first, last, disable_licm=True):
        potential = open_tile(tile, starts, tile_ends, tile_potential, scratch, partial_size, C)
        if WITH_GRADIENT:
            if potential != previous:
                clear_partial(partial, partial_size, scratch)
            previous = potential
        forward(z, weights, bias_jets, out_weight, out_bias, seed_norms, slot, order, scratch, C, WITH_GRADIENT)
        if WITH_GRADIENT and C.keeps_all:
            forward_kept_tangents(weights, seeds, num_directions, scratch, 0, "tangents", C)
        elif C.has_tangents:
            tangent_laplacian(weights, seeds, num_directions, scratch, ARRAYS, C)
        residual_and_its_backward(
            coefficients, source, source_bar, order, partial, scratch, batch, HAS_SOURCE, WITH_GRADIENT, C
        )
        tl.debug_barrier()
        if WITH_GRADIENT:
            if C.keeps_all:
                weigh_kept_tangents(num_directions, scratch, C)
                tl.debug_barrier()
                backward_kept_tangents(weights, seeds, num_directions, partial, scratch, 0, C)
            elif C.has_tangents:
                forward_and_backward_tangents(weights, seeds, num_directions, partial, scratch, C)
            backward(weights, bias_jets, seed_norms, slot, order, run, run_rows, z_bar, partial, scratch, WITH_Z, C)
    tl.store(losses + tl.program_id(0), tl.sum(load_vector(scratch, LOSS, C), 0))


@triton.jit(noinline=True)
def residual_and_its_backward(
    coefficients, source, source_bar, order, partial, scratch, batch,
    HAS_SOURCE: tl.constexpr, WITH_GRADIENT: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add to the loss; then store cotangents of v and its derivatives, and add to coefficients_bar and source_bar."""
    v, v_t, v_tt, laplacian_v, squared_grad_v = load_v_jet(scratch, C)
    o_sample, valid = load_places(order, scratch, C)
    u, psi1, psi2, psi3 = output_map(v, C.out_activation)
    u_t = psi1 * v_t
    u_tt = psi1 * v_tt + psi2 * v_t * v_t
    laplacian = psi1 * laplacian_v + psi2 * squared_grad_v
    squared_grad = psi1 * psi1 * squared_grad_v
    p_coefficient = coefficients + load_potential(scratch) * 5
    c_u, c_u_t, c_u_tt = tl.load(p_coefficient), tl.load(p_coefficient + 1), tl.load(p_coefficient + 2)
    c_laplacian, c_squared_grad = tl.load(p_coefficient + 3), tl.load(p_coefficient + 4)
    residual = c_u * u + c_u_t * u_t + c_u_tt * u_tt + c_laplacian * laplacian + c_squared_grad * squared_grad
    if HAS_SOURCE:
        residual += tl.load(source + o_sample, mask=valid, other=0.0)
    residual = tl.where(valid, residual, 0.0)
    add_to_vector(scratch, LOSS, residual * residual / batch, C)

    if WITH_GRADIENT:
        residual_bar = 2 * residual / batch
        if HAS_SOURCE:
            tl.store(source_bar + o_sample, residual_bar, mask=valid)
        p_bar = own_partial(partial, scratch) + C.coefficients_at
        add_scalar(p_bar, residual_bar * u)
        add_scalar(p_bar + 1, residual_bar * u_t)
        add_scalar(p_bar + 2, residual_bar * u_tt)
        add_scalar(p_bar + 3, residual_bar * laplacian)
        add_scalar(p_bar + 4, residual_bar * squared_grad)

        laplacian_bar = residual_bar * c_laplacian
        scale_grad_v(2 * psi1 * psi1 * residual_bar * c_squared_grad + 2 * psi2 * laplacian_bar, scratch, C)
        u_t_bar, u_tt_bar = residual_bar * c_u_t, residual_bar * c_u_tt
        inner = 2 * residual_bar * c_squared_grad * psi1 * squared_grad_v
        v_bar = psi1 * residual_bar * c_u
        v_bar += psi2 * (inner + laplacian_bar * laplacian_v + u_t_bar * v_t + u_tt_bar * v_tt)
        store_vector(scratch, V_BAR, v_bar + psi3 * (laplacian_bar * squared_grad_v + u_tt_bar * v_t * v_t), C)
        store_vector(scratch, LAPLACIAN_V_BAR, psi1 * laplacian_bar, C)
        store_vector(scratch, V_T_BAR, psi1 * u_t_bar + 2 * psi2 * v_t * u_tt_bar, C)
        store_vector(scratch, V_TT_BAR, psi1 * u_tt_bar, C)


@triton.jit
def scale_grad_v(factor, scratch, C: tl.constexpr):
    """Store grad_v_bar = factor grad_v."""
    o_m = tl.arange(0, C.samples)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_grad_v = load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C)  # [samples, columns]
        store_block(array(scratch, DELTA_BAR, 0, C), o_m, o_d, factor[:, None] * b_grad_v, C.widths[0], C)
