// Where gradients gather: one block of accumulators per task, in the kernels' layouts, and the way from there to the
// parameters' own shapes.
#pragma once

#include "cpu/kernels/packed_potential.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// Sums of a tile's samples are added here when complete; what all samples of a potential add to a few numbers is added up in
// double, so that float32 rounds no more than the terms do.
template <class T>
struct Accumulators {
    T* weight[max_depth + 1];  // gradient of W_l transposed (width[l - 1], row_stride(width[l]))
    T* seeds;                  // gradient of X_1^T through the tangents (r, row_stride(width[1]))
    double* seed_norms;        // gradient of the squared row norms of X_1 (padded width[1],)
    double* out_weight;        // (padded width[depth],)
    double* out_bias;          // (1,)
    double* coefficients;      // (num_coefficients,)

    Accumulators(const Network<T>& net, Arena& arena) {
        for (int l = 1; l <= net.depth; ++l) weight[l] = arena.take<T>(weight_size(net, l));
        seeds = arena.take<T>(seeds_size(net));
        seed_norms = arena.take<double>(padded<T>(net.width[1]));
        out_weight = arena.take<double>(padded<T>(net.width[net.depth]));
        out_bias = arena.take<double>(1);
        coefficients = arena.take<double>(num_coefficients);
    }

    static std::size_t weight_size(const Network<T>& net, int l) { return static_cast<std::size_t>(net.width[l - 1]) * row_stride<T>(net.width[l]); }
    static std::size_t seeds_size(const Network<T>& net) { return static_cast<std::size_t>(count_directions(net)) * row_stride<T>(net.width[1]); }

    static void add(double* sums, Vec<T> addend) {
        for (int i = 0; i < lanes<T>; ++i) sums[i] += addend[i];
    }

    void add(const Network<T>& net, const Accumulators& other) {
        const auto add_all = [](auto* sum, const auto* addend, std::size_t size) {
            for (std::size_t i = 0; i < size; ++i) sum[i] += addend[i];
        };
        for (int l = 1; l <= net.depth; ++l) add_all(weight[l], other.weight[l], weight_size(net, l));
        add_all(seeds, other.seeds, seeds_size(net));
        add_all(seed_norms, other.seed_norms, padded<T>(net.width[1]));
        add_all(out_weight, other.out_weight, padded<T>(net.width[net.depth]));
        add_all(out_bias, other.out_bias, 1);
        add_all(coefficients, other.coefficients, num_coefficients);
    }

    // Writes the gradients of potential k. Changes the accumulators.
    void finish(const Network<T>& net, const Potential<T>& potential, std::int64_t k, const NetworkGradient<T>& out, T* coefficient_out) {
        if (potential.num_directions > 0) add_directions(net, potential);
        for (int l = 1; l <= net.depth; ++l) {
            const int in = net.width[l - 1], width = net.width[l], stride = row_stride<T>(width);
            T* target = out.weight[l] + k * in * width;
            for (int i = 0; i < width; ++i)
                for (int j = 0; j < in; ++j) target[static_cast<std::ptrdiff_t>(i) * in + j] = weight[l][static_cast<std::ptrdiff_t>(j) * stride + i];
        }
        const int last = net.width[net.depth];
        for (int i = 0; i < last; ++i) out.out_weight[k * last + i] = static_cast<T>(out_weight[i]);
        out.out_bias[k] = static_cast<T>(*out_bias);
        if (coefficient_out != nullptr)
            for (int i = 0; i < num_coefficients; ++i) coefficient_out[k * num_coefficients + i] = static_cast<T>(coefficients[i]);
    }

   private:
    // X_1 = W_1 basis: the gradient of X_1 comes back to W_1 through the transpose of the basis.
    void add_directions(const Network<T>& net, const Potential<T>& potential) {
        const int columns = padded<T>(net.width[1]), stride = row_stride<T>(net.width[1]);
        for (int j = 0; j < potential.num_directions; ++j)
            for (int c = 0; c < columns; c += lanes<T>) {
                T* target = seeds + static_cast<std::ptrdiff_t>(j) * stride + c;
                const Vec<T> seed = load(potential.seeds + static_cast<std::ptrdiff_t>(j) * stride + c);
                Vec<T> norm_bar = {};
                for (int i = 0; i < lanes<T>; ++i) norm_bar[i] = static_cast<T>(seed_norms[c + i]);
                Vec<T> sum = T(2) * norm_bar * seed;
                if (net.depth > 1) sum += load(target);
                if (potential.basis == nullptr) target = weight[1] + static_cast<std::ptrdiff_t>(j) * stride + c, sum += load(target);
                store<T>(target, sum);
            }
        if (potential.basis != nullptr)
            accumulate_product<T>(net.width[0], potential.num_directions, columns, {potential.basis, net.width[0]}, {seeds, stride},
                                  {weight[1], stride});
    }
};

// A row with the gradients of all layers' bias jets: (3, sum of padded widths).
template <class T>
struct BiasLayout {
    const Network<T>& net;
    int columns[max_depth + 1];  // where layer l starts in each of the three parts
    int width;                   // sum of padded widths

    explicit BiasLayout(const Network<T>& net_) : net(net_), width(0) {
        for (int l = 1; l <= net.depth; ++l) {
            columns[l] = width;
            width += padded<T>(net.width[l]);
        }
    }

    std::size_t size() const { return 3 * static_cast<std::size_t>(width); }
    int at(int l, int order) const { return order * width + columns[l]; }

    // Copies a row to bias jets' own shapes: target(l) gives the (3, width[l]) of a layer.
    template <class Target>
    void copy(const T* row, Target target) const {
        for (int l = 1; l <= net.depth; ++l) {
            T* out = target(l);
            for (int order = 0; order < 3; ++order)
                for (int i = 0; i < net.width[l]; ++i) *out++ = row[at(l, order) + i];
        }
    }

    // Copies a row to a partial row, which has the layers one after the other; returns its end.
    T* copy_partial(const T* row, T* partial) const {
        copy(row, [&](int l) {
            T* piece = partial;
            partial += 3 * static_cast<std::ptrdiff_t>(net.width[l]);
            return piece;
        });
        return partial;
    }
};

// The gradients of the bias jets, gathered while samples of one slot pass, and then written out, or, where other chunks
// have samples of that slot too, set aside as partial rows to be added later.
template <class T>
struct BiasGradient {
    BiasLayout<T> layout;
    NetworkGradient<T> out;
    const std::int32_t* runs;
    T* partial_rows;
    std::int64_t* partial_slots;
    T* row;
    std::int64_t slot = -1;

    BiasGradient(const Network<T>& net, const NetworkGradient<T>& out_, const std::int32_t* runs_, Arena& arena)
        : layout(net), out(out_), runs(runs_), row(arena.take<T>(layout.size())) {}

    void begin(std::int64_t next_slot) {
        if (next_slot == slot) return;
        flush();
        slot = next_slot;
        __builtin_memset(row, 0, sizeof(T) * layout.size());
    }

    void flush() {
        if (slot < 0) return;
        if (runs[slot] > 1) {
            *partial_slots++ = slot;
            partial_rows = layout.copy_partial(row, partial_rows);
        } else {
            layout.copy(row, [&](int l) { return out.bias_jet[l] + slot * 3 * layout.net.width[l]; });
        }
        slot = -1;
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
