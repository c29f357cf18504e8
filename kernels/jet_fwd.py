"""The jet: value, gradient, Laplacian and time derivatives of each sample."""

import triton
import triton.language as tl

from .activations import map_output
from .jet_pass import forward, load_values, tangent_laplacian
from .tiles import DELTA, FORWARD_ARRAYS, array, load_block, load_places, my_tiles, open_tile, own_scratch, rolled


@triton.jit(do_not_specialize=["num_potentials", "directions", "scratch_size"])
def jet_fwd_kernel(
    z, weights, bias_jets, out_weight, out_bias, seeds, norms, probes, slot, order, starts, tile_ends, tile_potential,
    u, grad, laplacian, u_t, u_tt, scratch, num_potentials, directions, scratch_size,
    C: tl.constexpr,
):  # fmt: skip
    """Each program takes its tiles one after the other; scratch_size: elements of a program's scratch.

    slot: the samples' bias rows in the order of `order`, unlike z and the results, which lie as the caller's do.
    """
    scratch = own_scratch(scratch, scratch_size)
    first, last = my_tiles(tile_ends, num_potentials)
    for tile in tl.range(first, last, disable_licm=True):
        open_tile(tile, starts, tile_ends, tile_potential, scratch, 0, C)
        forward(z, weights, bias_jets, out_weight, out_bias, norms, slot, order, scratch, C, False)
        if C.curved:
            tangent_laplacian(weights, seeds, directions, scratch, FORWARD_ARRAYS, C)
        store_jet(u, grad, laplacian, u_t, u_tt, probes, directions, order, scratch, C)
        tl.debug_barrier()


@triton.jit(noinline=True)
def store_jet(u, grad, laplacian, u_t, u_tt, probes, directions, order, scratch, C: tl.constexpr):
    """Through the output map, and to the samples' own places."""
    v, v_t, v_tt, curvature, square = load_values(scratch, C)
    if C.laplacian == "probes" and C.out_activation != "identity":
        square = probed_square(probes, directions, scratch, C)
    o_sample, valid = load_places(order, scratch, C)
    value, slope, bend, _ = map_output(v, C.out_activation)
    tl.store(u + o_sample, value, mask=valid)
    tl.store(laplacian + o_sample, slope * curvature + bend * square if C.laplacian != "none" else 0 * v, mask=valid)
    tl.store(u_t + o_sample, slope * v_t, mask=valid)
    tl.store(u_tt + o_sample, slope * v_tt + bend * v_t * v_t, mask=valid)
    o_m = tl.arange(0, C.samples)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_gamma = load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C)  # [samples, columns]
        mask = valid[:, None] & (o_d < C.widths[0])[None, :]
        tl.store(grad + o_sample[:, None] * C.widths[0] + o_d[None, :], slope[:, None] * b_gamma, mask=mask)


@triton.jit
def probe_product(probes, j, scratch, C: tl.constexpr):
    """Each sample's gamma times one probe, [samples]."""
    o_m = tl.arange(0, C.samples)
    product = tl.zeros((C.samples,), scratch.dtype.element_ty)
    for d in range(0, rolled(C.widths[0]), C.columns):
        o_d = d + tl.arange(0, C.columns)
        b_probe = tl.load(probes + j * C.widths[0] + o_d, mask=o_d < C.widths[0], other=0.0)
        product += tl.sum(load_block(array(scratch, DELTA, 0, C), o_m, o_d, C.widths[0], C) * b_probe[None, :], 1)
    return product


@triton.jit
def probed_square(probes, directions, scratch, C: tl.constexpr):
    """The probes' estimate of |gamma|^2, [samples]."""
    square = tl.zeros((C.samples,), scratch.dtype.element_ty)
    for j in range(directions):
        product = probe_product(probes, j, scratch, C)
        square += product * product
    return square
