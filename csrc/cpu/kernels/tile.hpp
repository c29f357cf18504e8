// A tile: some samples of one potential, with everything about them that doesn't depend on a direction. Forward: values up
// the layers, then the gradient chain delta down; backward: the walk up the chain and down the layers.
//
// The engine works on v = w_o . h_L + b_o, the potential before its output map: gamma = grad v, and the Laplacian and time
// derivatives of v. The output map is applied to these few numbers per sample (output_map.hpp).
#pragma once

#include "cpu/kernels/accumulators.hpp"

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

    Tile(const Network<T>& net_, const Potential<T>& potential_, Arena& arena);

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
    Rows<T> chain_rows(int l) const { return {chain(l), levels[l].stride}; }
    Rows<const T> bias_rows(int l, int order) const { return {bias(l, 0, order), levels[l].bias_step}; }

    // z of the tile's samples: rows of (count, dim), the i-th at ids[i], or first + i without ids.
    void load_points(const T* z, const std::int64_t* ids, std::int64_t first);

    // Bias jets of one slot for the sample of row `row`, or `for_all`.
    void load_bias(std::int64_t slot, int row, bool for_all);

    // Up: h_l, derivatives of sigma up to the `order`-th, p_l. Then down: c_l and delta_l, to gamma.
    void forward(int order);

    // Up from a_1 in outputs(1), to the value and c_L.
    void rise_from_first(int order);

    // Down from c_L to c_1.
    void fall_to_first();

    // From the cotangents of the samples' scalars and of gamma (in delta_bar(0), zero unless `has_gamma_bar`): adds to the
    // accumulators, unless null, and writes z_bar if it's wanted. Before it, the tangents have left their share of abar_l below the last layer.
    void backward(bool has_gamma_bar, bool wants_z_bar, Accumulators<T>* accumulators);

    // Adds the gradients of the bias jets of samples [row, row + count), which share a slot.
    void bias_gradient(int row, int count, const BiasLayout<T>& layout, T* sum) const;

   private:
    void rise(int l);
    void forward_tangents(int l);
    void reduce_derivatives();
    void multiply_with_time(int l);
    template <bool Curved, bool Timed>
    void climb(int l, bool has_gamma_bar);
    void output_gradient(Accumulators<T>& accumulators);
    void descend(int l, int skip);
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
