// A tile: some samples of one potential, with everything about them that doesn't depend on a direction. Forward: values up
// the layers, then the gradient chain delta down; backward: the walk up the chain and down the layers.
//
// The engine works on v = w_o . h_L + b_o, the potential before its output map: gamma = grad v, and the Laplacian and time
// derivatives of v. The output map is applied to these few numbers per sample (output_map.hpp).
#pragma once

#include "activations.hpp"
#include "gradient.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// Arrays of one layer, (n, stride) each unless said otherwise.
template <class T>
struct Level {
    int width, columns, stride;  // columns: width padded to whole vectors
    // Three stacked parts of n rows, so that each layer's weight gradient is a single product. Left of layer l + 1's:
    // sigma'(a_l) p_l, h_l, deltabar_l. Right of layer l's: pbar_l, abar_l, c_l.
    T *left, *right;
    T *first, *second, *third;  // sigma', sigma'', sigma''' at a_l
    T* delta;                   // at level 0: gamma; at the last level one row for all samples: w_o
    T* norms;                   // s_l; at level 1 one row for all samples
    T* tangent;                 // p_l
    T* bias;                    // beta, beta', beta'': (3, stride) per sample, or once for all
    int bias_step;              // from one sample's bias to the next one's: 0 when all share it
};

template <class T>
struct Tile {
    const Network<T>& net;
    const Potential<T>& potential;
    int depth, capacity, n = 0;
    bool curved, timed;  // whether this pass has a Laplacian, and derivatives with respect to time
    bool accelerated;    // whether the second of these is among them: it and every backward pass need the time tangents p_l
    Level<T> levels[max_depth + 1];
    // Per sample: v, |gamma|^2 (or its probed share), Laplacian, v_t, v_tt; then the cotangents of v, the Laplacian, v_t, v_tt.
    T *value, *square, *laplacian, *v_t, *v_tt;
    T *value_bar, *laplacian_bar, *v_t_bar, *v_tt_bar;
    T* z_bar;      // (n, stride of level 0)
    T* scratch;    // (2 n, largest stride)

    static constexpr int most_rows = 8 * block_rows;

    static int choose_capacity(const Network<T>& net) {
        std::size_t bytes = 0;
        for (int l = 0; l <= net.depth; ++l) bytes += sizeof(T) * row_stride<T>(net.width[l]) * (l == 0 ? 4 : 14);
        const int fit = static_cast<int>((256 * 1024) / bytes) / block_rows * block_rows;
        return fit < 2 * block_rows ? 2 * block_rows : fit > most_rows ? most_rows : fit;
    }

    Tile(const Network<T>& net_, const Potential<T>& potential_, Arena& arena)
        : net(net_), potential(potential_), depth(net_.depth), capacity(choose_capacity(net_)),
          curved(net_.laplacian != Laplacian::none), timed(net_.has_time),
          accelerated(timed) {
        const std::size_t rows = capacity;
        int widest = 0;
        for (int l = 0; l <= depth; ++l) {
            Level<T>& level = levels[l];
            level = {};
            level.width = net.width[l];
            level.columns = padded<T>(level.width);
            level.stride = row_stride<T>(level.width);
            widest = level.stride > widest ? level.stride : widest;
            const std::size_t size = rows * level.stride;
            level.left = arena.take<T>(3 * size);
            level.delta = l == depth ? potential.out_weight : arena.take<T>(size);
            if (l == 0) continue;
            level.right = arena.take<T>(3 * size);
            level.first = arena.take<T>(size);
            level.second = arena.take<T>(size);
            level.third = arena.take<T>(size);
            level.norms = l == 1 ? potential.seed_norms : arena.take<T>(size);
            level.tangent = arena.take<T>(size);
            level.bias = arena.take<T>(3 * size);
        }
        T** const scalars[] = {&value, &square, &laplacian, &v_t, &v_tt, &value_bar, &laplacian_bar, &v_t_bar, &v_tt_bar};
        for (T** scalar : scalars) *scalar = arena.take<T>(round_up(capacity, lanes<T>));
        z_bar = arena.take<T>(rows * levels[0].stride);
        scratch = arena.take<T>(2 * rows * widest);
    }

    static std::ptrdiff_t at(int row, int stride) { return static_cast<std::ptrdiff_t>(row) * stride; }
    T* outputs(int l) const { return levels[l].left + at(n, levels[l].stride); }               // h_l; z at level 0
    T* scaled_tangents(int l) const { return levels[l].left; }                                 // sigma'(a_l) p_l
    T* delta_bar(int l) const { return levels[l].left + at(2 * n, levels[l].stride); }         // at level 0: of gamma
    T* tangent_bar(int l) const { return levels[l].right; }
    T* a_bar(int l) const { return levels[l].right + at(n, levels[l].stride); }
    T* chain(int l) const { return levels[l].right + at(2 * n, levels[l].stride); }            // c_l = delta_l sigma'(a_l)
    const T* delta(int l, int row) const { return levels[l].delta + (l == depth ? 0 : at(row, levels[l].stride)); }
    const T* norms(int l, int row) const { return levels[l].norms + (l == 1 ? 0 : at(row, levels[l].stride)); }
    const T* bias(int l, int row, int order) const { return levels[l].bias + at(row, levels[l].bias_step) + at(order, levels[l].stride); }
    T* gamma() const { return levels[0].delta; }

    // z of the tile's samples: rows of (count, dim), the i-th at ids[i], or first + i without ids.
    void load_points(const T* z, const std::int64_t* ids, std::int64_t first) {
        const int dim = levels[0].width, columns = levels[0].columns;
        for (int i = 0; i < n; ++i) {
            const T* source = z + (ids != nullptr ? ids[i] : first + i) * dim;
            T* target = outputs(0) + at(i, levels[0].stride);
            __builtin_memcpy(target, source, sizeof(T) * dim);
            for (int j = dim; j < columns; ++j) target[j] = 0;
        }
    }

    // Bias jets of one slot for `rows` samples from `row` on. `step` as in Level.
    void load_bias(std::int64_t slot, int row, bool for_all) {
        for (int l = 1; l <= depth; ++l) {
            Level<T>& level = levels[l];
            level.bias_step = for_all ? 0 : 3 * level.stride;
            for (int order = 0; order < (timed ? 3 : 1); ++order) {
                const T* source = net.bias_jets[l] + (slot * 3 + order) * level.width;
                T* target = level.bias + at(row, level.bias_step) + at(order, level.stride);
                for (int j = 0; j < level.width; ++j) target[j] = source[j];
                for (int j = level.width; j < level.columns; ++j) target[j] = 0;
            }
        }
    }

    // Up: h_l, derivatives of sigma up to `Order`, p_l. Then down: c_l and delta_l, to gamma.
    template <int Order>
    void forward() {
        rise(1);
        rise_from_first<Order>();
        fall_to_first();
        multiply_panels(n, chain(1), levels[1].stride, potential.down[1], gamma(), levels[0].stride, no_start<T>);
        if constexpr (Order > 1) reduce_derivatives();  // which a flow alone has no use for
    }

    // Up from a_1 in outputs(1), to the value and c_L. The last layer's outputs and sigma' are kept for a second derivative only.
    template <int Order>
    void rise_from_first() {
        for (int l = 1; l < depth; ++l) {
            activate<T>(net.activation, n, levels[l].columns, levels[l].stride, outputs(l),
                        [&](int i, int c, const Derivatives<T>& d) { keep<Order>(l, i, c, d); });
            if (accelerated) forward_tangents(l);
            rise(l + 1);
        }
        const Level<T>& last = levels[depth];
        Vec<T> sums[most_rows] = {};
        activate<T>(net.activation, n, last.columns, last.stride, outputs(depth), [&](int i, int c, const Derivatives<T>& d) {
            const Vec<T> weight = load(last.delta + c);
            sums[i] += d.value * weight;
            store<T>(chain(depth) + at(i, last.stride) + c, d.first * weight);
            if constexpr (Order > 1) keep<Order>(depth, i, c, d);
        });
        if (accelerated) forward_tangents(depth);
        for (int i = 0; i < n; ++i) value[i] = *potential.out_bias + sum_lanes<T>(sums[i]);
    }

    // Down from c_L to c_1.
    void fall_to_first() {
        for (int l = depth - 1; l >= 1; --l) {
            const Level<T>& level = levels[l];
            multiply_panels(n, chain(l + 1), levels[l + 1].stride, potential.down[l + 1], level.delta, level.stride, no_start<T>,
                            [&](int i, int c, Vec<T> delta) {
                                const std::ptrdiff_t e = at(i, level.stride) + c;
                                store<T>(level.delta + e, delta);
                                store<T>(chain(l) + e, load(level.first + e) * delta);
                            });
        }
    }

    // From the cotangents of the samples' scalars and of gamma (in delta_bar(0), zero unless `has_gamma_bar`): adds to the
    // accumulators, unless null, and writes z_bar if it's wanted. Before it, the tangents have left their share of abar_l below the last layer.
    void backward(bool has_gamma_bar, bool wants_z_bar, Accumulators<T>* accumulators) {
        for (int l = 1; l <= depth; ++l) {
            if (timed)
                curved ? climb<true, true>(l, has_gamma_bar) : climb<false, true>(l, has_gamma_bar);
            else
                curved ? climb<true, false>(l, has_gamma_bar) : climb<false, false>(l, has_gamma_bar);
        }
        if (accumulators != nullptr) output_gradient(*accumulators);
        for (int l = depth; l >= 1; --l) {
            const int skip = timed && l > 1 ? 0 : 1;                    // p_0 is zero
            const int parts = (l > 1 || has_gamma_bar ? 3 : 2) - skip;    // so is deltabar_0, then
            const Level<T>& level = levels[l];
            const Level<T>& below = levels[l - 1];
            if (accumulators != nullptr)
                accumulate_product<T>(below.width, parts * n, level.columns, below.left + at(skip * n, below.stride), below.stride,
                                            level.right + at(skip * n, level.stride), level.stride, accumulators->weight[l], level.stride);
            if (l > 1)
                descend(l, skip);
            else if (wants_z_bar)
                multiply_panels(n, a_bar(1), level.stride, potential.down[1], z_bar, below.stride, no_start<T>);
        }
    }

    // Adds the gradients of the bias jets of samples [row, row + count), which share a slot.
    void bias_gradient(int row, int count, const BiasLayout<T>& layout, T* sum) const {
        for (int l = 1; l <= depth; ++l) {
            const Level<T>& level = levels[l];
            for (int c = 0; c < level.columns; c += lanes<T>) {
                Vec<T> sums[3] = {};
                for (int i = row; i < row + count; ++i) {
                    const std::ptrdiff_t e = at(i, level.stride) + c;
                    sums[0] += load(a_bar(l) + e);
                    if (!timed) continue;
                    sums[1] += load(tangent_bar(l) + e);
                    sums[2] += v_tt_bar[i] * load(chain(l) + e);
                }
                for (int order = 0; order < (timed ? 3 : 1); ++order) {
                    T* target = sum + layout.at(l, order) + c;
                    store<T>(target, load(target) + sums[order]);
                }
            }
        }
    }

   private:
    template <int Order>
    void keep(int l, int i, int c, const Derivatives<T>& d) {
        const Level<T>& level = levels[l];
        const std::ptrdiff_t e = at(i, level.stride) + c;
        store<T>(outputs(l) + e, d.value);
        store<T>(level.first + e, d.first);
        if constexpr (Order >= 2) store<T>(level.second + e, d.second);
        if constexpr (Order >= 3) store<T>(level.third + e, d.third);
    }

    // a_l = W_l h_{l-1} + beta_l, in outputs(l)
    void rise(int l) {
        multiply_panels(n, outputs(l - 1), levels[l - 1].stride, potential.up[l], outputs(l), levels[l].stride,
                        [&](int row, int column) { return load(bias(l, row, 0) + column); });
    }

    // p_l = W_l (sigma'(a_{l-1}) p_{l-1}) + beta_l', and sigma'(a_l) p_l.
    void forward_tangents(int l) {
        const Level<T>& level = levels[l];
        const auto start = [&](int row, int column) { return load(bias(l, row, 1) + column); };
        if (l > 1) multiply_panels(n, scaled_tangents(l - 1), levels[l - 1].stride, potential.up[l], level.tangent, level.stride, start);
        for (int i = 0; i < n; ++i)
            for (int c = 0; c < level.columns; c += lanes<T>) {
                const std::ptrdiff_t e = at(i, level.stride) + c;
                if (l == 1) store<T>(level.tangent + e, start(i, c));
                store<T>(scaled_tangents(l) + e, load(level.first + e) * load(level.tangent + e));
            }
    }

    // |gamma|^2, v_t, v_tt, and the part of the Laplacian that needs no tangents, layer 1's.
    void reduce_derivatives() {
        const Level<T>& last = levels[depth];
        const Level<T>& front = levels[1];
        for (int i = 0; i < n; ++i) {
            Vec<T> vt{}, vtt{}, squares{}, curvature{};
            for (int c = 0; c < last.columns && accelerated; c += lanes<T>)
                vt += load(chain(depth) + at(i, last.stride) + c) * load(last.tangent + at(i, last.stride) + c);
            for (int l = 1; l <= depth && timed; ++l)
                for (int c = 0; c < levels[l].columns; c += lanes<T>) {
                    const std::ptrdiff_t e = at(i, levels[l].stride) + c;
                    if (!accelerated) {  // the same v_t from the gradient chain
                        vt += load(chain(l) + e) * load(bias(l, i, 1) + c);
                        continue;
                    }
                    const Vec<T> p = load(levels[l].tangent + e);
                    vtt += load(delta(l, i) + c) * load(levels[l].second + e) * p * p + load(chain(l) + e) * load(bias(l, i, 2) + c);
                }
            for (int c = 0; c < levels[0].columns; c += lanes<T>) {
                const Vec<T> g = load(gamma() + at(i, levels[0].stride) + c);
                squares += g * g;
            }
            if (curved)
                for (int c = 0; c < front.columns; c += lanes<T>)
                    curvature += load(delta(1, i) + c) * load(front.second + at(i, front.stride) + c) * load(norms(1, i) + c);
            square[i] = sum_lanes<T>(squares);
            laplacian[i] = curved ? sum_lanes<T>(curvature) : T(0);
            v_t[i] = timed ? sum_lanes<T>(vt) : T(0);
            v_tt[i] = accelerated ? sum_lanes<T>(vtt) : T(0);
        }
    }

    // deltabar_l, and what abar_l and pbar_l get from layer l itself.
    template <bool Curved, bool Timed>
    void climb(int l, bool has_gamma_bar) {
        Level<T>& level = levels[l];
        const bool last = l == depth;
        const auto start = [&](int row, int column) {
            Vec<T> c_bar{};
            if constexpr (Timed) {
                c_bar = v_tt_bar[row] * load(bias(l, row, 2) + column);
                if (last) c_bar += v_t_bar[row] * load(level.tangent + at(row, level.stride) + column);
            }
            return c_bar;
        };
        const bool product = l > 1 || has_gamma_bar;
        if (product) multiply_panels(n, delta_bar(l - 1), levels[l - 1].stride, potential.up[l], scratch, level.stride, start);
        for (int i = 0; i < n; ++i)
            for (int c = 0; c < level.columns; c += lanes<T>) {
                const std::ptrdiff_t e = at(i, level.stride) + c;
                const Vec<T> c_bar = product ? load(scratch + e) : start(i, c);
                const Vec<T> first = load(level.first + e), second = load(level.second + e), d = load(delta(l, i) + c);
                Vec<T> delta_bar_l = c_bar * first, a_bar_l = c_bar * d * second;
                if constexpr (Curved || Timed) {
                    Vec<T> weight{};  // of delta_l sigma''(a_l) in the scalars
                    if constexpr (Curved) weight += laplacian_bar[i] * load(norms(l, i) + c);
                    if constexpr (Timed) {
                        const Vec<T> p = load(level.tangent + e);
                        weight += v_tt_bar[i] * p * p;
                        Vec<T> p_bar = T(2) * v_tt_bar[i] * d * second * p;
                        if (last) p_bar += v_t_bar[i] * load(chain(l) + e);
                        store<T>(tangent_bar(l) + e, p_bar);
                    }
                    delta_bar_l += second * weight;
                    a_bar_l += d * load(level.third + e) * weight;
                }
                if (Curved && !last) a_bar_l += load(a_bar(l) + e);
                if (last) a_bar_l += value_bar[i] * load(potential.out_weight + c) * first;
                store<T>(delta_bar(l) + e, delta_bar_l);
                store<T>(a_bar(l) + e, a_bar_l);
            }
    }

    void output_gradient(Accumulators<T>& accumulators) {
        const Level<T>& last = levels[depth];
        for (int c = 0; c < last.columns; c += lanes<T>) {
            Vec<T> sum{};
            for (int i = 0; i < n; ++i)
                sum += load(delta_bar(depth) + at(i, last.stride) + c) + value_bar[i] * load(outputs(depth) + at(i, last.stride) + c);
            accumulators.add(accumulators.out_weight + c, sum);
        }
        for (int i = 0; i < n; ++i) *accumulators.out_bias += value_bar[i];
        if (!curved) return;
        const Level<T>& front = levels[1];
        for (int c = 0; c < front.columns; c += lanes<T>) {
            Vec<T> sum{};
            for (int i = 0; i < n; ++i) sum += laplacian_bar[i] * load(delta(1, i) + c) * load(front.second + at(i, front.stride) + c);
            accumulators.add(accumulators.seed_norms + c, sum);
        }
    }

    // What layer l's abar and pbar mean for those of layer l - 1.
    void descend(int l, int skip) {
        const Level<T>& level = levels[l];
        const Level<T>& below = levels[l - 1];
        const T* bars = level.right + at(skip * n, level.stride);
        multiply_panels((2 - skip) * n, bars, level.stride, potential.down[l], scratch, below.stride, no_start<T>);
        const T* from_a = scratch + at((1 - skip) * n, below.stride);
        for (int i = 0; i < n; ++i)
            for (int c = 0; c < below.columns; c += lanes<T>) {
                const std::ptrdiff_t e = at(i, below.stride) + c;
                const Vec<T> first = load(below.first + e);
                Vec<T> sum = load(a_bar(l - 1) + e) + first * load(from_a + e);
                if (timed) {
                    const Vec<T> from_p = load(scratch + e);
                    sum += load(below.second + e) * from_p * load(below.tangent + e);
                    store<T>(tangent_bar(l - 1) + e, load(tangent_bar(l - 1) + e) + first * from_p);
                }
                store<T>(a_bar(l - 1) + e, sum);
            }
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
