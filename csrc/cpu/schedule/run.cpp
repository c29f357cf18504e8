#include "cpu/schedule/run.hpp"

#include <numeric>

#include "cpu/schedule/chunks.hpp"

namespace fastflow::cpu {
namespace {

double mean(const std::vector<double>& sums, double count) {
    double total = 0;
    for (const double sum : sums) total += sum;
    return count > 0 ? total / count : 0;
}

// Calls f(chunk number, slot) for every run of samples with the same slot within a chunk.
template <class F>
void for_runs(const Partition& parts, const std::int64_t* slot, F f) {
    for (std::size_t c = 0; c < parts.chunks.size(); ++c) {
        std::int64_t previous = -1;
        for (std::int64_t i = parts.chunks[c].begin; i < parts.chunks[c].end; ++i) {
            const std::int64_t s = slot[parts.sample(i)];
            if (s != previous) f(c, s);
            previous = s;
        }
    }
}

// Whether a path costs fewer multiplications in the first layer's coordinates, the Gram matrices themselves included.
template <class T>
bool wants_gram(const FlowCall<T>& call, double count) {
    const bool jets_on_the_way = call.coefficients != nullptr && !call.backward;
    if (call.z == nullptr || call.direction == Direction::reverse || jets_on_the_way) return false;
    const double dim = call.net.width[0], front = call.net.width[1];
    if (front > dim) return false;  // there rounding would lead q to where no z is
    const double stages = call.method == Method::euler ? 1 : call.method == Method::heun ? 2 : 4;
    const double plainly = call.steps * stages * 2 * dim * front;
    const double projected = call.steps * (stages * front + dim) * front + dim * front;
    return count * projected + static_cast<double>(call.net.num_potentials) * front * front * dim < count * plainly;
}

}  // namespace

template <class T>
double run_points(PointCall<T> call, std::int64_t count, const std::int64_t* index, double loss_bar, int threads) {
    const Network<T>& net = call.net;
    const EngineKernels<T>& engine = engine_kernels<T>();
    const bool backward = call.backward();
    const Partition parts = partition(count, net.num_potentials, index, net.num_slots, call.slot, chunk_rows(count, engine.tile_rows(net)),
                                      affordable_chunks(backward ? engine.accumulators_size(net) : 0));
    call.order = parts.order.empty() ? nullptr : parts.order.data();
    call.loss_scale = static_cast<T>(count > 0 ? loss_bar * 2 / static_cast<double>(count) : 0);

    std::vector<std::int32_t> runs(backward ? net.num_slots : 0, 0);
    BiasRows<T> bias(net, parts.chunks.size());
    if (backward) {
        for_runs(parts, call.slot, [&](std::size_t, std::int64_t s) { ++runs[s]; });
        for_runs(parts, call.slot, [&](std::size_t c, std::int64_t s) { bias.first[c + 1] += runs[s] > 1; });
        std::partial_sum(bias.first.begin(), bias.first.end(), bias.first.begin());
        bias.clear(net, call.gradient, [&](std::int64_t s) { return runs[s] == 1; });
    }
    call.runs = runs.data();
    threads = useful_threads((backward ? 3 : 1) * multiplications(net) * static_cast<double>(count), threads);

    std::vector<double> losses(parts.chunks.size(), 0);
    run_chunks<T>(net, parts, engine.point_scratch_size(call), threads, {backward, call.gradient, call.coefficients_bar}, bias,
                  [&](std::int64_t c, void* packed, void* scratch, void* accumulators) {
                      engine.run_points(call, parts.chunks[c], packed, scratch, {accumulators, bias.rows(c), bias.slots(c), &losses[c]});
                  });
    return mean(losses, static_cast<double>(count));
}

template <class T>
double run_flow(FlowCall<T> call, std::int64_t count, const std::int64_t* index, double loss_bar, int threads) {
    call.net.gram = wants_gram(call, static_cast<double>(count));
    const Network<T>& net = call.net;
    const EngineKernels<T>& engine = engine_kernels<T>();
    const std::size_t chunk_bytes = call.backward ? engine.accumulators_size(net) + call.times * BiasRows<T>::row_width(net) * sizeof(T) : 0;
    const Partition parts =
        partition(count, net.num_potentials, index, net.num_slots, nullptr, chunk_rows(count, engine.tile_rows(net)), affordable_chunks(chunk_bytes));
    call.order = parts.order.empty() ? nullptr : parts.order.data();
    const double visits = static_cast<double>(count) * call.steps;
    call.loss_scale = static_cast<T>(visits > 0 ? loss_bar * 2 / visits : 0);

    BiasRows<T> bias(net, parts.chunks.size());
    if (call.backward) {
        for (std::size_t c = 0; c < parts.chunks.size(); ++c) bias.first[c + 1] = bias.first[c] + call.times;
        bias.clear(net, call.gradient, [](std::int64_t) { return false; });
    }
    threads = useful_threads((call.backward ? 3 : 1) * multiplications(net) * visits * (call.method == Method::rk4 ? 4 : 1), threads);
    std::vector<double> losses(parts.chunks.size(), 0);
    run_chunks<T>(net, parts, engine.flow_scratch_size(call), threads, {call.backward, call.gradient, call.coefficients_bar}, bias,
                  [&](std::int64_t c, void* packed, void* scratch, void* accumulators) {
                      engine.run_flow(call, parts.chunks[c], packed, scratch, {accumulators, bias.rows(c), bias.slots(c), &losses[c]});
                  });
    return mean(losses, visits);
}

#define FASTFLOW_INSTANTIATE(T)                                                               \
    template double run_points(PointCall<T>, std::int64_t, const std::int64_t*, double, int); \
    template double run_flow(FlowCall<T>, std::int64_t, const std::int64_t*, double, int);
FASTFLOW_INSTANTIATE(float)
FASTFLOW_INSTANTIATE(double)
#undef FASTFLOW_INSTANTIATE

}  // namespace fastflow::cpu
