"""Sums of partial gradients, always in the same order, so that every run gives the same bits."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["programs", "partial_size"])
def reduce_partials_kernel(partial, tile_ends, total, programs, partial_size, BLOCK: tl.constexpr):
    """Sum each potential's partial buffers into total (K, partial_size), program by program; zero without samples.

    The programs that had tiles of potential k have consecutive numbers; program p wrote to buffer p + k.
    """
    o_n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    potential = tl.program_id(1)
    mask = o_n < partial_size
    each = tl.cdiv(tl.load(tile_ends + tl.num_programs(1) - 1), programs)
    begin = tl.load(tile_ends + potential - 1, mask=potential > 0, other=0)
    end = tl.load(tile_ends + potential)
    b_total = tl.zeros((BLOCK,), partial.dtype.element_ty)
    if end > begin:
        for program in range(begin // each, (end - 1) // each + 1):
            b_total += tl.load(partial + (program + potential).to(tl.int64) * partial_size + o_n, mask=mask, other=0.0)
    tl.store(total + potential.to(tl.int64) * partial_size + o_n, b_total, mask=mask)


@triton.jit(do_not_specialize=["row"])
def reduce_runs_kernel(
    run_rows,
    run_order,
    slot_starts,
    total,
    row,
    WIDTH: tl.constexpr,
    WRITTEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum the first WRITTEN columns of each slot's runs into total (S, WIDTH); the other columns become zero.

    run_order lists the runs slot by slot, those of slot s from slot_starts[s] on. `row` is the distance from one run's
    row to the next one's.
    """
    slot = tl.program_id(0)
    o_n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(slot_starts + slot)
    end = tl.load(slot_starts + slot + 1)
    b_total = tl.zeros((BLOCK,), run_rows.dtype.element_ty)
    for i in range(begin, end, ROWS):
        o_i = i + tl.arange(0, ROWS)
        o_run = tl.load(run_order + o_i, mask=o_i < end, other=0).to(tl.int64)
        mask = (o_i < end)[:, None] & (o_n < WRITTEN)[None, :]
        b_total += tl.sum(tl.load(run_rows + o_run[:, None] * row + o_n[None, :], mask=mask, other=0.0), 0)
    tl.store(total + slot.to(tl.int64) * WIDTH + o_n, b_total, mask=o_n < WIDTH)
