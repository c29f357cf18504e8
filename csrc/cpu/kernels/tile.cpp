// Compiled once per instruction set: a tile's passes.
#include "cpu/kernels/tile.hpp"

#include "cpu/kernels/activate.hpp"
#include "cpu/kernels/product_block.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
Tile<T>::Tile(const Network<T>& net_, const Potential<T>& potential_, Arena& arena)
    : net(net_), potential(potential_), depth(net_.depth), capacity(choose_capacity(net_)), has_laplacian(net_.laplacian != Laplacian::none),
      has_time(net_.has_time), has_time_tangents(has_time) {
    const std::size_t rows = capacity;
    int widest = 0;
    for (int l = 0; l <= depth; ++l) {
        Layer<T>& layer = layers[l];
        layer = {};
        layer.width = net.width[l];
        layer.columns = padded<T>(layer.width);
        layer.stride = row_stride<T>(layer.width);
        widest = layer.stride > widest ? layer.stride : widest;
        const std::size_t size = rows * layer.stride;
        layer.left = arena.take<T>(3 * size);
        layer.delta = l == depth ? potential.out_weight : arena.take<T>(size);
        if (l == 0) continue;
        layer.right = arena.take<T>(3 * size);
        layer.sigma1 = arena.take<T>(size);
        layer.sigma2 = arena.take<T>(size);
        layer.sigma3 = arena.take<T>(size);
        layer.norms = l == 1 ? potential.seed_norms : arena.take<T>(size);
        layer.time_tangent = arena.take<T>(size);
        layer.bias = arena.take<T>(3 * size);
    }
    T** const scalars[] = {&v, &grad_v_square, &laplacian_v, &v_t, &v_tt, &v_bar, &laplacian_v_bar, &v_t_bar, &v_tt_bar};
    for (T** scalar : scalars) *scalar = arena.take<T>(round_up(capacity, lanes<T>));
    z_bar = arena.take<T>(rows * layers[0].stride);
    scratch = arena.take<T>(2 * rows * widest);
}

template <class T>
void Tile<T>::load_points(const T* z, const std::int64_t* ids, std::int64_t first) {
    const int dim = layers[0].width, columns = layers[0].columns;
    for (int i = 0; i < n; ++i) {
        const T* source = z + (ids != nullptr ? ids[i] : first + i) * dim;
        T* target = h(0) + at(i, layers[0].stride);
        __builtin_memcpy(target, source, sizeof(T) * dim);
        for (int j = dim; j < columns; ++j) target[j] = 0;
    }
}

template <class T>
void Tile<T>::load_bias(std::int64_t slot, int row, bool for_all) {
    for (int l = 1; l <= depth; ++l) {
        Layer<T>& layer = layers[l];
        layer.bias_step = for_all ? 0 : 3 * layer.stride;
        for (int order = 0; order < (has_time ? 3 : 1); ++order) {
            const T* source = net.bias_jet[l] + (slot * 3 + order) * layer.width;
            T* target = layer.bias + at(row, layer.bias_step) + at(order, layer.stride);
            for (int j = 0; j < layer.width; ++j) target[j] = source[j];
            for (int j = layer.width; j < layer.columns; ++j) target[j] = 0;
        }
    }
}

template <class T>
void Tile<T>::forward(int order) {
    preactivation(1);
    forward_values(order);
    backward_signal();
    multiply_panels<T>(n, signal_rows(1), potential.down[1], {grad_v(), layers[0].stride});
    if (order > 1) reduce_derivatives();  // which a flow alone has no use for
}

template <class T>
void Tile<T>::forward_values(int order) {
    for (int l = 1; l <= depth; ++l) {
        const Layer<T>& layer = layers[l];
        if (l > 1) preactivation(l);
        activate<T>(net.activation, order, n, layer.columns, {h(l), layer.sigma1, layer.sigma2, layer.sigma3, layer.stride});
        if (has_time_tangents) forward_time_tangents(l);
    }
    const Layer<T>& last = layers[depth];
    for (int i = 0; i < n; ++i) {
        Vec<T> sum{};
        for (int c = 0; c < last.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, last.stride) + c;
            const Vec<T> weight = load(last.delta + c);
            sum += load(h(depth) + e) * weight;
            store<T>(signal(depth) + e, load(last.sigma1 + e) * weight);
        }
        v[i] = *potential.out_bias + sum_lanes<T>(sum);
    }
}

template <class T>
void Tile<T>::backward_signal() {
    for (int l = depth - 1; l >= 1; --l) {
        const Layer<T>& layer = layers[l];
        multiply_panels<T>(n, signal_rows(l + 1), potential.down[l + 1], {layer.delta, layer.stride}, {},
                           {{layer.sigma1, layer.stride}, signal_rows(l)});
    }
}

template <class T>
void Tile<T>::backward(bool has_grad_v_bar, bool wants_z_bar, Accumulators<T>* accumulators) {
    for (int l = 1; l <= depth; ++l) {
        if (has_time)
            has_laplacian ? backward_of_signal<true, true>(l, has_grad_v_bar) : backward_of_signal<false, true>(l, has_grad_v_bar);
        else
            has_laplacian ? backward_of_signal<true, false>(l, has_grad_v_bar) : backward_of_signal<false, false>(l, has_grad_v_bar);
    }
    if (accumulators != nullptr) output_gradient(*accumulators);
    for (int l = depth; l >= 1; --l) {
        const int skip = has_time && l > 1 ? 0 : 1;                 // p_0 is zero
        const int parts = (l > 1 || has_grad_v_bar ? 3 : 2) - skip;  // so is delta_bar_0, then
        const Layer<T>& layer = layers[l];
        const Layer<T>& below = layers[l - 1];
        if (accumulators != nullptr)
            accumulate_product<T>(below.width, parts * n, layer.columns, {below.left + at(skip * n, below.stride), below.stride},
                                  {layer.right + at(skip * n, layer.stride), layer.stride}, {accumulators->weight[l], layer.stride});
        if (l > 1)
            backward_values(l, skip);
        else if (wants_z_bar)
            multiply_panels<T>(n, {a_bar(1), layer.stride}, potential.down[1], {z_bar, below.stride});
    }
}

template <class T>
void Tile<T>::bias_gradient(int row, int count, const BiasLayout<T>& layout, T* sum) const {
    for (int l = 1; l <= depth; ++l) {
        const Layer<T>& layer = layers[l];
        for (int c = 0; c < layer.columns; c += lanes<T>) {
            Vec<T> sums[3] = {};
            for (int i = row; i < row + count; ++i) {
                const std::ptrdiff_t e = at(i, layer.stride) + c;
                sums[0] += load(a_bar(l) + e);
                if (!has_time) continue;
                sums[1] += load(time_tangent_bar(l) + e);
                sums[2] += v_tt_bar[i] * load(signal(l) + e);
            }
            for (int order = 0; order < (has_time ? 3 : 1); ++order) {
                T* target = sum + layout.at(l, order) + c;
                store<T>(target, load(target) + sums[order]);
            }
        }
    }
}

// a_l = W_l h_{l-1} + b_l, in h(l)
template <class T>
void Tile<T>::preactivation(int l) {
    multiply_panels<T>(n, {h(l - 1), layers[l - 1].stride}, potential.up[l], {h(l), layers[l].stride}, bias_rows(l, 0));
}

// p_l = W_l (sigma'(a_{l-1}) p_{l-1}) + b_l', and sigma'(a_l) p_l.
template <class T>
void Tile<T>::forward_time_tangents(int l) {
    const Layer<T>& layer = layers[l];
    if (l > 1)
        multiply_panels<T>(n, {scaled_time_tangent(l - 1), layers[l - 1].stride}, potential.up[l], {layer.time_tangent, layer.stride},
                           bias_rows(l, 1));
    for (int i = 0; i < n; ++i)
        for (int c = 0; c < layer.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, layer.stride) + c;
            if (l == 1) store<T>(layer.time_tangent + e, load(bias(l, i, 1) + c));
            store<T>(scaled_time_tangent(l) + e, load(layer.sigma1 + e) * load(layer.time_tangent + e));
        }
}

// |grad v|^2, v_t, v_tt, and the part of the Laplacian that needs no tangents, layer 1's.
template <class T>
void Tile<T>::reduce_derivatives() {
    const Layer<T>& last = layers[depth];
    const Layer<T>& front = layers[1];
    for (int i = 0; i < n; ++i) {
        Vec<T> vt{}, vtt{}, squares{}, laplacians{};
        for (int c = 0; c < last.columns && has_time_tangents; c += lanes<T>)
            vt += load(signal(depth) + at(i, last.stride) + c) * load(last.time_tangent + at(i, last.stride) + c);
        for (int l = 1; l <= depth && has_time; ++l)
            for (int c = 0; c < layers[l].columns; c += lanes<T>) {
                const std::ptrdiff_t e = at(i, layers[l].stride) + c;
                if (!has_time_tangents) {  // the same v_t from the signal
                    vt += load(signal(l) + e) * load(bias(l, i, 1) + c);
                    continue;
                }
                const Vec<T> p = load(layers[l].time_tangent + e);
                vtt += load(delta(l, i) + c) * load(layers[l].sigma2 + e) * p * p + load(signal(l) + e) * load(bias(l, i, 2) + c);
            }
        for (int c = 0; c < layers[0].columns; c += lanes<T>) {
            const Vec<T> g = load(grad_v() + at(i, layers[0].stride) + c);
            squares += g * g;
        }
        if (has_laplacian)
            for (int c = 0; c < front.columns; c += lanes<T>)
                laplacians += load(delta(1, i) + c) * load(front.sigma2 + at(i, front.stride) + c) * load(norms(1, i) + c);
        grad_v_square[i] = sum_lanes<T>(squares);
        laplacian_v[i] = has_laplacian ? sum_lanes<T>(laplacians) : T(0);
        v_t[i] = has_time ? sum_lanes<T>(vt) : T(0);
        v_tt[i] = has_time_tangents ? sum_lanes<T>(vtt) : T(0);
    }
}

// The cotangent of e_l, W_l delta_bar_{l-1} and time's share, in `scratch`.
template <class T>
void Tile<T>::signal_bar_with_time(int l) {
    const Layer<T>& layer = layers[l];
    const bool last = l == depth;
    const auto share = [&](int row, int column) {
        Vec<T> signal_bar = v_tt_bar[row] * load(bias(l, row, 2) + column);
        if (last) signal_bar += v_t_bar[row] * load(layer.time_tangent + at(row, layer.stride) + column);
        return signal_bar;
    };
    multiply_panels_from<T>(n, delta_bar(l - 1), layers[l - 1].stride, potential.up[l], scratch, layer.stride, share);
}

// delta_bar_l, and what a_bar_l and p_bar_l get from layer l itself.
template <class T>
template <bool HasLaplacian, bool HasTime>
void Tile<T>::backward_of_signal(int l, bool has_grad_v_bar) {
    Layer<T>& layer = layers[l];
    const bool last = l == depth;
    const bool product = l > 1 || has_grad_v_bar;
    if (product && HasTime)
        signal_bar_with_time(l);
    else if (product)
        multiply_panels<T>(n, {delta_bar(l - 1), layers[l - 1].stride}, potential.up[l], {scratch, layer.stride});
    for (int i = 0; i < n; ++i)
        for (int c = 0; c < layer.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, layer.stride) + c;
            Vec<T> signal_bar{};
            if (product) {
                signal_bar = load(scratch + e);
            } else if constexpr (HasTime) {
                signal_bar = v_tt_bar[i] * load(bias(l, i, 2) + c);
                if (last) signal_bar += v_t_bar[i] * load(layer.time_tangent + e);
            }
            const Vec<T> sigma1 = load(layer.sigma1 + e), sigma2 = load(layer.sigma2 + e), d = load(delta(l, i) + c);
            Vec<T> delta_bar_l = signal_bar * sigma1, a_bar_l = signal_bar * d * sigma2;
            if constexpr (HasLaplacian || HasTime) {
                Vec<T> weight{};  // of delta_l sigma''(a_l) in the scalars
                if constexpr (HasLaplacian) weight += laplacian_v_bar[i] * load(norms(l, i) + c);
                if constexpr (HasTime) {
                    const Vec<T> p = load(layer.time_tangent + e);
                    weight += v_tt_bar[i] * p * p;
                    Vec<T> p_bar = T(2) * v_tt_bar[i] * d * sigma2 * p;
                    if (last) p_bar += v_t_bar[i] * load(signal(l) + e);
                    store<T>(time_tangent_bar(l) + e, p_bar);
                }
                delta_bar_l += sigma2 * weight;
                a_bar_l += d * load(layer.sigma3 + e) * weight;
            }
            if (HasLaplacian && !last) a_bar_l += load(a_bar(l) + e);
            if (last) a_bar_l += v_bar[i] * load(potential.out_weight + c) * sigma1;
            store<T>(delta_bar(l) + e, delta_bar_l);
            store<T>(a_bar(l) + e, a_bar_l);
        }
}

template <class T>
void Tile<T>::output_gradient(Accumulators<T>& accumulators) {
    const Layer<T>& last = layers[depth];
    for (int c = 0; c < last.columns; c += lanes<T>) {
        Vec<T> sum{};
        for (int i = 0; i < n; ++i) sum += load(delta_bar(depth) + at(i, last.stride) + c) + v_bar[i] * load(h(depth) + at(i, last.stride) + c);
        accumulators.add(accumulators.out_weight + c, sum);
    }
    for (int i = 0; i < n; ++i) *accumulators.out_bias += v_bar[i];
    if (!has_laplacian) return;
    const Layer<T>& front = layers[1];
    for (int c = 0; c < front.columns; c += lanes<T>) {
        Vec<T> sum{};
        for (int i = 0; i < n; ++i) sum += laplacian_v_bar[i] * load(delta(1, i) + c) * load(front.sigma2 + at(i, front.stride) + c);
        accumulators.add(accumulators.seed_norms + c, sum);
    }
}

// What layer l's a_bar and p_bar mean for those of layer l - 1.
template <class T>
void Tile<T>::backward_values(int l, int skip) {
    const Layer<T>& layer = layers[l];
    const Layer<T>& below = layers[l - 1];
    const T* bars = layer.right + at(skip * n, layer.stride);
    multiply_panels<T>((2 - skip) * n, {bars, layer.stride}, potential.down[l], {scratch, below.stride});
    const T* from_a = scratch + at((1 - skip) * n, below.stride);
    for (int i = 0; i < n; ++i)
        for (int c = 0; c < below.columns; c += lanes<T>) {
            const std::ptrdiff_t e = at(i, below.stride) + c;
            const Vec<T> sigma1 = load(below.sigma1 + e);
            Vec<T> sum = load(a_bar(l - 1) + e) + sigma1 * load(from_a + e);
            if (has_time) {
                const Vec<T> from_p = load(scratch + e);
                sum += load(below.sigma2 + e) * from_p * load(below.time_tangent + e);
                store<T>(time_tangent_bar(l - 1) + e, load(time_tangent_bar(l - 1) + e) + sigma1 * from_p);
            }
            store<T>(a_bar(l - 1) + e, sum);
        }
}

template struct Tile<float>;
template struct Tile<double>;

}  // namespace fastflow::cpu::FASTFLOW_ISA
