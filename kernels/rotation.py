"""W_1 = R Q^T, Q of orthonormal columns and R lower triangular: fewer directions where units are fewer than inputs."""

import triton
import triton.language as tl


@triton.jit
def rotate_kernel(
    weight, seeds, basis, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TINY: tl.constexpr,
):  # fmt: skip
    """Run Gram-Schmidt on the rows of one potential's W_1 (HEIGHT, WIDTH), projecting each row twice.

    Writes Q^T to basis (HEIGHT, WIDTH) and R^T to seeds (HEIGHT, HEIGHT). Where no more than TINY times a row's length
    is left, the row depends on those before it and adds no direction: its row of the basis is zero, and R Q^T = W_1
    still.
    """
    weight += tl.program_id(0).to(tl.int64) * (HEIGHT * WIDTH)
    basis += tl.program_id(0).to(tl.int64) * (HEIGHT * WIDTH)
    seeds += tl.program_id(0).to(tl.int64) * (HEIGHT * HEIGHT)
    o_d = tl.arange(0, COLUMNS)
    for i in range(HEIGHT):
        b_row = tl.load(weight + i * WIDTH + o_d, mask=o_d < WIDTH, other=0.0)  # [COLUMNS]
        length = tl.sqrt(tl.sum(b_row * b_row, 0))
        for again in tl.static_range(2):
            for j in range(0, HEIGHT, ROWS):
                o_j = j + tl.arange(0, ROWS)
                mask = (o_j < i)[:, None] & (o_d < WIDTH)[None, :]
                b_basis = tl.load(basis + o_j[:, None] * WIDTH + o_d[None, :], mask=mask, other=0.0)  # [ROWS, COLUMNS]
                product = tl.sum(b_basis * b_row[None, :], 1)
                b_row -= tl.sum(b_basis * product[:, None], 0)
                p_seeds = seeds + o_j * HEIGHT + i
                if again:
                    product += tl.load(p_seeds, mask=o_j < HEIGHT, other=0.0)
                tl.store(p_seeds, product, mask=o_j < HEIGHT)
        rest = tl.sqrt(tl.sum(b_row * b_row, 0))
        independent = rest > TINY * length
        tl.debug_barrier()
        tl.store(seeds + i * HEIGHT + i, tl.where(independent, rest, 0.0))
        b_row = tl.where(independent, b_row / tl.where(independent, rest, 1.0), 0.0)
        tl.store(basis + i * WIDTH + o_d, b_row, mask=o_d < WIDTH)
        tl.debug_barrier()
