// The tangents X_l = W_l diag(sigma'(a_{l-1})) X_{l-1} of a few samples at a time, one row per direction: forward to their
// squared norms s_l over the directions, backward from 2 s_bar_l X_l to the weights and to sigma'.
#pragma once

#include "cpu/kernels/tile.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Tangents {
    Tile<T>& tile;
    const Potential<T>& potential;
    int depth, num_directions, group;  // group: samples at a time
    T* tangents[max_depth + 1];         // X_l (group, r, stride); in the backward pass their cotangents take their place
    T* scaled_tangents[max_depth + 1];  // diag(sigma'(a_l)) X_l (group, r, stride)

    Tangents(Tile<T>& tile_, Arena& arena);

    // s_l and the Laplacian of samples [from, from + count). `keep` keeps the tangents for the backward pass.
    void forward(int from, int count, bool keep);

    // From laplacian_v_bar of the same samples: adds to the accumulators and writes the tangents' share of a_bar_l, l < depth.
    void backward(int from, int count, Accumulators<T>& accumulators);

   private:
    int choose_group() const;
    std::ptrdiff_t at(int sample, int stride) const { return static_cast<std::ptrdiff_t>(sample) * num_directions * stride; }
    Rows<T> tangent_rows(int l) const { return {tangents[l], tile.layers[l].stride}; }
    Rows<T> scaled_tangent_rows(int l) const { return {scaled_tangents[l], tile.layers[l].stride}; }
    void scale_seeds(int from, int count);
    void forward_layer(int l, int from, int count, bool keep);
    void backward_last(int from, int count);
    Vec<T> doubled_norm_bar(int l, int row, int column) const;
    void backward_layer(int l, int from, int count, Accumulators<T>& accumulators);
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
