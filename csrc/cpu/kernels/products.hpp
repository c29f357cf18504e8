// Products of row-major matrices with packed panels, and of transposed ones with plain matrices.
#pragma once

#include "cpu/kernels/simd.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// 6 x 4 accumulators, 4 vectors of the right operand and a broadcast fill 32 registers; 6 x 2 those of the smaller sets.
constexpr int block_rows = 6;
constexpr int panel_vecs = vector_registers == 32 ? 4 : 2;
template <class T>
constexpr int panel_columns = panel_vecs * lanes<T>;

// Rows of a matrix that start `stride` elements apart; with a stride of 0 every row is the same one.
template <class T>
struct Rows {
    T* data = nullptr;
    int stride = 0;

    T* row(int i) const { return data + static_cast<std::ptrdiff_t>(i) * stride; }
    operator Rows<const T>() const { return {data, stride}; }
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
                    for (int i = 0; i < lanes<T>; ++i)
                        panel[static_cast<std::ptrdiff_t>(row) * width + column + i] = i < left ? from[i * stride + row] : T(0);
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

// What else becomes of a product: target = factor * product, element by element. Nothing without a target.
template <class T>
struct Scaled {
    Rows<const T> factor;
    Rows<T> target;
};

// out (rows, panels.columns) = start + left (rows, panels.depth) * panels; `start` without data is zero, and may be `out`.
template <class T>
void multiply_panels(int rows, Rows<const T> left, const Panels<T>& panels, Rows<T> out, Rows<const T> start = {}, Scaled<T> scaled = {});

// out = left * panels for steps [from, to) of the panels' depth alone; with `add`, out += that.
template <class T>
void multiply_part(int rows, Rows<const T> left, const Panels<T>& panels, int from, int to, Rows<T> out, bool add);

// For what must be more exact than long sums are: how many steps to add up at a time.
constexpr int short_sum = 16;

// out (rows, columns) += left^T right, with left (steps, rows) and right (steps, columns). Sums start at zero and are added
// when complete: long sums then round at the size of their parts. With `directions`, the steps are groups of so many, and in
// each of them column j of `left` is zero after step j.
template <class T>
void accumulate_product(int rows, int steps, int columns, Rows<const T> left, Rows<const T> right, Rows<T> out, int directions = 0);

}  // namespace fastflow::cpu::FASTFLOW_ISA
