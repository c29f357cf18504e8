"""The residual loss: mean of (c0 u + c1 u_t + c2 u_tt + c3 lap + c4 |grad|^2 + source)^2 and all its gradients."""

import triton
import triton.language as tl

from .activations import map_output
from .jet_pass import forward, load_values, tangent_laplacian
from .jet_reverse import add_scalar, backward, clear, keep_tangents, pull_kept, pull_tangents, weigh_kept
from .tiles import (
    BACKWARD_ARRAYS,
    DELTA,
    DELTA_BAR,
    FORWARD_ARRAYS,
    LAPLACIAN_BAR,
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


@triton.jit(do_not_specialize=["batch", "num_potentials", "directions", "scratch_size", "partial_size"])
def residual_kernel(
    z, weights, bias_jets, out_weight, out_bias, seeds, norms, coefficients, source, slot, order, starts, tile_ends,
    tile_potential, run, losses, z_bar, source_bar, run_rows, partial, scratch,
    batch, num_potentials, directions, scratch_size, partial_size,
    C: tl.constexpr, HAS_SOURCE: tl.constexpr, WITH_GRADIENT: tl.constexpr, WITH_Z: tl.constexpr,
):  # fmt: skip
    """losses (programs,): what each program adds to the loss. Partial buffers are those of `jet_bwd_kernel`.

    The loss is a mean, so each sample's cotangent is known as soon as its residual is: there and back in one pass.
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
                clear(partial, partial_size, scratch)
            previous = potential
        forward(z, weights, bias_jets, out_weight, out_bias, norms, slot, order, scratch, C, WITH_GRADIENT)
        if WITH_GRADIENT and C.keeps_all:
            keep_tangents(weights, seeds, directions, scratch, 0, "tangents", C)
        elif C.curved:
            tangent_laplacian(weights, seeds, directions, scratch, ARRAYS, C)
        weigh_residual(coefficients, source, source_bar, order, partial, scratch, batch, HAS_SOURCE, WITH_GRADIENT, C)
        tl.debug_barrier()
        if WITH_GRADIENT:
            if C.keeps_all:
                weigh_kept(directions, scratch, C)
                tl.debug_barrier()
                pull_kept(weights, seeds, directions, partial, scratch, 0, C)
            elif C.curved:
                pull_tangents(weights, seeds, directions, partial, scratch, C)
            backward(weights, bias_jets, norms, slot, order, run, run_rows, z_bar, partial, scratch, WITH_Z, C)
    tl.store(losses + tl.program_id(0), tl.sum(load_vector(scratch, LOSS, C), 0))


@triton.jit(noinline=True)
def weigh_residual(
    coefficients, source, source_bar, order, partial, scratch, batch,
    HAS_SOURCE: tl.constexpr, WITH_GRADIENT: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add to the loss; then the cotangents of v and its derivatives, and the gradients of coefficients and source."""
    v, v_t, v_tt, curvature, square = load_values(scratch, C)
    o_sample, valid = load_places(order, scratch, C)
    u, slope, bend, third = map_output(v, C.out_activation)
    u_t = slope * v_t
    u_tt = slope * v_tt + bend * v_t * v_t
    laplacian = slope * curvature + bend * square
    kinetic = slope * slope * square
    p_coefficient = coefficients + load_potential(scratch) * 5
    c_u, c_u_t, c_u_tt = tl.load(p_coefficient), tl.load(p_coefficient + 1), tl.load(p_coefficient + 2)
    c_laplacian, c_kinetic = tl.load(p_coefficient + 3), tl.load(p_coefficient + 4)
    residual = c_u * u + c_u_t * u_t + c_u_tt * u_tt + c_laplacian * laplacian + c_kinetic * kinetic
    if HAS_SOURCE:
        residual += tl.load(source + o_sample, mask=valid, other=0.0)
    residual = tl.where(valid, residual, 0.0)
    add_to_vector(scratch, LOSS, residual * residual / batch, C)

    if WITH_GRADIENT:
        r_bar = 2 * residual / batch
        if HAS_SOURCE:
            tl.store(source_bar + o_sample, r_bar, mask=valid)
        p_bar = own_partial(partial, scratch) + C.coefficients_at
        add_scalar(p_bar, r_bar * u)
        add_scalar(p_bar + 1, r_bar * u_t)
        add_scalar(p_bar + 2, r_bar * u_tt)
        add_scalar(p_bar + 3, r_bar * laplacian)
        add_scalar(p_bar + 4, r_bar * kinetic)

        b_laplacian = r_bar * c_laplacian
        scale_gradient(2 * slope * slope * r_bar * c_kinetic + 2 * bend * b_laplacian, scratch, C)
        b_u_t, b_u_tt = r_bar * c_u_t, r_bar * c_u_tt
        inner = 2 * r_bar * c_kinetic * slope * square
        v_bar = slope * r_bar * c_u + bend * (inner + b_laplacian * curvature + b_u_t * v_t + b_u_tt * v_tt)
        store_vector(scratch, V_BAR, v_bar + third * (b_laplacian * square + b_u_tt * v_t * v_t), C)
        store_vector(scratch, LAPLACIAN_BAR, slope * b_laplacian, C)
        store_vector(scratch, V_T_BAR, slope * b_u_t + 2 * bend * v_t * b_u_tt, C)
        store_vector(scratch, V_TT_BAR, slope * b_u_tt, C)


@triton.jit
def scale_gradient(along, scratch, C: tl.constexpr):
    """gammabar = along gamma."""
    o_m = tl.arange(0, C.samples)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_gamma = load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C)  # [samples, columns]
        store_block(array(scratch, DELTA_BAR, 0, C), o_m, o_d, along[:, None] * b_gamma, C.widths[0], C)
