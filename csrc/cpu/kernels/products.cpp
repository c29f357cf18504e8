// Compiled once per instruction set: products.
#include "cpu/kernels/products.hpp"

#include "cpu/kernels/product_block.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {
template <class T>
void multiply_panels(int rows, Rows<const T> left, const Panels<T>& panels, Rows<T> out, Rows<const T> start, Scaled<T> scaled) {
    for (int from = 0; from < panels.depth; from += panel_part<T>) {
        const bool last = panels.depth - from <= panel_part<T>;
        const Rows<const T> sums = from == 0 ? start : out;
        for_blocks<T>(
            rows, left, panels, from, last ? panels.depth : from + panel_part<T>,
            [&](auto& block, int row, int column) { sums.data != nullptr ? block.load_from(sums.row(row) + column, sums.stride) : block.clear(); },
            [&](auto& block, int row, int column) {
                block.store_to(out.row(row) + column, out.stride);
                if (last && scaled.target.data != nullptr)
                    block.store_scaled(scaled.factor.row(row) + column, scaled.factor.stride, scaled.target.row(row) + column, scaled.target.stride);
            });
    }
}

template <class T>
void multiply_part(int rows, Rows<const T> left, const Panels<T>& panels, int from, int to, Rows<T> out, bool add) {
    for_blocks<T>(
        rows, left, panels, from, to, [](auto& block, int, int) { block.clear(); },
        [&](auto& block, int row, int column) {
            add ? block.add_to(out.row(row) + column, out.stride) : block.store_to(out.row(row) + column, out.stride);
        });
}

template <class T>
void accumulate_product(int rows, int steps, int columns, Rows<const T> left, Rows<const T> right, Rows<T> out, int directions) {
    for_columns<T>(columns, [&](int column, auto vecs, int, int) {
        for_rows(rows, [&](int row, auto height) {
            constexpr int Height = decltype(height)::value;
            Block<T, Height, decltype(vecs)::value> block;
            block.clear();
            if (row + Height > directions)
                block.template multiply<true>(steps, left.data + row, left.stride, right.data + column, right.stride);
            else  // only the first row + Height steps of a group reach these columns of `left`, the last few of them not all
                for (int first = 0; first < steps; first += directions) {
                    block.template multiply<true>(row, left.row(first) + row, left.stride, right.row(first) + column, right.stride);
                    block.template multiply_triangle<true>(left.row(first + row) + row, left.stride, right.row(first + row) + column, right.stride);
                }
            block.add_to(out.row(row) + column, out.stride);
        });
    });
}

#define FASTFLOW_INSTANTIATE(T)                                                                                \
    template void multiply_panels<T>(int, Rows<const T>, const Panels<T>&, Rows<T>, Rows<const T>, Scaled<T>); \
    template void multiply_part<T>(int, Rows<const T>, const Panels<T>&, int, int, Rows<T>, bool);             \
    template void accumulate_product<T>(int, int, int, Rows<const T>, Rows<const T>, Rows<T>, int);
FASTFLOW_INSTANTIATE(float)
FASTFLOW_INSTANTIATE(double)
#undef FASTFLOW_INSTANTIATE

}  // namespace fastflow::cpu::FASTFLOW_ISA
