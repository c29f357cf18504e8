// One potential of the bank, packed for the kernels: weights as panels in both directions, and the directions in which the
// tangents run.
#pragma once

#include "cpu/kernels/arena.hpp"
#include "cpu/kernels/products.hpp"
#include "cpu/kernels/rotation.hpp"
#include "cpu/network.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
int count_directions(const Network<T>& net) {
    if (net.laplacian == Laplacian::none) return 0;
    if (net.laplacian == Laplacian::hutchinson) return net.num_probes;
    return net.depth > 1 && net.width[1] < net.width[0] ? net.width[1] : net.width[0];
}

template <class T>
struct Potential {
    Panels<T> up[max_depth + 1];    // W_l^T: rows of layer l - 1 to rows of layer l
    Panels<T> down[max_depth + 1];  // W_l: rows of layer l to rows of layer l - 1
    T* out_weight;                  // (padded width[depth],)
    T* out_bias;                    // (1,)
    Panels<T> gram;                 // W_1 W_1^T, where the network wants it

    // X_1 = W_1 basis. Exact and deep: basis is the Q of W_1 = R Q^T. Exact and one layer deep: the identity, and null.
    // Probes: their vectors over the square root of their number, which makes the sum over directions the mean over probes.
    int num_directions;  // r
    bool triangular;   // X_1 is zero above its diagonal
    T* seeds;          // X_1^T (r, row_stride(width[1])); with no second layer only its gradient is needed
    T* seed_norms;     // squared row norms of X_1 (padded width[1],)
    T* basis;          // transposed (r, width[0])
    Panels<T> to_directions, from_directions;  // basis and its transpose, for the output map's share of an estimated Laplacian

    // Lays the pieces out in a block, filled or to be filled; without a block it only measures.
    Potential(const Network<T>& net, Arena& arena) {
        for (int l = 1; l <= net.depth; ++l) {
            const int in = net.width[l - 1], out = net.width[l];
            up[l] = {arena.take<T>(static_cast<std::size_t>(in) * padded<T>(out)), in, out};
            down[l] = {arena.take<T>(static_cast<std::size_t>(out) * padded<T>(in)), out, in};
        }
        out_weight = arena.take<T>(padded<T>(net.width[net.depth]));
        out_bias = arena.take<T>(1);
        const int front = net.gram ? net.width[1] : 0;
        gram = {arena.take<T>(static_cast<std::size_t>(front) * padded<T>(front)), front, front};
        num_directions = count_directions(net);
        triangular = net.laplacian == Laplacian::exact && net.depth > 1;
        seeds = seed_norms = basis = nullptr;
        if (num_directions == 0) return;
        seeds = arena.take<T>(static_cast<std::size_t>(num_directions) * row_stride<T>(net.width[1]));
        seed_norms = arena.take<T>(padded<T>(net.width[1]));
        if (triangular || net.laplacian == Laplacian::hutchinson) basis = arena.take<T>(static_cast<std::size_t>(net.width[0]) * num_directions);
        if (net.laplacian != Laplacian::hutchinson) return;
        to_directions = {arena.take<T>(static_cast<std::size_t>(net.width[0]) * padded<T>(num_directions)), net.width[0], num_directions};
        from_directions = {arena.take<T>(static_cast<std::size_t>(num_directions) * padded<T>(net.width[0])), num_directions, net.width[0]};
    }

    // Fills the pieces from potential k; `arena` is scratch.
    void pack(const Network<T>& net, std::int64_t k, Arena arena) {
        for (int l = 1; l <= net.depth; ++l) {
            const int in = net.width[l - 1], out = net.width[l];
            const T* weight = net.weight[l] + k * in * out;
            up[l].pack_transposed(weight, in);
            down[l].pack(weight, in);
        }
        const int last = net.width[net.depth];
        for (int i = 0; i < padded<T>(last); ++i) out_weight[i] = i < last ? net.out_weight[k * last + i] : T(0);
        *out_bias = net.out_bias[k];
        if (net.gram) pack_gram(net, net.weight[1] + k * net.width[0] * net.width[1], arena);
        if (num_directions > 0) pack_directions(net, net.weight[1] + k * net.width[0] * net.width[1], arena);
    }

    static std::size_t gram_scratch_size(const Network<T>& net) { return net.gram ? sizeof(T) * net.width[1] * row_stride<T>(net.width[1]) : 0; }

   private:
    void pack_gram(const Network<T>& net, const T* weight, Arena arena) {
        const int front = net.width[1], stride = row_stride<T>(front);
        T* sums = arena.take<T>(static_cast<std::size_t>(front) * stride);
        for (int from = 0; from < net.width[0]; from += short_sum) {
            const int to = net.width[0] - from < short_sum ? net.width[0] : from + short_sum;
            multiply_part<T>(front, {weight, net.width[0]}, up[1], from, to, {sums, stride}, from > 0);
        }
        gram.pack(sums, stride);
    }

    void pack_directions(const Network<T>& net, const T* weight, Arena arena) {
        const int dim = net.width[0], height = net.width[1], stride = row_stride<T>(height);
        if (triangular) rotate(height, dim, weight, seeds, stride, basis, arena);
        if (net.laplacian == Laplacian::hutchinson) {
            const T scale = 1 / __builtin_sqrt(static_cast<T>(num_directions));
            for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(num_directions) * dim; ++i) basis[i] = scale * net.probes[i];
            to_directions.pack_transposed(basis, dim);
            from_directions.pack(basis, dim);
        }
        if (!triangular)  // (W_1 basis)^T, or W_1^T
            for (int j = 0; j < num_directions; ++j)
                for (int k = 0; k < stride; ++k) {
                    T sum = 0;
                    if (k < height) {
                        const T* row = weight + static_cast<std::ptrdiff_t>(k) * dim;
                        if (basis == nullptr)
                            sum = row[j];
                        else
                            for (int i = 0; i < dim; ++i) sum += row[i] * basis[static_cast<std::ptrdiff_t>(j) * dim + i];
                    }
                    seeds[static_cast<std::ptrdiff_t>(j) * stride + k] = sum;
                }
        for (int k = 0; k < padded<T>(height); ++k) {
            T sum = 0;
            for (int j = 0; j < num_directions; ++j) {
                const T seed = seeds[static_cast<std::ptrdiff_t>(j) * stride + k];
                sum += seed * seed;
            }
            seed_norms[k] = sum;
        }
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
