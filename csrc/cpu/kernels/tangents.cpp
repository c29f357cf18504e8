// Compiled once per instruction set: the tangents' passes.
#include "cpu/kernels/tangents.hpp"

#include "cpu/kernels/product_block.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
Tangents<T>::Tangents(Tile<T>& tile_, Arena& arena)
    : tile(tile_), potential(tile_.potential), depth(tile_.depth), num_directions(tile_.potential.num_directions) {
    group = choose_group();
    for (int l = 1; l <= depth && depth > 1 && num_directions > 0; ++l) {
        const std::size_t size = static_cast<std::size_t>(group) * num_directions * tile.layers[l].stride;
        tangents[l] = l > 1 ? arena.take<T>(size) : nullptr;
        scaled_tangents[l] = l < depth ? arena.take<T>(size) : nullptr;
    }
}

template <class T>
void Tangents<T>::forward(int from, int count, bool keep) {
    scale_seeds(from, count);
    for (int l = 2; l <= depth; ++l) forward_layer(l, from, count, keep);
    for (int i = from; i < from + count; ++i) {
        Vec<T> sum{};
        for (int l = 2; l <= depth; ++l) {
            const Layer<T>& layer = tile.layers[l];
            for (int c = 0; c < layer.columns; c += lanes<T>)
                sum += load(tile.delta(l, i) + c) * load(layer.sigma2 + tile.at(i, layer.stride) + c) * load(tile.norms(l, i) + c);
        }
        tile.laplacian_v[i] += sum_lanes<T>(sum);
    }
}

template <class T>
void Tangents<T>::backward(int from, int count, Accumulators<T>& accumulators) {
    backward_last(from, count);
    for (int l = depth; l >= 2; --l) {
        // W_bar_l += X_bar_l (diag(sigma'(a_{l-1})) X_{l-1})^T, transposed.
        accumulate_product<T>(tile.layers[l - 1].width, count * num_directions, tile.layers[l].columns, scaled_tangent_rows(l - 1), tangent_rows(l),
                              {accumulators.weight[l], tile.layers[l].stride}, l == 2 && potential.triangular ? num_directions : 0);
        backward_layer(l, from, count, accumulators);
    }
}

// As many as keep the rows of one layer in the first-level cache, and at least one.
template <class T>
int Tangents<T>::choose_group() const {
    constexpr int rows = 48;
    const int fit = num_directions > 0 ? rows / num_directions : tile.capacity;
    return fit < 1 ? 1 : fit < tile.capacity ? fit : tile.capacity;
}

template <class T>
void Tangents<T>::scale_seeds(int from, int count) {
    const Layer<T>& layer = tile.layers[1];
    for (int i = 0; i < count; ++i) {
        const T* sigma1 = layer.sigma1 + tile.at(from + i, layer.stride);
        for (int c = 0; c < layer.columns; c += lanes<T>) {
            // Rows whose diagonal lies beyond these columns by more than a block's height aren't read here.
            const int reach = c + lanes<T> + block_rows;
            const int rows = potential.triangular && reach < num_directions ? reach : num_directions;
            const Vec<T> scale = load(sigma1 + c);
            const T* seed = potential.seeds + c;
            T* target = scaled_tangents[1] + at(i, layer.stride) + c;
#pragma GCC unroll 4
            for (int j = 0; j < rows; ++j, seed += layer.stride, target += layer.stride) store<T>(target, scale * load(seed));
        }
    }
}

template <class T>
void Tangents<T>::forward_layer(int l, int from, int count, bool keep) {
    Layer<T>& layer = tile.layers[l];
    const Layer<T>& below = tile.layers[l - 1];
    const Panels<T>& panels = potential.up[l];
    for_columns<T>(layer.columns, [&](int column, auto vecs, int panel, int width) {
        const T* right = panels.at(panel, column);
        for (int i = 0; i < count; ++i) {
            const T* left = scaled_tangents[l - 1] + at(i, below.stride);
            const T* sigma1 = layer.sigma1 + tile.at(from + i, layer.stride) + column;
            T* norms = layer.norms + tile.at(from + i, layer.stride) + column;
            for_rows(num_directions, [&](int row, auto height) {
                constexpr int Height = decltype(height)::value;
                Block<T, Height, decltype(vecs)::value> block;
                const T* left_row = left + tile.at(row, below.stride);
                int start = 0;
                block.clear();
                if (l == 2 && potential.triangular) {  // rows j of X_1^T are zero before column j
                    block.template multiply_triangle<false>(left_row + row, below.stride, right + static_cast<std::ptrdiff_t>(row) * width, width);
                    start = row + Height;
                }
                block.template multiply<false>(below.width - start, left_row + start, below.stride,
                                               right + static_cast<std::ptrdiff_t>(start) * width, width);
                block.sum_rows([](int, int, Vec<T> x) { return x * x; },
                               [&](int c, Vec<T> sum) { store<T>(norms + c, row == 0 ? sum : load(norms + c) + sum); });
                const std::ptrdiff_t e = at(i, layer.stride) + tile.at(row, layer.stride) + column;
                if (keep) block.store_to(tangents[l] + e, layer.stride);
                if (l < depth) block.store_scaled(sigma1, 0, scaled_tangents[l] + e, layer.stride);
            });
        }
    });
}

// X_bar_L = 2 s_bar_L X_L, in place.
template <class T>
void Tangents<T>::backward_last(int from, int count) {
    const Layer<T>& layer = tile.layers[depth];
    for (int i = 0; i < count; ++i)
        for (int c = 0; c < layer.columns; c += lanes<T>) {
            const Vec<T> weight = doubled_norm_bar(depth, from + i, c);
            for (int j = 0; j < num_directions; ++j) {
                T* x = tangents[depth] + at(i, layer.stride) + tile.at(j, layer.stride) + c;
                store<T>(x, weight * load(x));
            }
        }
}

// 2 s_bar_l = 2 laplacian_v_bar delta_l sigma''(a_l)
template <class T>
Vec<T> Tangents<T>::doubled_norm_bar(int l, int row, int column) const {
    const Layer<T>& layer = tile.layers[l];
    return T(2) * tile.laplacian_v_bar[row] * load(tile.delta(l, row) + column) * load(layer.sigma2 + tile.at(row, layer.stride) + column);
}

// With Y = W_l^T X_bar_l: a_bar_{l-1} = sigma''(a_{l-1}) rowsum(Y X_{l-1}) and X_bar_{l-1} = 2 s_bar_{l-1} X_{l-1} + diag(sigma'(a_{l-1})) Y,
// in place. At layer 1, X_1 is the same for all samples and diag(sigma'(a_1)) Y is summed over them.
template <class T>
void Tangents<T>::backward_layer(int l, int from, int count, Accumulators<T>& accumulators) {
    const Layer<T>& layer = tile.layers[l];
    const Layer<T>& below = tile.layers[l - 1];
    const Panels<T>& panels = potential.down[l];
    const bool seeds = l == 2;
    for_columns<T>(below.columns, [&](int column, auto vecs, int panel, int width) {
        for (int i = 0; i < count; ++i) {
            const std::ptrdiff_t sample = tile.at(from + i, below.stride) + column;
            const T *sigma1 = below.sigma1 + sample, *sigma2 = below.sigma2 + sample;
            T* a_bar = tile.a_bar(l - 1) + sample;
            for_rows(num_directions, [&](int row, auto height) {
                Block<T, decltype(height)::value, decltype(vecs)::value> block;
                block.clear();
                block.template multiply<false>(layer.width, tangents[l] + at(i, layer.stride) + tile.at(row, layer.stride), layer.stride,
                                               panels.at(panel, column), width);
                const std::ptrdiff_t e = tile.at(row, below.stride) + column;
                const T* x = seeds ? potential.seeds + e : tangents[l - 1] + at(i, below.stride) + e;
                block.sum_rows([&](int r, int c, Vec<T> y) { return y * load(x + tile.at(r, below.stride) + c); },
                               [&](int c, Vec<T> sum) {
                                   const Vec<T> share = rounded<T>(load(sigma2 + c) * sum);
                                   store<T>(a_bar + c, row == 0 ? share : load(a_bar + c) + share);
                               });
                T* x_bar = (seeds ? accumulators.seeds : tangents[l - 1] + at(i, below.stride)) + e;
                if (seeds)
                    block.drain([&](int r, int c, Vec<T> y) {
                        T* target = x_bar + tile.at(r, below.stride) + c;
                        store<T>(target, load(target) + load(sigma1 + c) * y);
                    });
                else
                    block.drain([&](int r, int c, Vec<T> y) {
                        T* target = x_bar + tile.at(r, below.stride) + c;
                        store<T>(target, doubled_norm_bar(l - 1, from + i, column + c) * load(target) + load(sigma1 + c) * y);
                    });
            });
        }
    });
}

template struct Tangents<float>;
template struct Tangents<double>;

}  // namespace fastflow::cpu::FASTFLOW_ISA
