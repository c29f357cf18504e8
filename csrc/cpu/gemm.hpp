// Register-blocked products. A block is `Rows` x `Vecs` vectors of accumulators; each step broadcasts one element per row
// of the left operand against a row of the right one. The left operand is read as it lies, by rows or transposed; the right
// one is a packed panel or a matrix. What happens to a finished block is the caller's: a lambda gets the accumulators.
#pragma once

#include "simd.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <int N>
struct Const {
    static constexpr int value = N;
};

// 6 x 4 accumulators, 4 vectors of the right operand and a broadcast fill 32 registers; 6 x 2 those of the smaller sets.
constexpr int block_rows = 6;
constexpr int panel_vecs = vector_registers == 32 ? 4 : 2;
template <class T>
constexpr int panel_columns = panel_vecs * lanes<T>;

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

template <class T, int Rows, int Vecs>
struct Block {
    Vec<T> acc[Rows][Vecs];

    template <class F>
    inline __attribute__((always_inline)) void fill(F f) {
#pragma GCC unroll 6
        for (int i = 0; i < Rows; ++i)
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
            for (int i = 0; i < Rows; ++i) {
                const Vec<T> l = broadcast(Transposed ? left[step * left_stride + i] : left[i * left_stride + step]);
#pragma GCC unroll 4
                for (int v = 0; v < Vecs; ++v) acc[i][v] += l * r[v];
            }
        }
    }

    // The first `Rows` steps of `multiply` where row i of the left operand is zero before step i; and, transposed, the last
    // ones where it is zero after step i.
    template <bool Transposed>
    inline __attribute__((always_inline)) void multiply_triangle(const T* left, std::ptrdiff_t left_stride, const T* right,
                                                                 std::ptrdiff_t right_stride) {
#pragma GCC unroll 6
        for (int step = 0; step < Rows; ++step, right += right_stride) {
            Vec<T> r[Vecs];
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) r[v] = load(right + v * lanes<T>);
#pragma GCC unroll 6
            for (int i = 0; i < Rows; ++i) {
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
        for (int i = 0; i < Rows; ++i)
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
            for (int i = 0; i < Rows; ++i) sum += term(i, v * lanes<T>, acc[i][v]);
            finish(v * lanes<T>, sum);
        }
    }

    inline __attribute__((always_inline)) void clear() {
        fill([](int, int) { return Vec<T>{}; });
    }

    inline __attribute__((always_inline)) void add_to(T* target, std::ptrdiff_t stride) const {
        drain([&](int i, int c, Vec<T> v) { store<T>(target + i * stride + c, load(target + i * stride + c) + v); });
    }
};

// A matrix (depth, columns) packed as panels of up to panel_columns<T> columns, each contiguous and zero-padded to whole
// vectors: panel by panel, row by row. Its size in elements is depth * padded<T>(columns).
template <class T>
struct Panels {
    T* data;
    int depth, columns;

    const T* at(int panel, int column) const { return data + static_cast<std::ptrdiff_t>(depth) * panel + (column - panel); }

    // From (depth, columns) with rows `stride` apart.
    void pack(const T* source, std::ptrdiff_t stride) {
        for_panels([&](T* panel, int first, int width, int used) {
            for (int row = 0; row < depth; ++row, panel += width) {
                const T* from = source + row * stride + first;
                for (int column = 0; column < used; ++column) panel[column] = from[column];
                for (int column = used; column < width; ++column) panel[column] = T(0);
            }
        });
    }

    // From the transpose, (columns, depth) with rows `stride` apart.
    void pack_transposed(const T* source, std::ptrdiff_t stride) {
        for_panels([&](T* panel, int first, int width, int used) {
            for (int column = 0; column < width; column += lanes<T>) {
                const T* from = source + (first + column) * stride;
                const int left = used - column;  // of the source's rows
                int row = 0;
                for (; row + lanes<T> <= depth; row += lanes<T>) {
                    Vec<T> square[lanes<T>];
#pragma GCC unroll 16
                    for (int i = 0; i < lanes<T>; ++i) square[i] = i < left ? load(from + i * stride + row) : Vec<T>{};
                    transpose<T>(square);
#pragma GCC unroll 16
                    for (int i = 0; i < lanes<T>; ++i) store<T>(panel + static_cast<std::ptrdiff_t>(row + i) * width + column, square[i]);
                }
                for (; row < depth; ++row)
                    for (int i = 0; i < lanes<T>; ++i) panel[static_cast<std::ptrdiff_t>(row) * width + column + i] = i < left ? from[i * stride + row] : T(0);
            }
        });
    }

   private:
    // f(panel, its first column, its width, how many columns of it are no padding)
    template <class F>
    void for_panels(F f) {
        const int total = padded<T>(columns);
        for (int first = 0; first < total; first += panel_columns<T>) {
            const int width = total - first < panel_columns<T> ? total - first : panel_columns<T>;
            f(data + static_cast<std::ptrdiff_t>(depth) * first, first, width, columns - first < width ? columns - first : width);
        }
    }
};

template <class T>
constexpr auto no_start = [](int, int) { return Vec<T>{}; };

// left (rows, panels.depth) * panels, the depth cut into parts of `cut`. Of each part [from, to), start(row, column, from) gives
// the vectors that its sums begin with, and finish(row, column, to, v) takes those sums.
template <class T, class Start, class Finish>
void multiply_in_parts(int rows, const T* left, int left_stride, const Panels<T>& panels, int cut, Start start, Finish finish) {
    for (int from = 0; from < panels.depth; from += cut) {
        const int to = panels.depth - from < cut ? panels.depth : from + cut;
        for_columns<T>(padded<T>(panels.columns), [&](int column, auto vecs, int panel, int width) {
            const T* right = panels.at(panel, column) + static_cast<std::ptrdiff_t>(from) * width;
            for_rows(rows, [&](int row, auto height) {
                Block<T, decltype(height)::value, decltype(vecs)::value> block;
                block.fill([&](int i, int c) { return start(row + i, column + c, from); });
                block.template multiply<false>(to - from, left + static_cast<std::ptrdiff_t>(row) * left_stride + from, left_stride, right, width);
                block.drain([&](int i, int c, Vec<T> v) { finish(row + i, column + c, to, v); });
            });
        });
    }
}

// For what must be more exact than long sums are: left * panels in parts that round little, add(row, column, first, v) for each.
template <class T, class Add>
void multiply_in_short_sums(int rows, const T* left, int left_stride, const Panels<T>& panels, Add add) {
    constexpr int cut = 16;
    multiply_in_parts(
        rows, left, left_stride, panels, cut, [](int, int, int) { return Vec<T>{}; },
        [&](int row, int column, int to, Vec<T> v) { add(row, column, to <= cut, v); });
}

// out (rows, panels.columns) = start + left (rows, panels.depth) * panels. start(row, column) gives a vector, and
// finish(row, column, v) gets one of the result in place of `out`, which then only holds partial sums.
template <class T, class Start, class Finish>
void multiply_panels(int rows, const T* left, int left_stride, const Panels<T>& panels, T* out, int out_stride, Start start, Finish finish) {
    // A panel's part stays in the first-level cache while the rows pass by.
    constexpr int cut = 32768 / (panel_columns<T> * sizeof(T));
    const auto target = [&](int row, int column) { return out + static_cast<std::ptrdiff_t>(row) * out_stride + column; };
    multiply_in_parts(
        rows, left, left_stride, panels, cut,
        [&](int row, int column, int from) { return from == 0 ? start(row, column) : load(target(row, column)); },
        [&](int row, int column, int to, Vec<T> v) { to == panels.depth ? finish(row, column, v) : store<T>(target(row, column), v); });
}

template <class T, class Start>
void multiply_panels(int rows, const T* left, int left_stride, const Panels<T>& panels, T* out, int out_stride, Start start) {
    multiply_panels(rows, left, left_stride, panels, out, out_stride, start,
                    [&](int row, int column, Vec<T> v) { store<T>(out + static_cast<std::ptrdiff_t>(row) * out_stride + column, v); });
}

// out (rows, columns) += left^T right, with left (steps, rows) and right (steps, columns). Sums start at zero and are added
// when complete: long sums then round at the size of their parts.
template <class T>
void accumulate_product(int rows, int steps, int columns, const T* left, int left_stride, const T* right, int right_stride, T* out,
                        int out_stride) {
    for_columns<T>(columns, [&](int column, auto vecs, int, int) {
        for_rows(rows, [&](int row, auto height) {
            Block<T, decltype(height)::value, decltype(vecs)::value> block;
            block.clear();
            block.template multiply<true>(steps, left + row, left_stride, right + column, right_stride);
            block.add_to(out + static_cast<std::ptrdiff_t>(row) * out_stride + column, out_stride);
        });
    });
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
