"""Activations with their first three derivatives, and the output unit's map, for float32 and float64 blocks."""

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_TAU = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def activate(a, NAME: tl.constexpr):
    """Value and first, second and third derivative of the activation NAME at a block `a`, each of its shape."""
    if NAME == "tanh":
        y, first = tanh(a)
        second = -2 * y * first
        third = first * (4 - 6 * first)
    elif NAME == "sin":
        y, first = sine(a)
        second = -y
        third = -first
    elif NAME == "gelu":
        cdf = 0.5 * (1 + tl.erf(a * SQRT_HALF))
        density = tl.exp(-0.5 * a * a) * INVERSE_SQRT_TAU
        y = a * cdf
        first = cdf + a * density
        second = density * (2 - a * a)
        third = density * a * (a * a - 4)
    elif NAME == "silu":
        s, slope = logistic(a)
        lean = 1 - 2 * s
        y = a * s
        first = s + a * slope
        second = slope * (2 + a * lean)
        third = slope * (lean * (3 + a * lean) - 2 * a * slope)
    else:
        tl.static_assert(NAME == "softplus")
        s, slope = logistic(a)
        e = tl.exp(-tl.abs(a))
        one_more = 1 + e
        # log(1 + e), with what the rounding of 1 + e has lost put back.
        y = tl.maximum(a, 0.0) + tl.log(one_more) - ((one_more - 1) - e) / one_more
        first = s
        second = slope
        third = slope * (1 - 2 * s)
    return y, first, second, third


@triton.jit
def map_output(v, NAME: tl.constexpr):
    """Value and first, second and third derivative of the output map NAME."""
    if NAME == "identity":
        return v, tl.full(v.shape, 1, v.dtype), tl.zeros_like(v), tl.zeros_like(v)
    else:
        tl.static_assert(NAME == "tanh")
        return activate(v, "tanh")


@triton.jit
def tanh(a):
    """tanh and its derivative, both to a few units in the last place: near zero, and where tanh saturates."""
    e = tl.exp(-2 * tl.abs(a))
    part = 1 / (1 + e)
    x = tl.minimum(tl.abs(a), 0.6)
    square = x * x
    # Near zero 1 - e cancels; Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))) doesn't, cut off and
    # written as one fraction.
    if a.dtype == tl.float64:
        over = 34459425 + square * (4729725 + square * (135135 + square * (990 + square)))
        under = 34459425 + square * (16216200 + square * (945945 + square * (13860 + 45 * square)))
    else:
        over = 945 + square * (105 + square)
        under = 945 + square * (420 + 15 * square)
    near = tl.abs(a) < 0.6
    y = tl.where(near, x * over, 1 - e) / tl.where(near, under, 1 + e)
    return tl.where(a < 0, -y, y), 4 * e * part * part


@triton.jit
def logistic(a):
    """1 / (1 + exp(-a)) and its derivative, without overflow."""
    e = tl.exp(-tl.abs(a))
    one_more = 1 + e
    return tl.where(a < 0, e, 1.0) / one_more, e / (one_more * one_more)


@triton.jit
def sine(a):
    """sin and cos. In float32 without the library's path for huge arguments, which spills registers everywhere.

    Beyond 1e5, where floats lie 0.008 apart and more, the error grows to what the argument's own rounding causes.
    """
    if a.dtype == tl.float64:
        return tl.sin(a), tl.cos(a)
    else:
        # a = k pi / 2 + x with |x| <= pi / 4; pi / 2 in three parts, the first two so short that their product with k
        # is exact.
        k = tl.floor(a * 0.6366197723675814 + 0.5)
        x = ((a - k * 1.5703125) - k * 4.837512969970703e-4) - k * 7.549789948768648e-8
        square = x * x
        s = x + x * square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square * (1 / 362880))))
        tail = -1 / 720 + square * (1 / 40320 - square * (1 / 3628800))
        c = 1 - 0.5 * square + square * square * (1 / 24 + square * tail)
        quarter = k - 4 * tl.floor(0.25 * k)
        odd = (quarter == 1) | (quarter == 3)
        y = tl.where(odd, c, s)
        slope = tl.where(odd, s, c)
        return tl.where(quarter >= 2, -y, y), tl.where((quarter == 1) | (quarter == 2), -slope, slope)
