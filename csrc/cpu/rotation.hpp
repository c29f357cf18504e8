// W = R Q^T, Q with orthonormal columns, R lower trapezoidal: the rows of W one after the other, each projected on the
// directions found so far (Gram-Schmidt, repeated when the row nearly vanishes, in double for both precisions).
#pragma once

#include <float.h>

#include "arena.hpp"
#include "simd.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

inline double dot(int n, const double* x, const double* y) {
    Vec<double> sum{};
    for (int i = 0; i < n; i += lanes<double>) sum += load(x + i) * load(y + i);
    return sum_lanes<double>(sum);
}

// row -= its projection on the `count` directions; adds the coefficients to `coefficients`.
inline void project(int n, int count, const double* directions, double* row, double* coefficients, double* scratch) {
    constexpr int group = 4;  // directions per pass over the row
    for (int j = 0; j < count; j += group) {
        const int width = count - j < group ? count - j : group;
        const double* q = directions + static_cast<std::ptrdiff_t>(j) * n;
        Vec<double> sums[group] = {};
        for (int i = 0; i < n; i += lanes<double>)
#pragma GCC unroll 4
            for (int g = 0; g < group; ++g) sums[g] += load(row + i) * load(q + (g < width ? g : 0) * n + i);
        for (int g = 0; g < width; ++g) scratch[j + g] = sum_lanes<double>(sums[g]);
    }
    for (int j = 0; j < count; j += group) {
        const int width = count - j < group ? count - j : group;
        const double* q = directions + static_cast<std::ptrdiff_t>(j) * n;
        Vec<double> factors[group];
        for (int g = 0; g < group; ++g) factors[g] = broadcast(g < width ? scratch[j + g] : 0.0);
        for (int i = 0; i < n; i += lanes<double>) {
            Vec<double> rest = load(row + i);
#pragma GCC unroll 4
            for (int g = 0; g < group; ++g) rest -= factors[g] * load(q + (g < width ? g : 0) * n + i);
            store<double>(row + i, rest);
        }
    }
    for (int j = 0; j < count; ++j) coefficients[j] += scratch[j];
}

struct RotationScratch {
    int columns;           // width, padded
    double *directions;    // rows of Q^T (rank, columns)
    double *row, *coefficients, *scratch;

    RotationScratch(int height, int width, Arena& arena) : columns(padded<double>(width)) {
        const int rank = width < height ? width : height;
        directions = arena.take<double>(static_cast<std::size_t>(rank) * columns);
        row = arena.take<double>(columns);
        coefficients = arena.take<double>(rank);
        scratch = arena.take<double>(rank);
    }
};

inline std::size_t rotation_scratch_size(int height, int width) {
    Arena arena{nullptr};
    RotationScratch scratch(height, width, arena);
    return arena.used;
}

// weight (height, width) row-major. Writes R transposed to `seeds` (rank, seed_stride), every column up to the stride, and
// Q to `basis` (width, rank), with rank = min(width, height). A row that depends on those before it, zero included, adds
// no direction: where the rows run out, the last columns of R and Q are zero, which leaves R Q^T = W.
template <class T>
void rotate(int height, int width, const T* weight, T* seeds, int seed_stride, T* basis, Arena arena) {
    const int rank = width < height ? width : height;
    const auto [n, directions, row, coefficients, scratch] = RotationScratch(height, width, arena);

    for (int j = 0; j < rank; ++j)
        for (int k = 0; k < seed_stride; ++k) seeds[static_cast<std::ptrdiff_t>(j) * seed_stride + k] = 0;

    int found = 0;
    for (int k = 0; k < height; ++k) {
        for (int i = 0; i < n; ++i) row[i] = i < width ? static_cast<double>(weight[static_cast<std::ptrdiff_t>(k) * width + i]) : 0.0;
        for (int j = 0; j < found; ++j) coefficients[j] = 0;

        const double length = __builtin_sqrt(dot(n, row, row));
        double before = length, rest = length;
        for (int pass = 0; pass < 3 && found > 0; ++pass) {  // a second pass restores orthogonality; a third is a guard
            project(n, found, directions, row, coefficients, scratch);
            rest = __builtin_sqrt(dot(n, row, row));
            if (rest > 0.1 * before) break;
            before = rest;
        }
        for (int j = 0; j < found; ++j) seeds[static_cast<std::ptrdiff_t>(j) * seed_stride + k] = static_cast<T>(coefficients[j]);
        if (found < rank && rest > 4 * DBL_EPSILON * width * length) {
            for (int i = 0; i < n; ++i) directions[static_cast<std::ptrdiff_t>(found) * n + i] = row[i] / rest;
            seeds[static_cast<std::ptrdiff_t>(found) * seed_stride + k] = static_cast<T>(rest);
            ++found;
        }
    }
    for (int i = 0; i < width; ++i)
        for (int j = 0; j < rank; ++j)
            basis[static_cast<std::ptrdiff_t>(i) * rank + j] = j < found ? static_cast<T>(directions[static_cast<std::ptrdiff_t>(j) * n + i]) : T(0);
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
