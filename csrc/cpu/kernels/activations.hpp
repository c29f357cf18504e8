// The activations with three derivatives each, vectorised. docs/engine.md has their errors.
#pragma once

#include <math.h>

#include "cpu/kernels/simd.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Derivatives {
    Vec<T> value, sigma1, sigma2, sigma3;
};

template <class T, int N>
inline Vec<T> polynomial(Vec<T> x, const double (&coefficients)[N]) {
    Vec<T> sum = broadcast(static_cast<T>(coefficients[N - 1]));
#pragma GCC unroll 32
    for (int i = N - 2; i >= 0; --i) sum = sum * x + static_cast<T>(coefficients[i]);
    return sum;
}

template <class T>
inline Vec<T> absolute(Vec<T> x) {
    using Int = typename Simd<T>::Int;
    const typename Simd<T>::Bits sign = typename Simd<T>::Bits(1) << (8 * sizeof(T) - 1);
    return (Vec<T>)((Int)x & ~sign);
}

// A NaN passes through both bounds.
template <class T>
inline Vec<T> clamp(Vec<T> x, T low, T high) {
    const Vec<T> lows = broadcast(low), highs = broadcast(high);
    x = lows > x ? lows : x;
    return highs < x ? highs : x;
}

// x = whole * period + rest, |rest| <= period / 2, where the period is the sum of three parts, of which `whole` times the
// first two is exact. Adding 1.5 * 2^mantissa_bits rounds to an integer and leaves that integer in the low bits.
template <class T>
inline Vec<T> reduce(Vec<T> x, T inverse_period, const double (&parts)[3], typename Simd<T>::Int& whole) {
    using Int = typename Simd<T>::Int;
    const Vec<T> magic = broadcast(T(1.5) * T(std::int64_t(1) << Simd<T>::mantissa_bits));
    const Vec<T> shifted = x * inverse_period + magic;
    const Vec<T> count = shifted - magic;
    whole = (Int)shifted - (Int)magic;
    return ((x - count * T(parts[0])) - count * T(parts[1])) - count * T(parts[2]);
}

constexpr double ln2_parts_float[3] = {0.693359375, -0.000212192535400390625, -1.9046542999577678785e-9};
constexpr double ln2_parts_double[3] = {0.6931471805592082091607153, 7.371002565161995912850444e-13, 5.802988983695590589e-25};

// exp(x) = scale * (1 + tail), for x clamped to where both are normal numbers. The split keeps expm1 exact near zero.
template <class T>
inline void split_exp(Vec<T> x, Vec<T>& scale, Vec<T>& tail) {
    using Int = typename Simd<T>::Int;
    constexpr bool single = sizeof(T) == 4;
    x = clamp(x, T(single ? -87.0 : -708.0), T(single ? 87.0 : 708.0));
    Int exponent;
    const Vec<T> rest = reduce<T>(x, T(1.4426950408889634), single ? ln2_parts_float : ln2_parts_double, exponent);
    scale = (Vec<T>)((exponent + Simd<T>::exponent_bias) << Simd<T>::mantissa_bits);
    if constexpr (single) {
        constexpr double c[] = {1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040};
        tail = rest + rest * rest * polynomial<T>(rest, c);
    } else {
        constexpr double c[] = {1. / 2,      1. / 6,       1. / 24,       1. / 120,       1. / 720,       1. / 5040,
                                1. / 40320., 1. / 362880., 1. / 3628800., 1. / 39916800., 1. / 479001600, 1. / 6227020800};
        tail = rest + rest * rest * polynomial<T>(rest, c);
    }
}

template <class T>
inline Vec<T> exponential(Vec<T> x) {
    Vec<T> scale, tail;
    split_exp<T>(x, scale, tail);
    return scale + scale * tail;
}

inline Vec<float> tanh_value(Vec<float> x) {
    // expm1(2 |x|) / (expm1(2 |x|) + 2), with 2^f - 1 = f p(f) for the fraction f of the exponent, relative error 1.2e-8. The
    // exponent's bias is part of what rounds to an integer, so that the bits shift into place as the power of two.
    constexpr double p[] = {0.693147188026, 0.240226507606, 0.0555035711422, 0.00961808255728, 0.00133908633647, 0.000154531629451};
    using Int = Simd<float>::Int;
    constexpr float exponents = 2.885390081777927f, magic = 12582912.0f + 127.0f, bound = 9.02f;  // tanh(bound) rounds to 1
    Vec<float> size = absolute<float>(x);
    size = bound < size ? broadcast(bound) : size;
    const Vec<float> shifted = size * exponents + magic;
    const Vec<float> fraction = size * exponents - (shifted - magic);
    const Vec<float> scale = (Vec<float>)((Int)shifted << 23);
    const Vec<float> expm1 = scale * (fraction * polynomial<float>(fraction, p)) + (scale - 1.0f);
    return (Vec<float>)((Int)(expm1 / (expm1 + 2.0f)) | ((Int)x & INT32_MIN));
}

inline Vec<double> tanh_value(Vec<double> x) {
    Vec<double> scale, tail;
    split_exp<double>(clamp(x, -30.0, 30.0) * 2.0, scale, tail);
    const Vec<double> expm1 = scale * tail + (scale - 1.0);
    return expm1 / (expm1 + 2.0);
}

template <class T>
inline Derivatives<T> tanh_derivatives(Vec<T> x) {
    const Vec<T> value = tanh_value(x);
    const Vec<T> sigma1 = T(1) - value * value;
    return {value, sigma1, T(-2) * value * sigma1, sigma1 * (T(4) - T(6) * sigma1)};
}

// The largest |x| for which `reduce` by pi is exact; beyond it `sin_derivatives_any` answers.
template <class T>
constexpr T sin_limit = sizeof(T) == 4 ? 8192 : 1e6;

template <class T>
inline Derivatives<T> sin_derivatives(Vec<T> x) {
    using Int = typename Simd<T>::Int;
    constexpr double parts_float[3] = {3.140625, 0.000967502593994140625, 1.5099579909783764338e-7};
    constexpr double parts_double[3] = {3.14159265346825122833252, 1.21542010126079319531911e-10, 4.0445324975919014648e-21};
    constexpr double sin_series[] = {-1. / 6,
                                     1. / 120,
                                     -1. / 5040,
                                     1. / 362880.,
                                     -1. / 39916800.,
                                     1. / 6227020800,
                                     -1. / 1307674368000,
                                     1. / 355687428096000,
                                     -8.22063524662433e-18,
                                     1.9572941063391263e-20};
    constexpr double cos_series[] = {-1. / 2,
                                     1. / 24,
                                     -1. / 720,
                                     1. / 40320.,
                                     -1. / 3628800.,
                                     1. / 479001600,
                                     -1. / 87178291200,
                                     1. / 20922789888000,
                                     -1.5619206968586225e-16,
                                     4.110317623312165e-19,
                                     -8.896791392450574e-22};
    Int half_turns;
    const Vec<T> rest = reduce<T>(x, T(0.3183098861837907), sizeof(T) == 4 ? parts_float : parts_double, half_turns);
    const Vec<T> square = rest * rest;
    Vec<T> sine, cosine;
    if constexpr (sizeof(T) == 4) {
        constexpr double s[] = {sin_series[0], sin_series[1], sin_series[2], sin_series[3], sin_series[4], sin_series[5]};
        constexpr double c[] = {cos_series[0], cos_series[1], cos_series[2], cos_series[3], cos_series[4], cos_series[5]};
        sine = polynomial<T>(square, s);
        cosine = polynomial<T>(square, c);
    } else {
        sine = polynomial<T>(square, sin_series);
        cosine = polynomial<T>(square, cos_series);
    }
    const Int flip = half_turns << (8 * sizeof(T) - 1);  // odd multiples of pi change both signs
    sine = (Vec<T>)((Int)(rest + rest * square * sine) ^ flip);
    cosine = (Vec<T>)((Int)(T(1) + square * cosine) ^ flip);
    return {sine, cosine, -sine, -cosine};
}

// The same for any argument, lane by lane; slow, for the rare arguments that need a longer reduction.
template <class T>
inline Derivatives<T> sin_derivatives_any(Vec<T> x) {
    Vec<T> sine{}, cosine{};
    for (int i = 0; i < lanes<T>; ++i) {
        sine[i] = static_cast<T>(sin(static_cast<double>(x[i])));
        cosine[i] = static_cast<T>(cos(static_cast<double>(x[i])));
    }
    return {sine, cosine, -sine, -cosine};
}

// The logistic function and its derivatives, from exp(-|x|) so that neither tail cancels.
template <class T>
struct Logistic {
    Vec<T> decay, value, first, second, third;
};

template <class T>
inline Logistic<T> logistic(Vec<T> x) {
    const Vec<T> size = absolute<T>(x);
    const Vec<T> decay = size > T(sizeof(T) == 4 ? 87 : 708) ? Vec<T>{} : exponential<T>(-size);
    const Vec<T> inverse = T(1) / (T(1) + decay);
    const Vec<T> value = x < T(0) ? decay * inverse : inverse;
    const Vec<T> first = decay * inverse * inverse;
    return {decay, value, first, first * (T(1) - T(2) * value), first * (T(1) - T(6) * first)};
}

template <class T>
inline Derivatives<T> silu_derivatives(Vec<T> x) {
    const Logistic<T> s = logistic<T>(x);
    const Vec<T> bounded = clamp(x, T(-709), T(709));  // the derivatives of the logistic function are zero beyond
    return {x * s.value, s.value + bounded * s.first, T(2) * s.first + bounded * s.second, T(3) * s.second + bounded * s.third};
}

template <class T>
inline Derivatives<T> softplus_derivatives(Vec<T> x) {
    // log1p(d) = 2 atanh(d / (2 + d)), whose argument is at most 1/3.
    const Logistic<T> s = logistic<T>(x);
    const Vec<T> ratio = s.decay / (T(2) + s.decay);
    const Vec<T> square = ratio * ratio;
    Vec<T> series;
    if constexpr (sizeof(T) == 4) {
        constexpr double c[] = {2. / 3, 2. / 5, 2. / 7, 2. / 9, 2. / 11, 2. / 13, 2. / 15};
        series = polynomial<T>(square, c);
    } else {
        constexpr double c[] = {2. / 3,  2. / 5,  2. / 7,  2. / 9,  2. / 11, 2. / 13, 2. / 15, 2. / 17,
                                2. / 19, 2. / 21, 2. / 23, 2. / 25, 2. / 27, 2. / 29, 2. / 31};
        series = polynomial<T>(square, c);
    }
    const Vec<T> positive = x > T(0) ? x : Vec<T>{};
    return {positive + (T(2) * ratio + ratio * square * series), s.value, s.first, s.second};
}

template <class T>
inline Derivatives<T> gelu_derivatives(Vec<T> x) {
    // Phi(-|x|) = exp(-x^2 / 2) m(|x|), with m(a) (a + 4) a polynomial in (a - 4) / (a + 4): its Chebyshev series, cut
    // where the rest is below 1e-9 (float) and 1e-16 (double).
    constexpr bool single = sizeof(T) == 4;
    const T bound = T(single ? 13.0 : 37.5);  // beyond it exp(-x^2 / 2) is zero
    const Vec<T> bounded = clamp(x, -bound, bound);
    const Vec<T> size = absolute<T>(bounded);
    const Vec<T> square = bounded * bounded;
    const Vec<T> decay = size < bound ? exponential<T>(T(-0.5) * square) : Vec<T>{} + (bounded - bounded);
    const Vec<T> inverse = T(1) / (size + T(4));
    const Vec<T> t = (size - T(4)) * inverse;
    Vec<T> mills;
    if constexpr (single) {
        constexpr double c[] = {0.755285130516605693,    -0.607896631366224109,    0.387137393859843111,    -0.186522159839951398,
                                0.0603966482780049374,   -0.00753771715968363239,  -0.00347995463744340009, 0.00162204010552842826,
                                0.000133653387094441302, -0.000215573776286452222, -1.73108230147541336e-6, 0.0000211829842552246999};
        mills = polynomial<T>(t, c);
    } else {
        constexpr double c[] = {0.755285130415751451,    -0.607896641971892958,    0.387137400742226602,    -0.186521857959578716,
                                0.0603965748903609184,   -0.00754018896889161957,  -0.00347969235665150234, 0.00163081848547359253,
                                0.000133344209160147971, -0.000231095137787332419, -1.90767603073269405e-6, 0.0000351456023592055371,
                                7.1460215320660193e-7,   -5.92289377791323438e-6,  -6.24955107985336674e-7, 1.02698407067617491e-6,
                                2.64733728571348611e-7,  -1.62231632548433488e-7,  -7.87836037796727402e-8, 1.95696091625891702e-8,
                                1.60673871370920393e-8,  -1.27723518869992687e-9,  -1.68865773493568699e-9};
        mills = polynomial<T>(t, c);
    }
    const Vec<T> tail = decay * (mills * inverse);
    const Vec<T> distribution = x < T(0) ? tail : T(1) - tail;
    const Vec<T> density = decay * T(0.3989422804014327);
    return {x * distribution, distribution + bounded * density, density * (T(2) - square), density * bounded * (square - T(4))};
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
