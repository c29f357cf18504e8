// Sine and cosine of any argument. The device library's own keep an array on the stack for large arguments, which every
// kernel that may call them would pay for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/device.hpp"

namespace fastflow::cuda {

template <class T>
struct SineCosine {
    T sine, cosine;
};

// x = half_turns * pi + rest, |rest| <= pi / 2.
template <class T>
struct Reduced {
    std::int64_t half_turns;
    T rest;
};

FASTFLOW_DEVICE std::uint64_t high_product(std::uint64_t a, std::uint64_t b) {
#if defined(__CUDA_ARCH__)
    return __umul64hi(a, b);
#else
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
#endif
}

// The bits of 1 / pi behind the point, after one word of zeros.
FASTFLOW_DEVICE std::uint64_t inverse_pi_word(int i) {
    static constexpr std::uint64_t words[] = {
        0x0000000000000000, 0x517cc1b727220a94, 0xfe13abe8fa9a6ee0, 0x6db14acc9e21c820, 0xff28b1d5ef5de2b0, 0xdb92371d2126e970, 0x0324977504e8c90e,
        0x7f0ef58e5894d39f, 0x74411afa975da242, 0x74ce38135a2fbf20, 0x9cc8eb1cc1a99cfa, 0x4e422fc5defc941d, 0x8ffc4bffef02cc07, 0xf79788c5ad05368f,
        0xb69b3f6793e584db, 0xa7a31fb34f2ff516, 0xba93dd63f5f2f8bd, 0x9e839cfbc5294975, 0x35fdafd88fc6ae84, 0x2b0198237e3db5d5,
    };
    return words[i];
}

// For 2^19 <= |x| < infinity, after Payne and Hanek: |x| = m 2^e with a whole m, so the bits of 1 / pi whose products with it are
// even integers can be left out; 192 of the others give the fraction to 2^-127.
FASTFLOW_DEVICE Reduced<double> reduce_large(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int exponent = static_cast<int>(bits >> 52 & 2047) - 1075, from = exponent - 1 + 64;
    const std::uint64_t m = (bits & ((std::uint64_t(1) << 52) - 1)) | std::uint64_t(1) << 52;
    const int word = from / 64, shift = from % 64;
    const auto window = [&](int i) {
        const std::uint64_t high = inverse_pi_word(word + i) << shift;
        return shift == 0 ? high : high | inverse_pi_word(word + i + 1) >> (64 - shift);
    };
    // m times the window, modulo one: two words behind the point, of which the first bit counts half turns.
    const std::uint64_t w1 = window(1), middle = m * w1, low = middle + high_product(m, window(2));
    const std::uint64_t high = m * window(0) + high_product(m, w1) + (low < middle);
    const std::uint64_t first = high << 1 | low >> 63, second = low << 1;
    const auto fraction = static_cast<std::int64_t>(first);  // negative from one half on: the next half turn is nearer
    const double rest = (static_cast<double>(fraction) * 0x1p-64 + static_cast<double>(second) * 0x1p-128) * 3.141592653589793;
    const std::int64_t half_turns = static_cast<std::int64_t>(high >> 63) + (fraction < 0);
    return {half_turns, x < 0 ? -rest : rest};
}

// By three parts of pi, of which the multiples of the first two are exact.
FASTFLOW_DEVICE Reduced<double> reduce(double x) {
    if (!(std::fabs(x) < 524288.0)) return std::isfinite(x) ? reduce_large(x) : Reduced<double>{0, x - x};
    const double count = std::rint(x * 0.3183098861837907);
    const double rest = ((x - count * 3.14159265346825122833252) - count * 1.21542010126079319531911e-10) - count * 4.0445324975919014648e-21;
    return {static_cast<std::int64_t>(count), rest};
}

FASTFLOW_DEVICE Reduced<float> reduce(float x) {
    if (!(std::fabs(x) < 8192.0f)) {
        const Reduced<double> reduced = reduce(static_cast<double>(x));
        return {reduced.half_turns, static_cast<float>(reduced.rest)};
    }
    const float count = std::rint(x * 0.3183098861837907f);
    const float rest = ((x - count * 3.140625f) - count * 0.000967502593994140625f) - count * 1.5099579909783764338e-7f;
    return {static_cast<std::int64_t>(count), rest};
}

template <class T, int N>
FASTFLOW_DEVICE T taylor(T x, const double (&coefficients)[N]) {
    T sum = static_cast<T>(coefficients[N - 1]);
#pragma unroll
    for (int i = N - 2; i >= 0; --i) sum = sum * x + static_cast<T>(coefficients[i]);
    return sum;
}

template <class T>
FASTFLOW_DEVICE SineCosine<T> sine_cosine(T x) {
    const Reduced<T> reduced = reduce(x);
    const T rest = reduced.rest, square = rest * rest, sign = reduced.half_turns % 2 == 0 ? T(1) : T(-1);
    T sine, cosine;
    if constexpr (sizeof(T) == 4) {
        constexpr double s[] = {-1. / 6, 1. / 120, -1. / 5040, 1. / 362880., -1. / 39916800.};
        constexpr double c[] = {-1. / 2, 1. / 24, -1. / 720, 1. / 40320., -1. / 3628800., 1. / 479001600};
        sine = taylor(square, s), cosine = taylor(square, c);
    } else {
        constexpr double s[] = {-1. / 6,
                                1. / 120,
                                -1. / 5040,
                                1. / 362880.,
                                -1. / 39916800.,
                                1. / 6227020800,
                                -1. / 1307674368000,
                                1. / 355687428096000,
                                -8.22063524662433e-18,
                                1.9572941063391263e-20};
        constexpr double c[] = {-1. / 2,
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
        sine = taylor(square, s), cosine = taylor(square, c);
    }
    return {sign * (rest + rest * square * sine), sign * (T(1) + square * cosine)};
}

}  // namespace fastflow::cuda
