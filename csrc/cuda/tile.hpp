// A tile of samples of one potential, and what a block of threads does with it: products with the weights, the field, one
// step's increment, fixed-point iterations.
//
// Tile state is unit-major: row = unit, column = sample. A product gives each thread four samples of one to four units; a
// thread finishes (bias, activation, ..) the very elements that it computed, so that one barrier per layer is enough.
#pragma once

#include "cuda/activations.hpp"
#include "cuda/plan.hpp"

namespace fastflow::cuda {

// Four neighbouring samples of a row, read and written at once.
template <class T>
struct alignas(16) Four {
    T v[4];
};

template <class T>
FASTFLOW_DEVICE Four<T> load4(const T* from) {
    return *reinterpret_cast<const Four<T>*>(from);
}

template <class T>
FASTFLOW_DEVICE void store4(T* to, const Four<T>& value) {
    *reinterpret_cast<Four<T>*>(to) = value;
}

template <class T>
FASTFLOW_DEVICE T smaller(T a, T b) {
    return a < b ? a : b;
}

template <class T>
constexpr T fixed_point_tolerance = sizeof(T) == 4 ? T(8 * 1.1920928955078125e-7) : T(8 * 2.220446049250313e-16);
constexpr int most_iterations = 100;

template <class T, bool state_in_shared>
struct Tile {
    const Flow<T>& flow;
    const Problem& problem;
    const Plan& plan;
    const int thread, threads, lane, warp, warps;
    const int tile, stride, dim, depth, stages;
    const int column, unit_thread, unit_threads;  // the thread's four samples, and its place among those with the same
    T *psi1, *psi2, *factor, *error, *moved, *worst;  // per sample; v_bar shares `moved`
    T* parts;                                                    // of sums over a row of threads (reduction_parts, tile)
    T* weights;                                                  // rows of W_l, weight_stride(width[l - 1]) apart
    T* state;
    std::int64_t potential = -1, begin = 0;  // the tile's potential and where its samples start in `order`
    int samples = 0;

    FASTFLOW_DEVICE Tile(const Flow<T>& flow_, T* shared, T* workspace)
        : flow(flow_), problem(flow_.problem), plan(flow_.plan), thread(thread_index()), threads(thread_count()), lane(thread % warp_size),
          warp(thread / warp_size), warps(threads / warp_size), tile(1 << plan.tile_shift), stride(plan.stride), dim(problem.width[0]),
          depth(problem.depth), stages(problem.method == Method::euler  ? 1
                                       : problem.method == Method::heun ? 2
                                                                        : 4),
          column(thread % (tile / 4) * 4), unit_thread(thread / (tile / 4)), unit_threads(threads / (tile / 4)) {
        psi1 = shared, psi2 = psi1 + tile, factor = psi2 + tile;
        error = factor + tile, moved = error + tile, worst = moved + tile;
        parts = worst + tile;
        weights = parts + reduction_parts * tile;
        if constexpr (state_in_shared)
            state = weights + plan.weight_elements;
        else
            state = workspace + block_index() * plan.state_elements;
        if (thread < tile) psi1[thread] = 1, psi2[thread] = 0, factor[thread] = 1;
    }

    FASTFLOW_DEVICE T* rows(int first) const { return state + static_cast<std::int64_t>(first) * stride; }
    FASTFLOW_DEVICE T* rows_of_layer(int first, int l) const { return rows(first + problem.first_unit[l]); }
    FASTFLOW_DEVICE std::int64_t sample(int s) const { return flow.order[begin + s]; }
    FASTFLOW_DEVICE std::int64_t path_offset(int s, int n) const { return (sample(s) * (problem.steps + 1) + n) * dim; }

    // Calls f(tile slot) for each of this block's.
    template <class F>
    FASTFLOW_DEVICE void for_tiles(F f) {
        // Sorted samples outside all potentials' ranges have an index that is none of a potential.
        if (thread == 0 && (flow.offsets[0] != 0 || flow.offsets[problem.num_potentials] != problem.batch)) stop();
        const std::int64_t slots = (problem.batch >> plan.tile_shift) + problem.num_potentials, first = block_index() * plan.tiles_per_block;
        for (std::int64_t slot = first; slot < smaller(first + plan.tiles_per_block, slots); ++slot) f(slot);
    }

    // Finds the slot's potential, the last whose slots start there or before, and samples; tells whether the potential is
    // another than that of the tile before.
    FASTFLOW_DEVICE bool locate(std::int64_t slot) {
        std::int64_t low = 0, high = problem.num_potentials;
        while (high - low > 1) {
            const std::int64_t middle = low + (high - low) / 2;
            ((flow.offsets[middle] >> plan.tile_shift) + middle <= slot ? low : high) = middle;
        }
        const std::int64_t start = flow.offsets[low];
        begin = start + ((slot - (start >> plan.tile_shift) - low) << plan.tile_shift);
        const std::int64_t rest = flow.offsets[low + 1] - begin;
        samples = static_cast<int>(rest < 0 ? 0 : smaller<std::int64_t>(rest, tile));
        const bool other = low != potential;
        potential = low;
        return other;
    }

    FASTFLOW_DEVICE void load_rows(int l, int first, int count, T* to) const {
        const int columns = problem.width[l - 1], row_stride = weight_stride(columns);
        const T* from = flow.weight[l] + (potential * problem.width[l] + first) * columns;
        for (int row = warp; row < count; row += warps)
            for (int i = lane; i < columns; i += warp_size) to[row * row_stride + i] = from[static_cast<std::int64_t>(row) * columns + i];
    }

    FASTFLOW_DEVICE void load_weights() const {
        if (!plan.resident) return;
        barrier();
        for (int l = 1; l <= depth; ++l) load_rows(l, 0, problem.width[l], weights + plan.weight_offset[l]);
        barrier();
    }

    // out[unit] (+)= sum over inner of w[unit, inner] x[inner], for this thread's samples and `units` units, U at a time.
    template <bool transposed, int U>
    FASTFLOW_DEVICE void multiply(const T* w, int row_stride, int units, int inner, const T* x, T* out, bool add) const {
        for (int first = unit_thread; first < units; first += U * unit_threads) {
            const T* row[U];
            Four<T> sum[U];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int unit = smaller(first + u * unit_threads, units - 1);
                row[u] = w + unit * (transposed ? 1 : row_stride);
                if (add)
                    sum[u] = load4(out + unit * stride + column);
                else
                    sum[u] = {};
            }
            const T* in = x + column;
#pragma unroll 4
            for (int i = 0; i < inner; ++i) {
                const Four<T> value = load4(in + i * stride);
#pragma unroll
                for (int u = 0; u < U; ++u) {
                    const T weight = row[u][transposed ? i * row_stride : i];
#pragma unroll
                    for (int s = 0; s < 4; ++s) sum[u].v[s] += weight * value.v[s];
                }
            }
#pragma unroll
            for (int u = 0; u < U; ++u)
                if (first + u * unit_threads < units) store4(out + (first + u * unit_threads) * stride + column, sum[u]);
        }
    }

    template <bool transposed>
    FASTFLOW_DEVICE void multiply(const T* w, int row_stride, int units, int inner, const T* x, T* out, bool add) const {
        // Four doubles of four units would take more registers than there are.
        if (sizeof(T) == 4 && units > 2 * unit_threads)
            multiply<transposed, sizeof(T) == 4 ? 4 : 2>(w, row_stride, units, inner, x, out, add);
        else if (units > unit_threads)
            multiply<transposed, 2>(w, row_stride, units, inner, x, out, add);
        else
            multiply<transposed, 1>(w, row_stride, units, inner, x, out, add);
    }

    // out = W_l x, or W_l^T x; then finish(unit, position) for each element of out's rows, by the thread that has computed them:
    // position is that of four samples in a matrix whose row 0 is the product's.
    template <bool transposed, class Finish>
    FASTFLOW_DEVICE void product(int l, const T* x, T* out, Finish finish) const {
        const int width = problem.width[l], columns = problem.width[l - 1], row_stride = weight_stride(columns);
        const int piece = plan.resident ? width : plan.weight_elements / row_stride;
        for (int first = 0; first < width; first += piece) {
            const int count = smaller(piece, width - first);
            if (!plan.resident) {
                barrier();
                load_rows(l, first, count, weights);
                barrier();
            }
            const T* w = weights + plan.weight_offset[l];
            if constexpr (transposed) {
                multiply<true>(w, row_stride, columns, count, x + first * stride, out, first > 0);
            } else {
                multiply<false>(w, row_stride, count, columns, x, out + first * stride, false);
                for_own_units(count, [&](int unit, int) { finish(first + unit, (first + unit) * stride + column); });
            }
        }
        if constexpr (transposed) for_own_units(columns, finish);
    }

    // f(unit, position of the thread's four samples in a matrix) for the thread's share of `units` rows.
    template <class F>
    FASTFLOW_DEVICE void for_own_units(int units, F f) const {
        for (int unit = unit_thread; unit < units; unit += unit_threads) f(unit, unit * stride + column);
    }

    // finish(sample, sum over `count` rows of term(row, sample)), by one thread for each sample; everyone sees its result.
    template <class Term, class Finish>
    FASTFLOW_DEVICE void sum_rows(int count, Term term, Finish finish) const {
        const int s = thread & (tile - 1), part = thread >> plan.tile_shift;
        const int num_parts = smaller(reduction_parts, threads >> plan.tile_shift);
        if (part < num_parts) {
            T sum = 0;
            for (int row = part; row < count; row += num_parts) sum += term(row, s);
            parts[part * tile + s] = sum;
        }
        barrier();
        if (thread < tile) {
            T sum = 0;
            for (int i = 0; i < num_parts; ++i) sum += parts[i * tile + thread];
            finish(thread, sum);
        }
        barrier();
    }

    // psi and its derivatives for h_L in `hidden`.
    FASTFLOW_DEVICE void output_map(const T* hidden) const {
        if (problem.out_activation == OutActivation::identity) return;
        const T* out_weight = flow.out_weight + potential * problem.width[depth];
        sum_rows(
            problem.width[depth], [&](int unit, int s) { return out_weight[unit] * hidden[unit * stride + s]; },
            [&](int s, T sum) {
                const Derivatives<T> psi = output_tanh(sum + flow.out_bias[potential]);
                psi1[s] = psi.first, psi2[s] = psi.second;
            });
    }

    FASTFLOW_DEVICE const T* bias(int l, int time) const {
        const std::int64_t slot = flow.slot_of[time * problem.num_potentials + potential];
        if (slot < 0 || slot >= problem.num_slots) stop();
        return flow.bias_jet[l] + slot * 3 * problem.width[l];
    }

    // The field at the points x: finish(dimension, position, its four values) by the thread that has computed them.
    template <class Finish>
    FASTFLOW_DEVICE void field(const T* x, int time, Finish finish) const {
        const T* h = x;
        for (int l = 1; l <= depth; ++l) {
            T *out = rows(plan.h[l]), *signal = rows_of_layer(plan.signal, l);
            const T *bias_row = bias(l, time), *out_weight = l < depth ? nullptr : flow.out_weight + potential * problem.width[l];
            product<false>(l, h, out, [&](int unit, int at) {
                Four<T> value = load4(out + at), slope;
                const T shift = bias_row[unit], scale = l < depth ? T(1) : out_weight[unit];
                for (int s = 0; s < 4; ++s) {
                    const Derivatives<T> sigma = activate(problem.activation, value.v[s] + shift);
                    value.v[s] = sigma.value, slope.v[s] = scale * sigma.first;
                }
                store4(out + at, value);
                store4(signal + at, slope);
            });
            barrier();
            h = out;
        }
        output_map(h);
        T* scratch = rows(plan.scratch);
        for (int l = depth; l >= 1; --l) {
            T* below = l > 1 ? rows_of_layer(plan.signal, l - 1) : nullptr;
            product<true>(l, rows_of_layer(plan.signal, l), scratch, [&](int unit, int at) {
                Four<T> value = load4(scratch + at);
                if (l > 1) {
                    const Four<T> slope = load4(below + at);
                    for (int s = 0; s < 4; ++s) value.v[s] *= slope.v[s];
                    store4(below + at, value);
                } else {
                    for (int s = 0; s < 4; ++s) value.v[s] *= flow.sign * psi1[column + s];
                    finish(unit, at, value);
                }
            });
            barrier();
        }
    }

    // Which of the method's times stage s of step n uses, how far along its slope the next stage stands, and its slope's weight.
    FASTFLOW_DEVICE int stage_time(int n, int s) const { return stages == 4 ? 2 * n + (s + 1) / 2 : n + s; }
    FASTFLOW_DEVICE T stage_step(int s) const { return stages == 4 && s < 2 ? flow.dt / 2 : flow.dt; }
    FASTFLOW_DEVICE T stage_weight(int s) const {
        return stages == 1 ? flow.dt : stages == 2 ? flow.dt / 2 : s == 0 || s == 3 ? flow.dt / 6 : flow.dt / 3;
    }

    // The increment of step n at the path's point is factor * increment; the stages' points are kept.
    FASTFLOW_DEVICE void make_increment(int n) const {
        T *point = rows(plan.point[0]), *increment = rows(plan.increment);
        for (int s = 0; s < stages; ++s) {
            T* next = s + 1 < stages ? rows(plan.point[s + 1]) : nullptr;
            field(rows(plan.point[s]), stage_time(n, s), [&](int, int at, const Four<T>& slope) {
                Four<T> sum = s == 0 ? Four<T>{} : load4(increment + at);
                for (int i = 0; i < 4; ++i) sum.v[i] += stage_weight(s) * slope.v[i];
                store4(increment + at, sum);
                if (next == nullptr) return;
                Four<T> moved_on = load4(point + at);
                for (int i = 0; i < 4; ++i) moved_on.v[i] += stage_step(s) * slope.v[i];
                store4(next + at, moved_on);
            });
        }
        if (flow.step_length < 0) return;
        sum_rows(
            dim, [&](int row, int s) { return increment[row * stride + s] * increment[row * stride + s]; },
            [&](int s, T square) { factor[s] = square > 0 ? flow.step_length / std::sqrt(square) : T(0); });
    }

    // Rows of this layout and a global array of samples, `pitch` apart: coalesced there. f(element in global memory's order,
    // its place in the rows, sample).
    template <class F>
    FASTFLOW_DEVICE void for_elements(F f) const {
        for (int s = warp; s < tile; s += warps)
            for (int i = lane; i < dim; i += warp_size) f(s, i, i * stride + s);
    }

    FASTFLOW_DEVICE void start_iterations() const {
        if (thread < tile) error[thread] = thread < samples ? T(1) : T(0);
        barrier();
    }

    // One fixed-point iteration: rows = proposal(row, sample) where the sample hasn't settled yet, which it has when it moves by
    // less than the tolerance relative to floor + its size. Leaves these movements in `error`; tells whether all have settled.
    template <class Proposal>
    FASTFLOW_DEVICE bool iterate(T* rows, T floor, Proposal proposal) const {
        sum_rows(
            dim,
            [&](int row, int s) {
                const T step = proposal(row * stride + s, s) - rows[row * stride + s];
                return step * step;
            },
            [&](int s, T square) { moved[s] = std::sqrt(square); });
        for_elements([&](int s, int, int at) {
            if (!(error[s] <= fixed_point_tolerance<T>)) rows[at] = proposal(at, s);
        });
        barrier();
        sum_rows(
            dim, [&](int row, int s) { return rows[row * stride + s] * rows[row * stride + s]; },
            [&](int s, T square) {
                if (!(error[s] <= fixed_point_tolerance<T>)) error[s] = moved[s] == 0 ? T(0) : moved[s] / (floor + std::sqrt(square));
            });
        bool settled = true;
        for (int s = 0; s < tile; ++s) settled = settled && error[s] <= fixed_point_tolerance<T>;
        barrier();
        return settled;
    }
};

}  // namespace fastflow::cuda
