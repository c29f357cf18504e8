// Vectors of the instruction set being compiled, through the compiler's vector extensions: arithmetic, comparisons and
// `mask ? a : b` are the language's own. Only what those lack is here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels/isa.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Simd;

template <>
struct Simd<float> {
    typedef float Vec __attribute__((vector_size(vector_bytes)));
    typedef float Unaligned __attribute__((vector_size(vector_bytes), aligned(4)));
    typedef std::int32_t Int __attribute__((vector_size(vector_bytes)));
    using Bits = std::int32_t;
    static constexpr int mantissa_bits = 23;
    static constexpr int exponent_bias = 127;
};

template <>
struct Simd<double> {
    typedef double Vec __attribute__((vector_size(vector_bytes)));
    typedef double Unaligned __attribute__((vector_size(vector_bytes), aligned(8)));
    typedef std::int64_t Int __attribute__((vector_size(vector_bytes)));
    using Bits = std::int64_t;
    static constexpr int mantissa_bits = 52;
    static constexpr int exponent_bias = 1023;
};

template <class T>
using Vec = typename Simd<T>::Vec;

template <class T>
constexpr int lanes = vector_bytes / sizeof(T);

template <class T>
inline Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <class T>
inline void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

template <class T>
inline Vec<T> broadcast(T x) {
    return x - Vec<T>{};
}

// A product that stays one: without this the compiler chooses, loop by loop, which of them become part of a fused multiply-add,
// and with the choice change the last bits of a result. Older compilers have only the choice.
template <class T>
inline Vec<T> rounded(Vec<T> product) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_assoc_barrier)
    return __builtin_assoc_barrier(product);
#elif __has_builtin(__arithmetic_fence)
    return __arithmetic_fence(product);
#endif
#endif
    return product;
}

template <int... I>
struct Indices {};

template <int N, int... I>
struct CountTo : CountTo<N - 1, N - 1, I...> {};

template <int... I>
struct CountTo<0, I...> {
    using type = Indices<I...>;
};

// Lane i gets lane i ^ distance.
template <class T, int Distance, int... I>
inline Vec<T> swap_lanes(Vec<T> v, Indices<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(v, v, (I ^ Distance)...);
#else
    return __builtin_shuffle(v, typename Simd<T>::Int{(I ^ Distance)...});
#endif
}

// Sum of the lanes, always in the same order.
template <class T, int Distance = lanes<T> / 2>
inline T sum_lanes(Vec<T> v) {
    v += swap_lanes<T, Distance>(v, typename CountTo<lanes<T>>::type{});
    if constexpr (Distance > 1)
        return sum_lanes<T, Distance / 2>(v);
    else
        return v[0];
}

// Of two vectors that lie `Distance` rows apart, where lane i of the lower (or, with Upper, the upper) row's next stage comes
// from: lanes of the first are counted from 0, those of the second from lanes<T> on.
template <class T, int Distance, bool Upper>
constexpr int exchanged(int i) {
    return (i & Distance) != 0 ? lanes<T> + i - (Upper ? 0 : Distance) : i + (Upper ? Distance : 0);
}

template <class T, int Distance, bool Upper, int... I>
inline Vec<T> exchange(Vec<T> lower, Vec<T> upper, Indices<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(lower, upper, (exchanged<T, Distance, Upper>(I))...);
#else
    return __builtin_shuffle(lower, upper, typename Simd<T>::Int{exchanged<T, Distance, Upper>(I)...});
#endif
}

// Lane j of row i changes places with lane i of row j.
template <class T, int Distance = lanes<T> / 2>
inline __attribute__((always_inline)) void transpose(Vec<T> (&rows)[lanes<T>]) {
    constexpr typename CountTo<lanes<T>>::type all;
#pragma GCC unroll 16
    for (int i = 0; i < lanes<T>; ++i) {
        if ((i & Distance) != 0) continue;
        const Vec<T> lower = rows[i], upper = rows[i + Distance];
        rows[i] = exchange<T, Distance, false>(lower, upper, all);
        rows[i + Distance] = exchange<T, Distance, true>(lower, upper, all);
    }
    if constexpr (Distance > 1) transpose<T, Distance / 2>(rows);
}

template <class T>
constexpr T round_up(T n, T multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// `n` elements rounded up to whole vectors: what every loop over a row's columns covers.
template <class T>
constexpr int padded(int n) {
    return round_up(n, lanes<T>);
}

// Distance between the rows of a matrix with `n` columns: an odd number of cache lines, so that walking down a column
// meets every set of the cache and not an eighth of them.
template <class T>
constexpr int row_stride(int n) {
    constexpr int per_line = 64 / sizeof(T);
    const int lines = (n + per_line - 1) / per_line;
    return (lines | 1) * per_line;
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
