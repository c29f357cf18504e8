"""Activations with their first three derivatives, and the output unit's map, for float32 and float64 blocks."""

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_TAU = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def activate(a, NAME: tl.constexpr):
    """Compute h = sigma(a), sigma'(a), sigma''(a) and sigma'''(a) for the activation NAME, each of a's shape."""
    if NAME == "tanh":
        h, sigma1 = tanh(a)
        sigma2 = -2 * h * sigma1
        sigma3 = sigma1 * (4 - 6 * sigma1)
    elif NAME == "sin":
        h, sigma1 = sine(a)
        sigma2 = -h
        sigma3 = -sigma1
    elif NAME == "gelu":
        cdf = 0.5 * (1 + tl.erf(a * SQRT_HALF))
        decay = tl.exp(-0.5 * a * a)
        if a.dtype == tl.float64:
            cdf = tl.where(a < -3, decay * mills_ratio(tl.maximum(-a, 3.0)), cdf)  # where 1 + erf cancels
        density = decay * INVERSE_SQRT_TAU
        h = a * cdf
        sigma1 = cdf + a * density
        sigma2 = density * (2 - a * a)
        sigma3 = density * a * (a * a - 4)
    elif NAME == "silu":
        s, s1 = logistic(a)
        lean = 1 - 2 * s
        h = a * s
        sigma1 = s + a * s1
        sigma2 = s1 * (2 + a * lean)
        sigma3 = s1 * (lean * (3 + a * lean) - 2 * a * s1)
    else:
        tl.static_assert(NAME == "softplus")
        s, s1 = logistic(a)
        e = tl.exp(-tl.abs(a))
        one_more = 1 + e
        # log(1 + e), with what rounding took from 1 + e put back.
        h = tl.maximum(a, 0.0) + tl.log(one_more) - ((one_more - 1) - e) / one_more
        sigma1 = s
        sigma2 = s1
        sigma3 = s1 * (1 - 2 * s)
    return h, sigma1, sigma2, sigma3


@triton.jit
def output_map(v, NAME: tl.constexpr):
    """Compute u = psi(v), psi'(v), psi''(v) and psi'''(v) for the output map NAME, each of v's shape."""
    if NAME == "identity":
        return v, tl.full(v.shape, 1, v.dtype), tl.zeros_like(v), tl.zeros_like(v)
    else:
        tl.static_assert(NAME == "tanh")
        return activate(v, "tanh")


@triton.jit
def tanh(a):
    """Compute tanh and its derivative to a few units in the last place, also near zero and where tanh saturates."""
    e = tl.exp(-2 * tl.abs(a))
    part = 1 / (1 + e)
    x = tl.minimum(tl.abs(a), 0.6)
    square = x * x
    # Near zero 1 - e cancels. Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))) doesn't. Here it is
    # cut off and written as one fraction.
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
    """Compute s = 1 / (1 + exp(-a)) and s', without overflow."""
    e = tl.exp(-tl.abs(a))
    one_more = 1 + e
    return tl.where(a < 0, e, 1.0) / one_more, e / (one_more * one_more)


@triton.jit
def mills_ratio(x):
    """Compute exp(x^2 / 2) Phi(-x) for the normal distribution Phi and x >= 0, in float64, as the C++ engine does."""
    inverse = 1 / (x + 4)
    t = (x - 4) * inverse
    m = -1.68865773493568699e-9 * t - 1.27723518869992687e-9
    m = m * t + 1.60673871370920393e-8
    m = m * t + 1.95696091625891702e-8
    m = m * t - 7.87836037796727402e-8
    m = m * t - 1.62231632548433488e-7
    m = m * t + 2.64733728571348611e-7
    m = m * t + 1.02698407067617491e-6
    m = m * t - 6.24955107985336674e-7
    m = m * t - 5.92289377791323438e-6
    m = m * t + 7.1460215320660193e-7
    m = m * t + 0.0000351456023592055371
    m = m * t - 1.90767603073269405e-6
    m = m * t - 0.000231095137787332419
    m = m * t + 0.000133344209160147971
    m = m * t + 0.00163081848547359253
    m = m * t - 0.00347969235665150234
    m = m * t - 0.00754018896889161957
    m = m * t + 0.0603965748903609184
    m = m * t - 0.186521857959578716
    m = m * t + 0.387137400742226602
    m = m * t - 0.607896641971892958
    m = m * t + 0.755285130415751451
    return m * inverse


@triton.jit
def sine(a):
    """Compute sin and cos; in float32 without the library's path for huge arguments, which spills registers.

    Beyond 1e5, where floats lie at least 0.008 apart, the error grows to what rounding of the argument causes.
    """
    if a.dtype == tl.float64:
        return tl.sin(a), tl.cos(a)
    else:
        # a = k pi / 2 + x with |x| <= pi / 4. pi / 2 comes in three parts; the first two have so few digits that their
        # product with k is exact.
        k = tl.floor(a * 0.6366197723675814 + 0.5)
        x = ((a - k * 1.5703125) - k * 4.837512969970703e-4) - k * 7.549789948768648e-8
        square = x * x
        s = x + x * square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square * (1 / 362880))))
        tail = -1 / 720 + square * (1 / 40320 - square * (1 / 3628800))
        c = 1 - 0.5 * square + square * square * (1 / 24 + square * tail)
        quarter = k - 4 * tl.floor(0.25 * k)
        odd = (quarter == 1) | (quarter == 3)
        y = tl.where(odd, c, s)
        cosine = tl.where(odd, s, c)
        return tl.where(quarter >= 2, -y, y), tl.where((quarter == 1) | (quarter == 2), -cosine, cosine)
