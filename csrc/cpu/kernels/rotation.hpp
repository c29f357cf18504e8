// W = R Q^T, Q with orthonormal columns, R lower trapezoidal: Gram-Schmidt on the rows of W, repeated for rows that nearly
// vanish, in double for both precisions. Rows are projected on the directions found before them a few at a time.
#pragma once

#include <float.h>

#include "cpu/kernels/arena.hpp"
#include "cpu/kernels/simd.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

constexpr int rotation_block = 4;

struct RotationScratch {
    int columns;          // width, padded
    double* directions;   // rows of Q^T (rank, columns)
    double* rows;         // (rotation_block, columns)
    double* products;     // of the rows with the directions (rotation_block, rank)

    RotationScratch(int height, int width, Arena& arena) : columns(padded<double>(width)) {
        const int rank = width < height ? width : height;
        directions = arena.take<double>(static_cast<std::size_t>(rank) * columns);
        rows = arena.take<double>(static_cast<std::size_t>(rotation_block) * columns);
        products = arena.take<double>(static_cast<std::size_t>(rotation_block) * rank);
    }
};

inline std::size_t rotation_scratch_size(int height, int width) {
    Arena arena{nullptr};
    RotationScratch scratch(height, width, arena);
    return arena.used;
}

// `Rows` rows (Rows, n) minus their projections on `Width` directions (Width, n), whose coefficients are added to
// products[row * stride + direction].
template <int Rows, int Width>
inline void project(int n, const double* directions, double* rows, double* products, int stride) {
    Vec<double> sums[Rows][Width] = {};
    for (int i = 0; i < n; i += lanes<double>)
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int w = 0; w < Width; ++w) sums[r][w] += load(rows + r * n + i) * load(directions + w * n + i);

    Vec<double> factors[Rows][Width];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int w = 0; w < Width; ++w) {
            const double product = sum_lanes<double>(sums[r][w]);
            products[r * stride + w] += product;
            factors[r][w] = broadcast(product);
        }
    for (int i = 0; i < n; i += lanes<double>)
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            Vec<double> rest = load(rows + r * n + i);
#pragma GCC unroll 4
            for (int w = 0; w < Width; ++w) rest -= factors[r][w] * load(directions + w * n + i);
            store<double>(rows + r * n + i, rest);
        }
}

template <int Rows>
inline void project_all(int n, int count, const double* directions, double* rows, double* products, int stride) {
    int j = 0;
    for (; j + 4 <= count; j += 4) project<Rows, 4>(n, directions + static_cast<std::ptrdiff_t>(j) * n, rows, products + j, stride);
    for (; j < count; ++j) project<Rows, 1>(n, directions + static_cast<std::ptrdiff_t>(j) * n, rows, products + j, stride);
}

inline double length_of(int n, const double* row) {
    Vec<double> sum{};
    for (int i = 0; i < n; i += lanes<double>) sum += load(row + i) * load(row + i);
    return __builtin_sqrt(sum_lanes<double>(sum));
}

// weight (height, width) row-major. Writes R transposed to `seeds` (rank, seed_stride), every column up to the stride, and
// Q transposed to `basis` (rank, width), with rank = min(width, height). A row that depends on those before it, zero
// included, adds no direction: where the rows run out, the last rows of both are zero, which leaves R Q^T = W.
template <class T>
void rotate(int height, int width, const T* weight, T* seeds, int seed_stride, T* basis, Arena arena) {
    const int rank = width < height ? width : height;
    const RotationScratch scratch(height, width, arena);
    const int n = scratch.columns;
    __builtin_memset(seeds, 0, sizeof(T) * rank * seed_stride);

    int found = 0;
    for (int first = 0; first < height; first += rotation_block) {
        const int count = height - first < rotation_block ? height - first : rotation_block;
        double lengths[rotation_block];
        for (int r = 0; r < count; ++r) {
            double* row = scratch.rows + r * n;
            const T* source = weight + static_cast<std::ptrdiff_t>(first + r) * width;
            for (int i = 0; i < width; ++i) row[i] = static_cast<double>(source[i]);
            for (int i = width; i < n; ++i) row[i] = 0;
            lengths[r] = length_of(n, row);
        }
        __builtin_memset(scratch.products, 0, sizeof(double) * rotation_block * rank);
        const int before = found;
        if (count == rotation_block) project_all<rotation_block>(n, before, scratch.directions, scratch.rows, scratch.products, rank);

        for (int r = 0; r < count; ++r) {
            double* row = scratch.rows + r * n;
            double* products = scratch.products + r * rank;
            const int projected = count == rotation_block ? before : 0;
            project_all<1>(n, found - projected, scratch.directions + static_cast<std::ptrdiff_t>(projected) * n, row, products + projected, rank);
            double rest = length_of(n, row);
            // What is left of a row that nearly vanishes isn't orthogonal to the directions: a second pass mends that. Where
            // no direction is wanted any more, nothing is done with what is left.
            for (double previous = lengths[r]; found < rank && rest > 0 && rest < 0.1 * previous;) {
                previous = rest;
                project_all<1>(n, found, scratch.directions, row, products, rank);
                rest = length_of(n, row);
            }
            const bool independent = found < rank && rest > 4 * DBL_EPSILON * width * lengths[r];
            for (int j = 0; j < found; ++j) seeds[static_cast<std::ptrdiff_t>(j) * seed_stride + first + r] = static_cast<T>(products[j]);
            if (!independent) continue;
            double* direction = scratch.directions + static_cast<std::ptrdiff_t>(found) * n;
            for (int i = 0; i < n; ++i) direction[i] = row[i] / rest;
            seeds[static_cast<std::ptrdiff_t>(found) * seed_stride + first + r] = static_cast<T>(rest);
            ++found;
        }
    }
    for (int j = 0; j < rank; ++j)
        for (std::ptrdiff_t i = 0; i < width; ++i)
            basis[j * static_cast<std::ptrdiff_t>(width) + i] =
                j < found ? static_cast<T>(scratch.directions[j * static_cast<std::ptrdiff_t>(n) + i]) : T(0);
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
