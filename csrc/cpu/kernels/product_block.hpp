// The register-blocked kernel. A block is `Height` x `Vecs` vectors of accumulators; each step broadcasts one element per row of
// the left operand against a row of the right one. The left operand is read as it lies, by rows or transposed; the right one
// is a packed panel or a matrix. What happens to a finished block is the caller's: a lambda gets the accumulators.
#pragma once

#include "cpu/kernels/products.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <int N>
struct Const {
    static constexpr int value = N;
};

// Calls f(Const<n>) for 1 <= n <= block_rows.
template <class F>
inline __attribute__((always_inline)) void with_rows(int n, F f) {
    switch (n) {
        case 1: return f(Const<1>{});
        case 2: return f(Const<2>{});
        case 3: return f(Const<3>{});
        case 4: return f(Const<4>{});
        case 5: return f(Const<5>{});
        default: return f(Const<6>{});
    }
}

// Covers `columns` (a multiple of the lanes) with f(first column, Const<vecs>, panel's first column, panel's columns).
template <class T, class F>
inline __attribute__((always_inline)) void for_columns(int columns, F f) {
    for (int panel = 0; panel < columns; panel += panel_columns<T>) {
        const int width = columns - panel < panel_columns<T> ? columns - panel : panel_columns<T>;
        int column = 0;
        for (; panel_vecs == 4 && column + 4 * lanes<T> <= width; column += 4 * lanes<T>) f(panel + column, Const<panel_vecs>{}, panel, width);
        for (; column + 2 * lanes<T> <= width; column += 2 * lanes<T>) f(panel + column, Const<2>{}, panel, width);
        for (; column < width; column += lanes<T>) f(panel + column, Const<1>{}, panel, width);
    }
}

// Covers `rows` with blocks of nearly equal height: f(first row, Const<height>).
template <class F>
inline __attribute__((always_inline)) void for_rows(int rows, F f) {
    const int blocks = (rows + block_rows - 1) / block_rows;
    for (int block = 0, row = 0; block < blocks; ++block) {
        const int height = (rows - row + blocks - block - 1) / (blocks - block);
        with_rows(height, [&](auto n) { f(row, n); });
        row += height;
    }
}

template <class T, int Height, int Vecs>
struct Block {
    Vec<T> acc[Height][Vecs];

    template <class F>
    inline __attribute__((always_inline)) void fill(F f) {
#pragma GCC unroll 6
        for (int i = 0; i < Height; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) acc[i][v] = f(i, v * lanes<T>);
    }

    // acc += left * right over `steps`. Transposed: element (row, step) of the left operand lies at step * stride + row.
    template <bool Transposed>
    inline __attribute__((always_inline)) void multiply(int steps, const T* left, std::ptrdiff_t left_stride, const T* right,
                                                        std::ptrdiff_t right_stride) {
        for (int step = 0; step < steps; ++step, right += right_stride) {
            Vec<T> r[Vecs];
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) r[v] = load(right + v * lanes<T>);
#pragma GCC unroll 6
            for (int i = 0; i < Height; ++i) {
                const Vec<T> l = broadcast(Transposed ? left[step * left_stride + i] : left[i * left_stride + step]);
#pragma GCC unroll 4
                for (int v = 0; v < Vecs; ++v) acc[i][v] += l * r[v];
            }
        }
    }

    // The first `Height` steps of `multiply` where row i of the left operand is zero before step i; and, transposed, the last
    // ones where it is zero after step i.
    template <bool Transposed>
    inline __attribute__((always_inline)) void multiply_triangle(const T* left, std::ptrdiff_t left_stride, const T* right,
                                                                 std::ptrdiff_t right_stride) {
#pragma GCC unroll 6
        for (int step = 0; step < Height; ++step, right += right_stride) {
            Vec<T> r[Vecs];
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) r[v] = load(right + v * lanes<T>);
#pragma GCC unroll 6
            for (int i = 0; i < Height; ++i) {
                if (Transposed ? i < step : i > step) continue;
                const Vec<T> l = broadcast(Transposed ? left[step * left_stride + i] : left[i * left_stride + step]);
#pragma GCC unroll 4
                for (int v = 0; v < Vecs; ++v) acc[i][v] += l * r[v];
            }
        }
    }

    template <class F>
    inline __attribute__((always_inline)) void drain(F f) const {
#pragma GCC unroll 6
        for (int i = 0; i < Height; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) f(i, v * lanes<T>, acc[i][v]);
    }

    // finish(column, sum over the rows of term(row, column, accumulator))
    template <class Term, class Finish>
    inline __attribute__((always_inline)) void sum_rows(Term term, Finish finish) const {
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) {
            Vec<T> sum{};
#pragma GCC unroll 6
            for (int i = 0; i < Height; ++i) sum += term(i, v * lanes<T>, acc[i][v]);
            finish(v * lanes<T>, sum);
        }
    }

    inline __attribute__((always_inline)) void clear() {
        fill([](int, int) { return Vec<T>{}; });
    }

    inline __attribute__((always_inline)) void load_from(const T* source, std::ptrdiff_t stride) {
        fill([&](int i, int c) { return load(source + i * stride + c); });
    }

    inline __attribute__((always_inline)) void store_to(T* target, std::ptrdiff_t stride) const {
        drain([&](int i, int c, Vec<T> v) { store<T>(target + i * stride + c, v); });
    }

    inline __attribute__((always_inline)) void store_scaled(const T* factor, std::ptrdiff_t factor_stride, T* target, std::ptrdiff_t stride) const {
        drain([&](int i, int c, Vec<T> v) { store<T>(target + i * stride + c, load(factor + i * factor_stride + c) * v); });
    }

    inline __attribute__((always_inline)) void add_to(T* target, std::ptrdiff_t stride) const {
        drain([&](int i, int c, Vec<T> v) { store<T>(target + i * stride + c, load(target + i * stride + c) + v); });
    }
};

// Steps [from, to) of left * panels: calls begin(block, row, column) for each block of sums and end(block, row, column) when
// they are complete.
template <class T, class Begin, class End>
inline __attribute__((always_inline)) void for_blocks(int rows, Rows<const T> left, const Panels<T>& panels, int from, int to, Begin begin, End end) {
    for_columns<T>(padded<T>(panels.columns), [&](int column, auto vecs, int panel, int width) {
        const T* right = panels.at(panel, column) + static_cast<std::ptrdiff_t>(from) * width;
        for_rows(rows, [&](int row, auto height) {
            Block<T, decltype(height)::value, decltype(vecs)::value> block;
            begin(block, row, column);
            block.template multiply<false>(to - from, left.row(row) + from, left.stride, right, width);
            end(block, row, column);
        });
    });
}

// A panel's part of so many rows stays in the first-level cache while the rows of the left operand pass by.
template <class T>
constexpr int panel_part = 32768 / (panel_columns<T> * sizeof(T));

// multiply_panels with sums that begin with start(row, column), a vector. Which of two products in `start` and a sum become
// one rounding is the compiler's choice; it depends on how this is written, and with it the last bits of a result.
template <class T, class Start, class Finish>
void multiply_in_parts(int rows, const T* left, int left_stride, const Panels<T>& panels, Start start, Finish finish) {
    for (int from = 0; from < panels.depth; from += panel_part<T>) {
        const int to = panels.depth - from < panel_part<T> ? panels.depth : from + panel_part<T>;
        for_columns<T>(padded<T>(panels.columns), [&](int column, auto vecs, int panel, int width) {
            const T* right = panels.at(panel, column) + static_cast<std::ptrdiff_t>(from) * width;
            for_rows(rows, [&](int row, auto height) {
                Block<T, decltype(height)::value, decltype(vecs)::value> block;
                block.fill([&](int i, int c) { return start(row + i, column + c, from); });
                block.template multiply<false>(to - from, left + static_cast<std::ptrdiff_t>(row) * left_stride + from, left_stride, right, width);
                block.drain([&](int i, int c, Vec<T> v) { finish(row + i, column + c, v); });
            });
        });
    }
}

template <class T, class Start>
void multiply_panels_from(int rows, const T* left, int left_stride, const Panels<T>& panels, T* out, int out_stride, Start start) {
    const auto target = [&](int row, int column) { return out + static_cast<std::ptrdiff_t>(row) * out_stride + column; };
    multiply_in_parts(
        rows, left, left_stride, panels, [&](int row, int column, int from) { return from == 0 ? start(row, column) : load(target(row, column)); },
        [&](int row, int column, Vec<T> v) { store<T>(target(row, column), v); });
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
