"""The jet: value, gradient, Laplacian and time derivatives of each sample's potential."""

import triton
import triton.language as tl

from .activations import output_map
from .jet_pass import forward, load_v_jet, tangent_laplacian
from .tiles import DELTA, FORWARD_ARRAYS, array, load_block, load_places, my_tiles, open_tile, own_scratch, rolled


@triton.jit(do_not_specialize=["num_potentials", "num_directions", "scratch_size"])
def jet_fwd_kernel(
    z, weights, bias_jets, out_weight, out_bias, seeds, seed_norms, probes, slot, order, starts, tile_ends,
    tile_potential, u, grad, laplacian, u_t, u_tt, scratch, num_potentials, num_directions, scratch_size,
    C: tl.constexpr,
):  # fmt: skip
    """Take this program's tiles one after the other; scratch_size counts the elements of a program's scratch.

    slot holds the samples' bias rows in the order of `order`; z and the results are in the caller's order.
    """
    scratch = own_scratch(scratch, scratch_size)
    first, last = my_tiles(tile_ends, num_potentials)
    for tile in tl.range(first, last, disable_licm=True):
        open_tile(tile, starts, tile_ends, tile_potential, scratch, 0, C)
        forward(z, weights, bias_jets, out_weight, out_bias, seed_norms, slot, order, scratch, C, False)
        if C.has_tangents:
            tangent_laplacian(weights, seeds, num_directions, scratch, FORWARD_ARRAYS, C)
        store_jet(u, grad, laplacian, u_t, u_tt, probes, num_directions, order, scratch, C)
        tl.debug_barrier()


@triton.jit(noinline=True)
def store_jet(u, grad, laplacian, u_t, u_tt, probes, num_directions, order, scratch, C: tl.constexpr):
    """Apply the output map, and write the jet to the samples' own places."""
    v, v_t, v_tt, laplacian_v, squared_grad_v = load_v_jet(scratch, C)
    if C.laplacian == "hutchinson" and C.out_activation != "identity":
        squared_grad_v = squared_out_tangents(probes, num_directions, scratch, C)
    o_sample, valid = load_places(order, scratch, C)
    value, psi1, psi2, _ = output_map(v, C.out_activation)
    tl.store(u + o_sample, value, mask=valid)
    p_laplacian = laplacian + o_sample
    b_laplacian = psi1 * laplacian_v + psi2 * squared_grad_v if C.laplacian != "none" else 0 * v
    tl.store(p_laplacian, b_laplacian, mask=valid)
    tl.store(u_t + o_sample, psi1 * v_t, mask=valid)
    tl.store(u_tt + o_sample, psi1 * v_tt + psi2 * v_t * v_t, mask=valid)
    o_m = tl.arange(0, C.samples)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_grad_v = load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C)  # [samples, columns]
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        tl.store(grad + o_sample[:, None] * C.widths[0] + o_d[None, :], psi1[:, None] * b_grad_v, mask=mask)


@triton.jit
def out_tangent(probes, j, scratch, C: tl.constexpr):
    """Compute probe . grad_v, which is dv/dz along one probe, [samples]."""
    o_m = tl.arange(0, C.samples)
    product = tl.zeros((C.samples,), scratch.dtype.element_ty)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_probe = tl.load(probes + j * C.widths[0] + o_d, mask=o_d < C.widths[0], other=0.0)
        product += tl.sum(load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C) * b_probe[None, :], 1)
    return product


@triton.jit
def squared_out_tangents(probes, num_directions, scratch, C: tl.constexpr):
    """Sum (probe . grad_v)^2 over the probes, an estimate of |grad_v|^2, [samples]."""
    squared_grad_v = tl.zeros((C.samples,), scratch.dtype.element_ty)
    for j in range(num_directions):
        product = out_tangent(probes, j, scratch, C)
        squared_grad_v += product * product
    return squared_grad_v
