"""The counts of operations against the closed formulas and a table worked out by hand."""

import pytest

from benchmarks.cpu import floors

WIDTHS = (32, 64, 128, 256, 512)
# Thousands of operations of a two-layer network's jet, and what nested autograd takes as a multiple.
TABLE = {
    12: ((26, 2.9), (110, 2.4), (449, 2.1), (1816, 2.0), (7301, 1.9)),
    64: ((46, 18), (300, 7.2), (1680, 3.8), (7686, 2.8), (32674, 2.4)),
    128: ((55, 49), (316, 20), (2246, 7.6), (13011, 3.9), (60101, 2.8)),
    512: ((104, 346), (414, 183), (2442, 69), (17631, 23), (136581, 7.9)),
}
CELLS = [(dim, width, *cell) for dim, row in TABLE.items() for width, cell in zip(WIDTHS, row, strict=True)]


@pytest.mark.parametrize(("dim", "width", "thousands", "over_nested"), CELLS)
def test_jet(dim, width, thousands, over_nested):
    flops = floors.jet(dim, width, 2)
    assert round(flops / 1000) == thousands
    assert floors.nested_autograd(dim, width, 2) / flops == pytest.approx(over_nested, rel=0.04)


def test_one_layer_needs_no_tangents():
    assert floors.jet(12, 64, 1) == 4 * floors.num_weights(12, 64, 1) == 4 * (13 * 64 + 64)
    assert floors.training(12, 64, 1) == 12 * floors.num_weights(12, 64, 1)


def test_three_layers_by_hand():
    weights = 13 * 128 + 2 * 128**2 + 128
    triangle, full = 2 * 128 * (12 * 128 - 66), 2 * 12 * 128**2
    assert floors.jet(12, 128, 3) == 4 * weights + triangle + full
    assert floors.training(12, 128, 3) == 12 * weights + 2 * triangle + 4 * full
    assert floors.flow(12, 128, 3) == 4 * weights
