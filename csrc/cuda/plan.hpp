// How a flow is laid out on a device: the tile, what lies in shared memory, the workspace. Host code, without CUDA.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/device.hpp"
#include "cuda/problem.hpp"

namespace fastflow::cuda {

constexpr int max_threads = 256;
constexpr int max_tile_shift = 5;
constexpr int num_scalars = 6;            // per sample, see Tile
constexpr int reduction_parts = 16;       // partial sums per sample
constexpr std::int64_t partial_limit = std::int64_t(1) << 28;  // bytes of all blocks' gradients

// What a plan has to fit into.
struct Device {
    int multiprocessors;
    std::int64_t shared_bytes;  // most shared memory that a block may ask for
};

// Rows of weights in shared memory start an odd number of elements apart: columns are then read without bank conflicts.
FASTFLOW_HOST_DEVICE constexpr int weight_stride(int columns) { return columns | 1; }

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline int stages(Method method) { return method == Method::euler ? 1 : method == Method::heun ? 2 : 4; }

namespace detail {

struct Rows {
    std::int64_t count = 0;

    int take(std::int64_t rows) {
        const std::int64_t first = count;
        count += rows;
        return static_cast<int>(first);
    }
};

inline int widest(const Problem& problem, int first_layer) {
    return *std::max_element(problem.width + first_layer, problem.width + problem.depth + 1);
}

// Names the rows of tile state; returns how many there are.
inline std::int64_t lay_out_state(const Problem& problem, bool backward, bool normalised, Plan& plan) {
    Rows rows;
    const int dim = problem.width[0], last = stages(problem.method);
    const bool reverse = problem.direction == Direction::reverse;
    plan.point[0] = rows.take(dim);
    for (int stage = 1; stage < last; ++stage) plan.point[stage] = backward || stage == 1 ? rows.take(dim) : plan.point[1];
    plan.increment = !backward || last > 1 || normalised ? rows.take(dim) : 0;
    plan.signal = rows.take(problem.units);
    if (backward) {
        const int hidden = rows.take(problem.units);
        for (int l = 1; l <= problem.depth; ++l) plan.h[l] = hidden + problem.first_unit[l];
        plan.sigma1 = rows.take(problem.units);
        plan.curvature = rows.take(problem.units);
        plan.delta_bar = rows.take(problem.units);
        plan.scratch = rows.take(widest(problem, 0));
        plan.adjoint = rows.take(dim);
        plan.increment_bar = rows.take(dim);
        plan.stage_bar = rows.take(dim);
        plan.given = reverse ? rows.take(dim) : 0;
        plan.trial = reverse ? rows.take(dim) : 0;
    } else {
        // Layers take turns in two buffers, which are free again when the gradient pass needs scratch.
        const int width = widest(problem, 1), both = rows.take(std::max(problem.depth > 1 ? 2 * width : width, problem.width[0]));
        for (int l = 1; l <= problem.depth; ++l) plan.h[l] = both + (l % 2 == 0 ? width : 0);
        plan.scratch = both;
        plan.end = reverse ? rows.take(dim) : 0;
    }
    return rows.count;
}

inline void lay_out_partials(const Problem& problem, Plan& plan) {
    std::int64_t count = 0;
    for (int l = 1; l <= problem.depth; ++l) {
        plan.partial_weight[l] = count;
        count += static_cast<std::int64_t>(problem.width[l]) * problem.width[l - 1];
    }
    plan.partial_out_weight = count;
    plan.partial_out_bias = count += problem.width[problem.depth];
    plan.partial_bias = count += 1;
    plan.partial_elements = round_up(count + static_cast<std::int64_t>(problem.times) * problem.units, 4);
}

// The largest tile that leaves no multiprocessor idle and isn't larger than a potential's share of the samples.
inline int preferred_tile_shift(const Problem& problem, const Device& device) {
    int shift = 2;
    while (shift < max_tile_shift && (problem.batch >> (shift + 1)) >= device.multiprocessors && (problem.batch >> shift) >= problem.num_potentials)
        ++shift;
    return shift;
}

}  // namespace detail

inline std::int64_t scalar_elements(int tile) { return static_cast<std::int64_t>(num_scalars + reduction_parts) * tile; }

// Slots for tiles: potential k's start at offsets[k] / tile + k, which leaves room for the last one to be partly filled.
inline std::int64_t tile_slots(const Problem& problem, int tile_shift) { return (problem.batch >> tile_shift) + problem.num_potentials; }

inline Plan make_plan(const Problem& problem, const Device& device, int element_bytes, bool backward) {
    Plan plan{};
    const bool normalised = problem.step_length >= 0;
    const std::int64_t rows = detail::lay_out_state(problem, backward, normalised, plan);
    std::int64_t all_weights = 0, widest_row = 0;
    for (int l = 1; l <= problem.depth; ++l) {
        const std::int64_t stride = weight_stride(problem.width[l - 1]);
        plan.weight_offset[l] = static_cast<int>(std::min<std::int64_t>(all_weights, INT32_MAX));
        all_weights += stride * problem.width[l];
        widest_row = std::max(widest_row, round_up(stride, 4));
    }
    all_weights = round_up(all_weights, 4);

    // First choice: everything on chip. Second: weights stream through shared memory in pieces of at least 16 rows, so that
    // the state can stay. Last: state in the workspace, which the caches hold, and the weights on chip as far as they go.
    const int preferred = detail::preferred_tile_shift(problem, device);
    const std::int64_t available = device.shared_bytes / element_bytes;
    const auto stride_of = [](int shift) { return shift == 2 ? 4 : (1 << shift) + 4; };
    const auto left = [&](int shift, bool with_state) {
        return available - scalar_elements(1 << shift) - (with_state ? rows * stride_of(shift) : 0);
    };
    const std::int64_t some_weights = std::min(all_weights, 16 * widest_row);
    int shift = preferred;
    while (shift > 3 && left(shift, true) < all_weights) --shift;
    if (left(shift, true) < all_weights)
        for (shift = preferred; shift > 2 && left(shift, true) < some_weights; --shift) {
        }
    plan.state_in_shared = left(shift, true) >= some_weights;
    if (!plan.state_in_shared) shift = std::min(preferred, 4);
    const std::int64_t room = left(shift, plan.state_in_shared);
    if (room < widest_row)
        throw std::invalid_argument("a row of weights takes " + std::to_string(widest_row * element_bytes) +
                                    " bytes of shared memory, of which this device has " + std::to_string(device.shared_bytes) +
                                    " per block: use a narrower network, or ff.use_backend('reference')");
    plan.resident = room >= all_weights;
    if (!plan.resident) std::fill(plan.weight_offset, plan.weight_offset + max_depth + 1, 0);
    plan.tile_shift = shift;
    plan.stride = stride_of(shift);
    // A streamed layer is read in pieces of whole rows; more of them than 32 KiB only take room from other blocks.
    const std::int64_t piece = std::clamp<std::int64_t>(std::max<std::int64_t>(some_weights, 32768 / element_bytes), widest_row, room);
    plan.weight_elements = static_cast<int>((plan.resident ? all_weights : piece) / 4 * 4);
    plan.state_elements = round_up(rows * plan.stride, 4);
    plan.shared_bytes = element_bytes * (scalar_elements(1 << shift) + plan.weight_elements + (plan.state_in_shared ? plan.state_elements : 0));
    plan.threads = max_threads;

    const std::int64_t slots = tile_slots(problem, shift);
    plan.blocks = slots;
    if (backward) {
        detail::lay_out_partials(problem, plan);
        const std::int64_t affordable = partial_limit / (plan.partial_elements * element_bytes);
        plan.blocks = std::max<std::int64_t>(1, std::min({slots, std::int64_t(2) * device.multiprocessors, affordable}));
    } else if (!plan.state_in_shared) {
        plan.blocks = std::min<std::int64_t>(slots, std::int64_t(2) * device.multiprocessors);
    }
    plan.tiles_per_block = (slots + plan.blocks - 1) / plan.blocks;
    plan.blocks = (slots + plan.tiles_per_block - 1) / plan.tiles_per_block;
    // Blocks and potentials follow one another in one order, so block b's gradients of potential k can have place b + k.
    const std::int64_t partials = backward ? (plan.blocks + problem.num_potentials) * plan.partial_elements : 0;
    plan.workspace_elements = partials + (plan.state_in_shared ? 0 : plan.blocks * plan.state_elements);
    return plan;
}

}  // namespace fastflow::cuda
