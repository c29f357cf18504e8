// Compiled once per instruction set: a tile's passes.
#include "cpu/kernels/tile.hpp"

#include "cpu/kernels/activate.hpp"
#include "cpu/kernels/product_block.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
Tile<T>::Tile(const Network<T>& net_, const Potential<T>& potential_, Arena& arena)
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

template <class T>
void Tile<T>::load_points(const T* z, const std::int64_t* ids, std::int64_t first) {
    const int dim = levels[0].width, columns = levels[0].columns;
    for (int i = 0; i < n; ++i) {
        const T* source = z + (ids != nullptr ? ids[i] : first + i) * dim;
        T* target = outputs(0) + at(i, levels[0].stride);
        __builtin_memcpy(target, source, sizeof(T) * dim);
        for (int j = dim; j < columns; ++j) target[j] = 0;
    }
}

template <class T>
void Tile<T>::load_bias(std::int64_t slot, int row, bool for_all) {
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

template <class T>
void Tile<T>::forward(int order) {
    rise(1);
    rise_from_first(order);
    fall_to_first();
    multiply_panels<T>(n, chain_rows(1), potential.down[1], {gamma(), levels[0].stride});
    if (order > 1) reduce_derivatives();  // which a flow alone has no use for
}

template <class T>
void Tile<T>::rise_from_first(int order) {
    for (int l = 1; l <= depth; ++l) {
        const Level<T>& level = levels[l];
        if (l > 1) rise(l);
        activate<T>(net.activation, order, n, level.columns, {outputs(l), level.first, level.second, level.third, level.stride});
        if (accelerated) forward_tangents(l);
    }
    const Level<T>& last = levels[depth];
    for (int i = 0; i < n; ++i) {
        Vec<T> sum{};
        for (int c = 0; c < last.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, last.stride) + c;
            const Vec<T> weight = load(last.delta + c);
            sum += load(outputs(depth) + e) * weight;
            store<T>(chain(depth) + e, load(last.first + e) * weight);
        }
        value[i] = *potential.out_bias + sum_lanes<T>(sum);
    }
}

template <class T>
void Tile<T>::fall_to_first() {
    for (int l = depth - 1; l >= 1; --l) {
        const Level<T>& level = levels[l];
        multiply_panels<T>(n, chain_rows(l + 1), potential.down[l + 1], {level.delta, level.stride}, {}, {{level.first, level.stride}, chain_rows(l)});
    }
}

template <class T>
void Tile<T>::backward(bool has_gamma_bar, bool wants_z_bar, Accumulators<T>* accumulators) {
    for (int l = 1; l <= depth; ++l) {
        if (timed)
            curved ? climb<true, true>(l, has_gamma_bar) : climb<false, true>(l, has_gamma_bar);
        else
            curved ? climb<true, false>(l, has_gamma_bar) : climb<false, false>(l, has_gamma_bar);
    }
    if (accumulators != nullptr) output_gradient(*accumulators);
    for (int l = depth; l >= 1; --l) {
        const int skip = timed && l > 1 ? 0 : 1;                    // p_0 is zero
        const int parts = (l > 1 || has_gamma_bar ? 3 : 2) - skip;  // so is deltabar_0, then
        const Level<T>& level = levels[l];
        const Level<T>& below = levels[l - 1];
        if (accumulators != nullptr)
            accumulate_product<T>(below.width, parts * n, level.columns, {below.left + at(skip * n, below.stride), below.stride},
                                  {level.right + at(skip * n, level.stride), level.stride}, {accumulators->weight[l], level.stride});
        if (l > 1)
            descend(l, skip);
        else if (wants_z_bar)
            multiply_panels<T>(n, {a_bar(1), level.stride}, potential.down[1], {z_bar, below.stride});
    }
}

template <class T>
void Tile<T>::bias_gradient(int row, int count, const BiasLayout<T>& layout, T* sum) const {
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

// a_l = W_l h_{l-1} + beta_l, in outputs(l)
template <class T>
void Tile<T>::rise(int l) {
    multiply_panels<T>(n, {outputs(l - 1), levels[l - 1].stride}, potential.up[l], {outputs(l), levels[l].stride}, bias_rows(l, 0));
}

// p_l = W_l (sigma'(a_{l-1}) p_{l-1}) + beta_l', and sigma'(a_l) p_l.
template <class T>
void Tile<T>::forward_tangents(int l) {
    const Level<T>& level = levels[l];
    if (l > 1)
        multiply_panels<T>(n, {scaled_tangents(l - 1), levels[l - 1].stride}, potential.up[l], {level.tangent, level.stride}, bias_rows(l, 1));
    for (int i = 0; i < n; ++i)
        for (int c = 0; c < level.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, level.stride) + c;
            if (l == 1) store<T>(level.tangent + e, load(bias(l, i, 1) + c));
            store<T>(scaled_tangents(l) + e, load(level.first + e) * load(level.tangent + e));
        }
}

// |gamma|^2, v_t, v_tt, and the part of the Laplacian that needs no tangents, layer 1's.
template <class T>
void Tile<T>::reduce_derivatives() {
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

// The cotangent of c_l, W_l deltabar_{l-1} and time's share, in `scratch`.
template <class T>
void Tile<T>::multiply_with_time(int l) {
    const Level<T>& level = levels[l];
    const bool last = l == depth;
    const auto share = [&](int row, int column) {
        Vec<T> c_bar = v_tt_bar[row] * load(bias(l, row, 2) + column);
        if (last) c_bar += v_t_bar[row] * load(level.tangent + at(row, level.stride) + column);
        return c_bar;
    };
    multiply_panels_from<T>(n, delta_bar(l - 1), levels[l - 1].stride, potential.up[l], scratch, level.stride, share);
}

// deltabar_l, and what abar_l and pbar_l get from layer l itself.
template <class T>
template <bool Curved, bool Timed>
void Tile<T>::climb(int l, bool has_gamma_bar) {
    Level<T>& level = levels[l];
    const bool last = l == depth;
    const bool product = l > 1 || has_gamma_bar;
    if (product && Timed)
        multiply_with_time(l);
    else if (product)
        multiply_panels<T>(n, {delta_bar(l - 1), levels[l - 1].stride}, potential.up[l], {scratch, level.stride});
    for (int i = 0; i < n; ++i)
        for (int c = 0; c < level.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, level.stride) + c;
            Vec<T> c_bar{};
            if (product) {
                c_bar = load(scratch + e);
            } else if constexpr (Timed) {
                c_bar = v_tt_bar[i] * load(bias(l, i, 2) + c);
                if (last) c_bar += v_t_bar[i] * load(level.tangent + e);
            }
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

template <class T>
void Tile<T>::output_gradient(Accumulators<T>& accumulators) {
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
template <class T>
void Tile<T>::descend(int l, int skip) {
    const Level<T>& level = levels[l];
    const Level<T>& below = levels[l - 1];
    const T* bars = level.right + at(skip * n, level.stride);
    multiply_panels<T>((2 - skip) * n, {bars, level.stride}, potential.down[l], {scratch, below.stride});
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

template struct Tile<float>;
template struct Tile<double>;

}  // namespace fastflow::cpu::FASTFLOW_ISA
