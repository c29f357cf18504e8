// The tangents X_l = W_l diag(sigma'(a_{l-1})) X_{l-1} of a few samples at a time, one row per direction: forward to their
// squared norms s_l over the directions, backward from 2 sbar_l X_l to the weights and to sigma'.
#pragma once

#include "tile.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Tangents {
    Tile<T>& tile;
    const Potential<T>& potential;
    int depth, directions, group;    // group: samples at a time
    T* plain[max_depth + 1];         // X_l (group, r, stride); in the backward pass their cotangents take their place
    T* scaled[max_depth + 1];        // diag(sigma'(a_l)) X_l (group, r, stride)

    Tangents(Tile<T>& tile_, Arena& arena) : tile(tile_), potential(tile_.potential), depth(tile_.depth), directions(tile_.potential.directions) {
        group = choose_group();
        for (int l = 1; l <= depth && depth > 1 && directions > 0; ++l) {
            const std::size_t size = static_cast<std::size_t>(group) * directions * tile.levels[l].stride;
            plain[l] = l > 1 ? arena.take<T>(size) : nullptr;
            scaled[l] = l < depth ? arena.take<T>(size) : nullptr;
        }
    }

    // s_l and the Laplacian of samples [from, from + count). `Keep` keeps the tangents for the backward pass.
    template <bool Keep>
    void forward(int from, int count) {
        scale_seeds(from, count);
        for (int l = 2; l <= depth; ++l) propagate<Keep>(l, from, count);
        for (int i = from; i < from + count; ++i) {
            Vec<T> sum{};
            for (int l = 2; l <= depth; ++l) {
                const Level<T>& level = tile.levels[l];
                for (int c = 0; c < level.columns; c += lanes<T>)
                    sum += load(tile.delta(l, i) + c) * load(level.second + tile.at(i, level.stride) + c) * load(tile.norms(l, i) + c);
            }
            tile.laplacian[i] += sum_lanes<T>(sum);
        }
    }

    // From laplacian_bar of the same samples: adds to the accumulators and writes the tangents' share of abar_l, l < depth.
    void backward(int from, int count, Accumulators<T>& accumulators) {
        weigh_last(from, count);
        for (int l = depth; l >= 2; --l) {
            weight_gradient(l, count, accumulators);
            l > 2 ? pull_back(l, from, count) : pull_back_seeds(from, count, accumulators);
        }
    }

   private:
    // As many as keep the rows of one layer in the first-level cache, and at least one.
    int choose_group() const {
        constexpr int rows = 48;
        const int fit = directions > 0 ? rows / directions : tile.capacity;
        return fit < 1 ? 1 : fit < tile.capacity ? fit : tile.capacity;
    }

    std::ptrdiff_t at(int sample, int stride) const { return static_cast<std::ptrdiff_t>(sample) * directions * stride; }

    void scale_seeds(int from, int count) {
        const Level<T>& level = tile.levels[1];
        for (int i = 0; i < count; ++i) {
            const T* first = level.first + tile.at(from + i, level.stride);
            for (int c = 0; c < level.columns; c += lanes<T>) {
                // Rows whose diagonal lies beyond these columns by more than a block's height aren't read here.
                const int reach = c + lanes<T> + block_rows;
                const int rows = potential.triangular && reach < directions ? reach : directions;
                const Vec<T> slope = load(first + c);
                const T* seed = potential.seeds + c;
                T* target = scaled[1] + at(i, level.stride) + c;
#pragma GCC unroll 4
                for (int j = 0; j < rows; ++j, seed += level.stride, target += level.stride) store<T>(target, slope * load(seed));
            }
        }
    }

    template <bool Keep>
    void propagate(int l, int from, int count) {
        Level<T>& level = tile.levels[l];
        const Level<T>& below = tile.levels[l - 1];
        const Panels<T>& panels = potential.up[l];
        for_columns<T>(level.columns, [&](int column, auto vecs, int panel, int width) {
            constexpr int Vecs = decltype(vecs)::value;
            for (int i = 0; i < count; ++i) {
                const T* left = scaled[l - 1] + at(i, below.stride);
                const T* first = level.first + tile.at(from + i, level.stride) + column;
                T* norms = level.norms + tile.at(from + i, level.stride) + column;
                for_rows(directions, [&](int row, auto height) {
                    Block<T, decltype(height)::value, Vecs> block;
                    constexpr int Rows = decltype(height)::value;
                    const T* l_row = left + tile.at(row, below.stride);
                    const T* right = panels.at(panel, column);
                    int start = 0;
                    block.clear();
                    if (l == 2 && potential.triangular) {  // rows j of X_1^T are zero before column j
                        block.template multiply_triangle<false>(l_row + row, below.stride, right + static_cast<std::ptrdiff_t>(row) * width, width);
                        start = row + Rows;
                    }
                    block.template multiply<false>(below.width - start, l_row + start, below.stride,
                                                   right + static_cast<std::ptrdiff_t>(start) * width, width);
                    block.sum_rows([](int, int, Vec<T> x) { return x * x; },
                                   [&](int c, Vec<T> sum) { store<T>(norms + c, row == 0 ? sum : load(norms + c) + sum); });
                    if (!Keep && l == depth) return;
                    block.drain([&](int r, int c, Vec<T> x) {
                        const std::ptrdiff_t e = at(i, level.stride) + tile.at(row + r, level.stride) + column + c;
                        if (Keep) store<T>(plain[l] + e, x);
                        if (l < depth) store<T>(scaled[l] + e, x * load(first + c));
                    });
                });
            }
        });
    }

    // Xbar_L = 2 sbar_L X_L, in place.
    void weigh_last(int from, int count) {
        const Level<T>& level = tile.levels[depth];
        for (int i = 0; i < count; ++i)
            for (int c = 0; c < level.columns; c += lanes<T>) {
                const Vec<T> weight = doubled_norm_bar(depth, from + i, c);
                for (int j = 0; j < directions; ++j) {
                    T* x = plain[depth] + at(i, level.stride) + tile.at(j, level.stride) + c;
                    store<T>(x, weight * load(x));
                }
            }
    }

    // 2 sbar_l = 2 lapbar delta_l sigma''(a_l)
    Vec<T> doubled_norm_bar(int l, int row, int column) const {
        const Level<T>& level = tile.levels[l];
        return T(2) * tile.laplacian_bar[row] * load(tile.delta(l, row) + column) * load(level.second + tile.at(row, level.stride) + column);
    }

    // Wbar_l += Xbar_l (diag(sigma'(a_{l-1})) X_{l-1})^T, transposed.
    void weight_gradient(int l, int count, Accumulators<T>& accumulators) {
        const Level<T>& level = tile.levels[l];
        const Level<T>& below = tile.levels[l - 1];
        if (l > 2 || !potential.triangular)
            return accumulate_product<T>(below.width, count * directions, level.columns, scaled[l - 1], below.stride, plain[l], level.stride,
                                               accumulators.weight[l], level.stride);
        for_columns<T>(level.columns, [&](int column, auto vecs, int, int) {
            for_rows(below.width, [&](int row, auto height) {
                constexpr int Rows = decltype(height)::value;
                Block<T, Rows, decltype(vecs)::value> block;
                const T* left = scaled[l - 1] + row;
                const T* right = plain[l] + column;
                block.clear();
                if (row + Rows > directions)
                    block.template multiply<true>(count * directions, left, below.stride, right, level.stride);
                else  // only the first row + Rows directions reach these columns of X_1^T, the last few of them not all
                    for (int i = 0; i < count; ++i, left += at(1, below.stride), right += at(1, level.stride)) {
                        block.template multiply<true>(row, left, below.stride, right, level.stride);
                        block.template multiply_triangle<true>(left + tile.at(row, below.stride), below.stride, right + tile.at(row, level.stride),
                                                               level.stride);
                    }
                block.add_to(accumulators.weight[l] + tile.at(row, level.stride) + column, level.stride);
            });
        });
    }

    // Calls finish(i, row, r, column, Y) for every vector of Y = W_l^T Xbar_l.
    template <class F>
    void multiply_down(int l, int count, F finish) {
        const Level<T>& level = tile.levels[l];
        const Panels<T>& panels = potential.down[l];
        for_columns<T>(tile.levels[l - 1].columns, [&](int column, auto vecs, int panel, int width) {
            for (int i = 0; i < count; ++i)
                for_rows(directions, [&](int row, auto height) {
                    Block<T, decltype(height)::value, decltype(vecs)::value> block;
                    block.clear();
                    block.template multiply<false>(level.width, plain[l] + at(i, level.stride) + tile.at(row, level.stride), level.stride,
                                                   panels.at(panel, column), width);
                    finish(i, row, column, block);
                });
        });
    }

    // abar_{l-1} = sigma''(a_{l-1}) rowsum(Y X_{l-1}) and Xbar_{l-1} = 2 sbar_{l-1} X_{l-1} + diag(sigma'(a_{l-1})) Y, in place.
    void pull_back(int l, int from, int count) {
        const Level<T>& below = tile.levels[l - 1];
        multiply_down(l, count, [&](int i, int row, int column, const auto& block) {
            const std::ptrdiff_t sample = tile.at(from + i, below.stride) + column;
            share_a_bar(l - 1, sample, row, block, [&](int r, int c) {
                return load(plain[l - 1] + at(i, below.stride) + tile.at(row + r, below.stride) + column + c);
            });
            block.drain([&](int r, int c, Vec<T> y) {
                T* x = plain[l - 1] + at(i, below.stride) + tile.at(row + r, below.stride) + column + c;
                store<T>(x, doubled_norm_bar(l - 1, from + i, column + c) * load(x) + load(below.first + sample + c) * y);
            });
        });
    }

    // The same at layer 1, where X_1 is the same for all samples and its gradient is summed over them.
    void pull_back_seeds(int from, int count, Accumulators<T>& accumulators) {
        const Level<T>& front = tile.levels[1];
        multiply_down(2, count, [&](int i, int row, int column, const auto& block) {
            const std::ptrdiff_t sample = tile.at(from + i, front.stride) + column;
            share_a_bar(1, sample, row, block, [&](int r, int c) { return load(potential.seeds + tile.at(row + r, front.stride) + column + c); });
            block.drain([&](int r, int c, Vec<T> y) {
                T* target = accumulators.seeds + tile.at(row + r, front.stride) + column + c;
                store<T>(target, load(target) + load(front.first + sample + c) * y);
            });
        });
    }

    template <class B, class F>
    void share_a_bar(int l, std::ptrdiff_t sample, int row, const B& block, F tangent) {
        T* a_bar = tile.a_bar(l) + sample;
        const T* second = tile.levels[l].second + sample;
        block.sum_rows([&](int r, int c, Vec<T> y) { return y * tangent(r, c); },
                       [&](int c, Vec<T> sum) {
                           const Vec<T> share = load(second + c) * sum;
                           store<T>(a_bar + c, row == 0 ? share : load(a_bar + c) + share);
                       });
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
