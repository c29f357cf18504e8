// From a partition to the pool: potentials are packed, their chunks run, and the chunks' gradients added up in order. What a
// chunk does is the caller's.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/isa/kernel_table.hpp"
#include "cpu/schedule/partition.hpp"
#include "cpu/schedule/pool.hpp"
#include "cpu/schedule/workspace.hpp"

namespace fastflow::cpu {

template <class T>
const EngineKernels<T>& engine_kernels() {
    if constexpr (sizeof(T) == sizeof(float))
        return kernels().f32;
    else
        return kernels().f64;
}

// Memory for packed potentials and gradient accumulators: potentials are taken in waves that fit in it.
constexpr std::size_t wave_bytes = std::size_t(24) << 20;
constexpr std::int64_t many_chunks = 64;

inline std::size_t aligned(std::size_t size) { return (size + 63) / 64 * 64; }

// Samples per chunk: enough to make little of a chunk's own cost, few enough to occupy many threads.
inline std::int64_t chunk_rows(std::int64_t count, std::int64_t tile) {
    return std::max((count + many_chunks - 1) / many_chunks, std::clamp<std::int64_t>(count / 8, std::min<std::int64_t>(tile, 128), 128));
}

// How many chunks a potential may have when each holds so much memory until the wave's end.
inline std::int64_t affordable_chunks(std::size_t bytes_per_chunk) {
    return bytes_per_chunk == 0 ? many_chunks : std::min<std::int64_t>(many_chunks, wave_bytes / bytes_per_chunk);
}

// Multiplications that a point costs: of the value, of its gradient, and of the tangents.
template <class T>
double multiplications(const Network<T>& net) {
    double hidden = 0;
    for (int l = 2; l <= net.depth; ++l) hidden += static_cast<double>(net.width[l]) * net.width[l - 1];
    const int directions = net.laplacian == Laplacian::none         ? 0
                           : net.laplacian == Laplacian::hutchinson ? net.num_probes
                                                                    : std::min(net.width[0], net.width[1]);
    return (2 + directions) * hidden + 2.0 * net.width[0] * net.width[1];
}

// Threads worth waking for so many multiplications: one takes as long to come as this many of them.
inline int useful_threads(double multiplications, int threads) {
    constexpr double worth_a_thread = 1e6;
    return static_cast<int>(std::clamp(multiplications / worth_a_thread, 1.0, static_cast<double>(threads)));
}

// What a call writes gradients to; without gradients, `wanted` is false.
template <class T>
struct GradientTarget {
    bool wanted;
    NetworkGradient<T> gradient;
    T* coefficients_bar;
};

// The gradients of a potential that has no samples.
template <class T>
void zero_gradient(const Network<T>& net, std::int64_t k, const GradientTarget<T>& target) {
    const NetworkGradient<T>& out = target.gradient;
    for (int l = 1; l <= net.depth; ++l) {
        const std::size_t size = static_cast<std::size_t>(net.width[l]) * net.width[l - 1];
        std::fill_n(out.weight[l] + k * size, size, T(0));
    }
    std::fill_n(out.out_weight + k * net.width[net.depth], net.width[net.depth], T(0));
    out.out_bias[k] = 0;
    if (target.coefficients_bar != nullptr) std::fill_n(target.coefficients_bar + k * num_coefficients, num_coefficients, T(0));
}

// Blocks that the calling thread keeps from call to call.
struct Workspaces {
    Workspace packed, scratch, accumulators;
};

inline Workspaces& workspaces() {
    thread_local Workspaces mine;
    return mine;
}

// The gradients of the bias jets that chunks don't write themselves: they leave partial rows, which are added up in order
// when a wave of potentials is done.
template <class T>
class BiasRows {
   public:
    std::vector<std::int64_t> first;  // (chunks + 1,): where each chunk's rows begin

    BiasRows(const Network<T>& net, std::size_t chunks) : first(chunks + 1, 0), width_(row_width(net)) {}

    // Of a row: (3, width[l]) of all layers.
    static std::size_t row_width(const Network<T>& net) {
        std::size_t width = 0;
        for (int l = 1; l <= net.depth; ++l) width += 3 * static_cast<std::size_t>(net.width[l]);
        return width;
    }

    std::int64_t between(std::int64_t begin, std::int64_t end) const { return first[end] - first[begin]; }
    std::size_t bytes(std::int64_t begin, std::int64_t end) const { return between(begin, end) * width_ * sizeof(T); }

    void begin_wave(std::int64_t begin, std::int64_t end) {
        base_ = first[begin];
        rows_.resize(between(begin, end) * width_);
        slots_.resize(between(begin, end));
    }

    T* rows(std::int64_t chunk) { return rows_.data() + (first[chunk] - base_) * width_; }
    std::int64_t* slots(std::int64_t chunk) { return slots_.data() + (first[chunk] - base_); }

    void end_wave(const Network<T>& net, const NetworkGradient<T>& out) const {
        const T* row = rows_.data();
        for (const std::int64_t slot : slots_)
            for (int l = 1; l <= net.depth; ++l) {
                const std::size_t size = 3 * static_cast<std::size_t>(net.width[l]);
                T* target = out.bias_jet[l] + slot * size;
                for (std::size_t i = 0; i < size; ++i) target[i] += *row++;
            }
    }

    // Zeroes the slots for which `written` is false: a chunk writes those alone and whole.
    template <class Written>
    static void clear(const Network<T>& net, const NetworkGradient<T>& out, Written written) {
        for (int l = 1; l <= net.depth; ++l) {
            const std::size_t size = 3 * static_cast<std::size_t>(net.width[l]);
            for (std::int64_t s = 0; s < net.num_slots; ++s)
                if (!written(s)) std::fill_n(out.bias_jet[l] + s * size, size, T(0));
        }
    }

   private:
    std::size_t width_;
    std::int64_t base_ = 0;
    std::vector<T> rows_;
    std::vector<std::int64_t> slots_;  // of each row
};

// Runs task(chunk number, packed potential, scratch, accumulators) for every chunk, which may leave rows in `bias`, and writes
// the gradients.
template <class T, class Task>
void run_chunks(const Network<T>& net, const Partition& parts, std::size_t scratch_size, int threads, const GradientTarget<T>& target,
                BiasRows<T>& bias, Task task) {
    const EngineKernels<T>& engine = engine_kernels<T>();
    const std::size_t packed_size = aligned(engine.packed_size(net));
    const std::size_t accumulators_size = target.wanted ? aligned(engine.accumulators_size(net)) : 0;
    const std::size_t scratch_step = aligned(std::max(scratch_size, engine.pack_scratch_size(net)));
    const auto chunks_of = [&](std::int64_t first, std::int64_t last) { return parts.first_chunk[last] - parts.first_chunk[first]; };

    for (std::int64_t first = 0, last; first < net.num_potentials; first = last) {
        const std::int64_t first_chunk = parts.first_chunk[first];
        const auto bytes = [&](std::int64_t end) {
            return packed_size * (end - first) + accumulators_size * chunks_of(first, end) + bias.bytes(first_chunk, parts.first_chunk[end]);
        };
        // One thread takes one potential at a time, which then is in its cache when its chunks run.
        for (last = first + 1; threads > 1 && last < net.num_potentials && bytes(last + 1) <= wave_bytes;) ++last;
        const std::int64_t most_tasks = std::max(last - first, chunks_of(first, last));
        char* const packed = workspaces().packed.get(packed_size * (last - first));
        char* const scratch = workspaces().scratch.get(scratch_step * std::min<std::int64_t>(threads, most_tasks));
        char* const accumulators = workspaces().accumulators.get(accumulators_size * chunks_of(first, last));
        bias.begin_wave(first_chunk, parts.first_chunk[last]);

        parallel_for(threads, last - first, [&](std::int64_t i, int worker) {
            if (chunks_of(first + i, first + i + 1) > 0) engine.pack(net, first + i, packed + i * packed_size, scratch + worker * scratch_step);
        });
        parallel_for(threads, chunks_of(first, last), [&](std::int64_t i, int worker) {
            if (target.wanted) std::memset(accumulators + i * accumulators_size, 0, accumulators_size);
            task(first_chunk + i, packed + (parts.chunks[first_chunk + i].potential - first) * packed_size, scratch + worker * scratch_step,
                 accumulators + i * accumulators_size);
        });
        if (!target.wanted) continue;
        bias.end_wave(net, target.gradient);
        parallel_for(threads, last - first, [&](std::int64_t i, int) {
            const std::int64_t k = first + i, chunks = chunks_of(k, k + 1);
            if (chunks == 0) return zero_gradient(net, k, target);
            char* const sum = accumulators + chunks_of(first, k) * accumulators_size;
            for (std::int64_t c = 1; c < chunks; ++c) engine.add_accumulators(net, sum, sum + c * accumulators_size);
            engine.finish_gradient(net, k, packed + i * packed_size, sum, target.gradient, target.coefficients_bar);
        });
    }
    workspaces().packed.trim();
    workspaces().scratch.trim();
    workspaces().accumulators.trim();
}

}  // namespace fastflow::cpu
