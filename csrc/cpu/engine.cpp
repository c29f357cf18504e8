#include "engine.hpp"

#include <algorithm>
#include <cstring>

#include "kernels.hpp"
#include "partition.hpp"
#include "pool.hpp"
#include "workspace.hpp"

namespace fastflow::cpu {
namespace {

template <class T>
const EngineKernels<T>& engine_kernels() {
    if constexpr (sizeof(T) == sizeof(float))
        return kernels().f32;
    else
        return kernels().f64;
}

// Memory for packed potentials and gradient accumulators: potentials are taken in waves that fit in it. What a chunk holds
// besides is a few tiles.
constexpr std::size_t wave_bytes = std::size_t(24) << 20;
constexpr std::int64_t many_chunks = 64;

struct Workspaces {
    Workspace packed, scratch, accumulators;
    ~Workspaces() = default;
};

Workspaces& workspaces() {
    thread_local Workspaces mine;
    return mine;
}

std::size_t aligned(std::size_t size) { return (size + 63) / 64 * 64; }

// Runs potentials [first, last) of a partition: packs them, runs `task(chunk number, packed, scratch)` for all their chunks,
// then `finish(potential, packed)` for each.
template <class T, class Task, class Finish>
void run_wave(const Network<T>& net, const Partition& parts, std::int64_t first, std::int64_t last, std::size_t scratch_size, int threads,
              Task task, Finish finish) {
    const EngineKernels<T>& engine = engine_kernels<T>();
    const std::size_t packed_size = aligned(engine.packed_size(net));
    scratch_size = aligned(std::max(scratch_size, engine.pack_scratch_size(net)));
    char* packed = workspaces().packed.get(packed_size * (last - first));
    char* scratch = workspaces().scratch.get(scratch_size * threads);
    const auto has_chunks = [&](std::int64_t k) { return parts.first_chunk[k] < parts.first_chunk[k + 1]; };

    parallel_for(threads, last - first, [&](std::int64_t i, int worker) {
        if (has_chunks(first + i)) engine.pack(net, first + i, packed + i * packed_size, scratch + worker * scratch_size);
    });
    const std::int64_t chunk = parts.first_chunk[first];
    parallel_for(threads, parts.first_chunk[last] - chunk, [&](std::int64_t i, int worker) {
        task(chunk + i, packed + (parts.chunks[chunk + i].potential - first) * packed_size, scratch + worker * scratch_size);
    });
    parallel_for(threads, last - first, [&](std::int64_t i, int) {
        if (has_chunks(first + i)) finish(first + i, packed + i * packed_size);
    });
}

// Gradients of the bias jets of one call: which runs of samples share a slot, and the partial rows of those that do.
template <class T>
struct BiasRows {
    std::vector<std::int32_t> runs;
    std::vector<std::int64_t> first_row;  // (chunks + 1,)
    std::vector<std::int64_t> slots;      // of each partial row
    std::vector<T> rows;
    std::size_t width = 0;

    BiasRows(const Network<T>& net, const Partition& parts, const std::int64_t* slot) : runs(net.slots, 0) {
        for (int l = 1; l <= net.depth; ++l) width += 3 * static_cast<std::size_t>(net.width[l]);
        const auto for_runs = [&](const Chunk& chunk, auto f) {
            std::int64_t previous = -1;
            for (std::int64_t i = chunk.begin; i < chunk.end; ++i) {
                const std::int64_t s = slot[parts.sample(i)];
                if (s != previous) f(s);
                previous = s;
            }
        };
        for (const Chunk& chunk : parts.chunks) for_runs(chunk, [&](std::int64_t s) { ++runs[s]; });
        first_row.push_back(0);
        for (const Chunk& chunk : parts.chunks) {
            std::int64_t shared = 0;
            for_runs(chunk, [&](std::int64_t s) { shared += runs[s] > 1; });
            first_row.push_back(first_row.back() + shared);
        }
        slots.resize(first_row.back());
        rows.resize(first_row.back() * width);
    }

    // Zeroes the slots that nobody wrote, and adds up the shared ones.
    void finish(const Network<T>& net, const NetworkGradient<T>& out) const {
        for (int l = 1; l <= net.depth; ++l) {
            const std::size_t size = 3 * static_cast<std::size_t>(net.width[l]);
            for (std::int64_t s = 0; s < net.slots; ++s)
                if (runs[s] != 1) std::fill_n(out.bias_jets[l] + s * size, size, T(0));
        }
        for (std::size_t r = 0; r < slots.size(); ++r) {
            const T* row = rows.data() + r * width;
            for (int l = 1; l <= net.depth; ++l) {
                const std::size_t size = 3 * static_cast<std::size_t>(net.width[l]);
                T* target = out.bias_jets[l] + slots[r] * size;
                for (std::size_t i = 0; i < size; ++i) target[i] += *row++;
            }
        }
    }
};

// The gradients of a potential that has no samples.
template <class T>
void zero_gradient(const Network<T>& net, std::int64_t k, const NetworkGradient<T>& out, T* coefficients_bar) {
    for (int l = 1; l <= net.depth; ++l) {
        const std::size_t size = static_cast<std::size_t>(net.width[l]) * net.width[l - 1];
        std::fill_n(out.weight[l] + k * size, size, T(0));
    }
    std::fill_n(out.out_weight + k * net.width[net.depth], net.width[net.depth], T(0));
    out.out_bias[k] = 0;
    if (coefficients_bar != nullptr) std::fill_n(coefficients_bar + k * num_coefficients, num_coefficients, T(0));
}

// Samples per chunk: enough to make little of a chunk's own cost, few enough to occupy many threads.
std::int64_t chunk_rows(std::int64_t count, std::int64_t tile) {
    return std::max((count + many_chunks - 1) / many_chunks, std::clamp<std::int64_t>(count / 8, std::min<std::int64_t>(tile, 128), 128));
}

}  // namespace

template <class T>
double run_points(PointCall<T> call, std::int64_t count, const std::int64_t* index, double loss_bar, int threads) {
    const Network<T>& net = call.net;
    const EngineKernels<T>& engine = engine_kernels<T>();
    const std::size_t accumulators_size = call.backward() ? aligned(engine.accumulators_size(net)) : 0;
    const std::int64_t affordable = accumulators_size == 0 ? many_chunks : static_cast<std::int64_t>(wave_bytes / accumulators_size);
    const Partition parts = partition(count, net.potentials, index, net.slots, call.slot, chunk_rows(count, engine.tile_rows(net)),
                                      std::min(many_chunks, affordable));
    call.order = parts.order.empty() ? nullptr : parts.order.data();
    call.loss_scale = static_cast<T>(count > 0 ? loss_bar * 2 / static_cast<double>(count) : 0);

    std::vector<double> losses(parts.chunks.size(), 0);
    BiasRows<T> bias = call.backward() ? BiasRows<T>(net, parts, call.slot) : BiasRows<T>(net, Partition{}, nullptr);
    call.runs = bias.runs.data();

    const std::size_t scratch_size = engine.point_scratch_size(call);
    const std::size_t packed_size = aligned(engine.packed_size(net));
    for (std::int64_t first = 0, last; first < net.potentials; first = last) {
        const std::int64_t chunk = parts.first_chunk[first];
        const auto bytes = [&](std::int64_t end) { return packed_size * (end - first) + accumulators_size * (parts.first_chunk[end] - chunk); };
        for (last = first + 1; last < net.potentials && bytes(last + 1) <= wave_bytes;) ++last;
        char* accumulators = workspaces().accumulators.get(accumulators_size * (parts.first_chunk[last] - chunk));

        run_wave<T>(
            net, parts, first, last, scratch_size, threads,
            [&](std::int64_t c, char* packed, char* scratch) {
                char* mine = accumulators + (c - chunk) * accumulators_size;
                std::memset(mine, 0, accumulators_size);
                const std::int64_t row = call.backward() ? bias.first_row[c] : 0;
                engine.run_points(call, parts.chunks[c], packed, scratch,
                                  {mine, bias.rows.data() + row * bias.width, bias.slots.data() + row, &losses[c]});
            },
            [&](std::int64_t k, char* packed) {
                if (!call.backward()) return;
                char* sum = accumulators + (parts.first_chunk[k] - chunk) * accumulators_size;
                for (std::int64_t c = parts.first_chunk[k] + 1; c < parts.first_chunk[k + 1]; ++c)
                    engine.add_accumulators(accumulators_size, sum, accumulators + (c - chunk) * accumulators_size);
                engine.finish_gradient(net, k, packed, sum, call.gradient, call.coefficients_bar);
            });
    }
    if (call.backward()) {
        bias.finish(net, call.gradient);
        for (std::int64_t k = 0; k < net.potentials; ++k)
            if (parts.first_chunk[k] == parts.first_chunk[k + 1]) zero_gradient(net, k, call.gradient, call.coefficients_bar);
    }
    workspaces().packed.trim();
    workspaces().accumulators.trim();
    double sum = 0;
    for (const double loss : losses) sum += loss;
    return count > 0 ? sum / static_cast<double>(count) : 0;
}

template double run_points<float>(PointCall<float>, std::int64_t, const std::int64_t*, double, int);
template double run_points<double>(PointCall<double>, std::int64_t, const std::int64_t*, double, int);

}  // namespace fastflow::cpu
