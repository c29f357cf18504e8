// The tangents X_l = W_l diag(sigma'(a_{l-1})) X_{l-1} of a few samples at a time, one row per direction: forward to their
// squared norms s_l over the directions, backward from 2 sbar_l X_l to the weights and to sigma'.
#pragma once

#include "cpu/kernels/tile.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Tangents {
    Tile<T>& tile;
    const Potential<T>& potential;
    int depth, directions, group;    // group: samples at a time
    T* plain[max_depth + 1];         // X_l (group, r, stride); in the backward pass their cotangents take their place
    T* scaled[max_depth + 1];        // diag(sigma'(a_l)) X_l (group, r, stride)

    Tangents(Tile<T>& tile_, Arena& arena);

    // s_l and the Laplacian of samples [from, from + count). `keep` keeps the tangents for the backward pass.
    void forward(int from, int count, bool keep);

    // From laplacian_bar of the same samples: adds to the accumulators and writes the tangents' share of abar_l, l < depth.
    void backward(int from, int count, Accumulators<T>& accumulators);

   private:
    int choose_group() const;
    std::ptrdiff_t at(int sample, int stride) const { return static_cast<std::ptrdiff_t>(sample) * directions * stride; }
    Rows<T> plain_rows(int l) const { return {plain[l], tile.levels[l].stride}; }
    Rows<T> scaled_rows(int l) const { return {scaled[l], tile.levels[l].stride}; }
    void scale_seeds(int from, int count);
    void propagate(int l, int from, int count, bool keep);
    void weigh_last(int from, int count);
    Vec<T> doubled_norm_bar(int l, int row, int column) const;
    void pull_back(int l, int from, int count, Accumulators<T>& accumulators);
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
