// A tile: some samples of one potential, with everything about them that doesn't depend on a direction. Forward: values up
// the layers, then delta and the signal e down, to the gradient; backward: up through the signal's pass, and down through the values'.
//
// The engine works on v = w . h_L + c, the potential before its output map: its gradient, and the Laplacian and time
// derivatives of v. The output map is applied to these few numbers per sample (output_map.hpp).
#pragma once

#include "cpu/kernels/accumulators.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// Arrays of one layer, (n, stride) each unless said otherwise.
template <class T>
struct Layer {
    int width, columns, stride;  // columns: width padded to whole vectors
    // Three stacked parts of n rows, so that each layer's weight gradient is a single product. Left of layer l + 1's:
    // sigma'(a_l) p_l, h_l, delta_bar_l. Right of layer l's: p_bar_l, a_bar_l, e_l.
    T *left, *right;
    T *sigma1, *sigma2, *sigma3;  // sigma', sigma'', sigma''' at a_l
    T* delta;                     // at layer 0: grad v; at the last layer one row for all samples: w
    T* norms;                     // s_l; at layer 1 one row for all samples
    T* time_tangent;              // p_l
    T* bias;                      // b, b', b'': (3, stride) per sample, or once for all
    int bias_step;                // from one sample's bias to the next one's: 0 when all share it
};

template <class T>
struct Tile {
    const Network<T>& net;
    const Potential<T>& potential;
    int depth, capacity, n = 0;
    bool has_laplacian, has_time;  // whether this pass has a Laplacian, and derivatives with respect to time
    bool has_time_tangents;        // whether it has p_l, which the second of these and every backward pass need
    Layer<T> layers[max_depth + 1];
    // Per sample: v, |grad v|^2, Laplacian, v_t, v_tt; then the cotangents of v, the Laplacian, v_t, v_tt.
    T *v, *grad_v_square, *laplacian_v, *v_t, *v_tt;
    T *v_bar, *laplacian_v_bar, *v_t_bar, *v_tt_bar;
    T* z_bar;      // (n, stride of layer 0)
    T* scratch;    // (2 n, largest stride)

    static constexpr int most_rows = 8 * block_rows;

    static int choose_capacity(const Network<T>& net) {
        std::size_t bytes = 0;
        for (int l = 0; l <= net.depth; ++l) bytes += sizeof(T) * row_stride<T>(net.width[l]) * (l == 0 ? 4 : 14);
        const int fit = static_cast<int>((256 * 1024) / bytes) / block_rows * block_rows;
        return fit < 2 * block_rows ? 2 * block_rows : fit > most_rows ? most_rows : fit;
    }

    Tile(const Network<T>& net_, const Potential<T>& potential_, Arena& arena);

    static std::ptrdiff_t at(int row, int stride) { return static_cast<std::ptrdiff_t>(row) * stride; }
    T* h(int l) const { return layers[l].left + at(n, layers[l].stride); }                 // h_l; z at layer 0
    T* scaled_time_tangent(int l) const { return layers[l].left; }                           // sigma'(a_l) p_l
    T* delta_bar(int l) const { return layers[l].left + at(2 * n, layers[l].stride); }         // at layer 0: of grad_v
    T* time_tangent_bar(int l) const { return layers[l].right; }
    T* a_bar(int l) const { return layers[l].right + at(n, layers[l].stride); }
    T* signal(int l) const { return layers[l].right + at(2 * n, layers[l].stride); }       // e_l = delta_l sigma'(a_l)
    const T* delta(int l, int row) const { return layers[l].delta + (l == depth ? 0 : at(row, layers[l].stride)); }
    const T* norms(int l, int row) const { return layers[l].norms + (l == 1 ? 0 : at(row, layers[l].stride)); }
    const T* bias(int l, int row, int order) const { return layers[l].bias + at(row, layers[l].bias_step) + at(order, layers[l].stride); }
    T* grad_v() const { return layers[0].delta; }
    Rows<T> signal_rows(int l) const { return {signal(l), layers[l].stride}; }
    Rows<const T> bias_rows(int l, int order) const { return {bias(l, 0, order), layers[l].bias_step}; }

    // z of the tile's samples: rows of (count, dim), the i-th at ids[i], or first + i without ids.
    void load_points(const T* z, const std::int64_t* ids, std::int64_t first);

    // Bias jets of one slot for the sample of row `row`, or `for_all`.
    void load_bias(std::int64_t slot, int row, bool for_all);

    // Up: h_l, derivatives of sigma up to the `order`-th, p_l. Then down: e_l and delta_l, to grad_v.
    void forward(int order);

    // Up from a_1, which is in h(1), to v and e_L.
    void forward_values(int order);

    // Down from e_L to e_1.
    void backward_signal();

    // From the cotangents of the samples' scalars and of grad_v (in delta_bar(0), zero unless `has_grad_v_bar`): adds to the
    // accumulators, unless null, and writes z_bar if it's wanted. Before it, the tangents have left their share of a_bar_l below the last layer.
    void backward(bool has_grad_v_bar, bool wants_z_bar, Accumulators<T>* accumulators);

    // Adds the gradients of the bias jets of samples [row, row + count), which share a slot.
    void bias_gradient(int row, int count, const BiasLayout<T>& layout, T* sum) const;

   private:
    void preactivation(int l);
    void forward_time_tangents(int l);
    void reduce_derivatives();
    void signal_bar_with_time(int l);
    template <bool HasLaplacian, bool HasTime>
    void backward_of_signal(int l, bool has_grad_v_bar);
    void output_gradient(Accumulators<T>& accumulators);
    void backward_values(int l, int skip);
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
