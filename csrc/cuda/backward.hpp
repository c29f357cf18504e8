// The discrete adjoint: back along the path, each step's stages computed again, gradients gathered in the block's own part of
// the workspace and summed over blocks, in a fixed order, by the functions at the end.
#pragma once

#include "cuda/tile.hpp"

namespace fastflow::cuda {

template <class T, bool state_in_shared>
struct Backward : Tile<T, state_in_shared> {
    using Base = Tile<T, state_in_shared>;
    using Base::flow, Base::problem, Base::plan, Base::rows, Base::rows_of_layer, Base::stride, Base::tile, Base::dim, Base::depth, Base::stages;
    using Base::samples, Base::thread, Base::threads, Base::lane, Base::warp, Base::warps, Base::column, Base::potential, Base::factor;
    T* partial = nullptr;  // the gradients of this potential from this block
    T* v_bar;              // per sample: the cotangent of w . h_L + c

    FASTFLOW_DEVICE Backward(const Flow<T>& flow_, T* shared)
        : Base(flow_, shared, flow_.workspace + (flow_.plan.blocks + flow_.problem.num_potentials) * flow_.plan.partial_elements),
          v_bar(this->moved) {}

    FASTFLOW_DEVICE void run() {
        this->for_tiles([&](std::int64_t slot) {
            if (this->locate(slot)) begin_potential();
            if (samples > 0) walk();
        });
    }

    FASTFLOW_DEVICE void begin_potential() {
        partial = flow.workspace + (block_index() + potential) * plan.partial_elements;
        for (std::int64_t i = thread; i < plan.partial_elements; i += threads) partial[i] = 0;
        this->load_weights();
        barrier();
    }

    FASTFLOW_DEVICE void add_path_bar(int n, T* to) const {
        this->for_elements([&](int s, int i, int at) {
            if (s < samples) to[at] += flow.path_bar[this->path_offset(s, n) + i];
        });
    }

    FASTFLOW_DEVICE void walk() {
        T *point = rows(plan.point[0]), *adjoint = rows(plan.adjoint), *increment_bar = rows(plan.increment_bar);
        const bool reverse = problem.direction == Direction::reverse;
        barrier();
        this->for_elements([&](int, int, int at) { adjoint[at] = 0; });
        for (int m = problem.steps; m > 0; --m) {
            const int n = reverse ? problem.steps - m : m - 1;  // the step between these two points
            add_path_bar(m, adjoint);
            this->for_elements([&](int s, int i, int at) { point[at] = s < samples ? flow.path[this->path_offset(s, reverse ? m : n) + i] : T(0); });
            barrier();
            if (stages > 1 || flow.step_length >= 0) this->make_increment(n);
            if (reverse) {
                undo_backward(n);
            } else {
                this->for_own_units(dim, [&](int, int at) { store4(increment_bar + at, load4(adjoint + at)); });
                increment_backward(n, adjoint, true);
            }
        }
        add_path_bar(0, adjoint);
        this->for_elements([&](int s, int i, int at) {
            if (s < samples) flow.z0_bar[this->sample(s) * dim + i] = adjoint[at];
        });
    }

    // By the implicit function theorem: with J the increment's Jacobian, a cotangent g of the point becomes the solution of
    // mu = g - J^T mu; mu is what the step's end gets, and the parameters get -mu times the increment's derivative.
    FASTFLOW_DEVICE void undo_backward(int n) {
        T *mu = rows(plan.adjoint), *given = rows(plan.given), *trial = rows(plan.trial), *increment_bar = rows(plan.increment_bar);
        this->for_own_units(dim, [&](int, int at) { store4(given + at, load4(mu + at)); });
        this->start_iterations();
        bool settled = false;
        for (int iteration = 0; iteration <= most_iterations; ++iteration) {
            const bool last = settled || iteration == most_iterations;
            this->for_own_units(dim, [&](int, int at) {
                Four<T> bar = load4(mu + at);
                for (int s = 0; s < 4; ++s) bar.v[s] = -bar.v[s];
                store4(increment_bar + at, bar);
                store4(trial + at, load4(given + at));
            });
            increment_backward(n, trial, last);
            if (last) return;
            settled = this->iterate(mu, T(0), [&](int at, int) { return trial[at]; });
        }
    }

    // Adds to `sum` the cotangent of the point, for increment_bar, which changes.
    FASTFLOW_DEVICE void increment_backward(int n, T* sum, bool accumulate) {
        T *increment_bar = rows(plan.increment_bar), *stage_bar = rows(plan.stage_bar), *z_bar = rows(plan.scratch);
        if (flow.step_length >= 0) normalisation_backward(increment_bar);
        for (int s = stages - 1; s >= 0; --s) {
            this->for_own_units(dim, [&](int, int at) {
                const Four<T> bar = load4(increment_bar + at);
                Four<T> through = {};
                if (s < stages - 1) through = load4(z_bar + at);
                for (int i = 0; i < 4; ++i)
                    through.v[i] = flow.sign * (this->stage_weight(s) * bar.v[i] + (s < stages - 1 ? this->stage_step(s) * through.v[i] : T(0)));
                store4(stage_bar + at, through);
            });
            field_backward(rows(plan.point[s]), this->stage_time(n, s), accumulate);
            this->for_own_units(dim, [&](int, int at) {
                Four<T> total = load4(sum + at);
                const Four<T> bar = load4(z_bar + at);
                for (int i = 0; i < 4; ++i) total.v[i] += bar.v[i];
                store4(sum + at, total);
            });
        }
        barrier();
    }

    // increment = step_length m / |m|, to the cotangent of m.
    FASTFLOW_DEVICE void normalisation_backward(T* bar) {
        const T *increment = rows(plan.increment), length = flow.step_length;
        barrier();
        this->sum_rows(
            dim, [&](int row, int s) { return bar[row * stride + s] * factor[s] * increment[row * stride + s]; },
            [&](int s, T sum) { this->moved[s] = length > 0 ? sum / (length * length) : T(0); });
        this->for_own_units(dim, [&](int, int at) {
            Four<T> value = load4(bar + at);
            const Four<T> move = load4(increment + at);
            for (int i = 0; i < 4; ++i) {
                const T scale = factor[column + i];
                value.v[i] = scale * (value.v[i] - this->moved[column + i] * scale * move.v[i]);
            }
            store4(bar + at, value);
        });
        barrier();
    }

    // The cotangent of the points x into scratch, for that of the field there in stage_bar. With e_l = sigma'(a_l) delta_l,
    // delta_l = du/dh_l: forward, gradient pass, back up through the gradient pass, back down through the forward pass.
    FASTFLOW_DEVICE void field_backward(const T* x, int time, bool accumulate) {
        T *scratch = rows(plan.scratch), *stage_bar = rows(plan.stage_bar);
        const bool mapped = problem.out_activation == OutActivation::tanh;
        const T* out_weight = flow.out_weight + potential * problem.width[depth];

        for (int l = 1; l <= depth; ++l) {
            const T *in = l > 1 ? rows(plan.h[l - 1]) : x, *bias_row = this->bias(l, time);
            T *h = rows(plan.h[l]), *sigma1 = rows_of_layer(plan.sigma1, l), *curvature = rows_of_layer(plan.curvature, l);
            T* signal = rows_of_layer(plan.signal, l);
            this->template product<false>(l, in, h, [&](int unit, int at) {
                Four<T> value = load4(h + at), first, second, through;
                const T shift = bias_row[unit], scale = l < depth ? T(1) : out_weight[unit];
                for (int s = 0; s < 4; ++s) {
                    const Derivatives<T> sigma = activate(problem.activation, value.v[s] + shift);
                    value.v[s] = sigma.value, first.v[s] = sigma.first, second.v[s] = scale * sigma.second;
                    through.v[s] = scale * sigma.first;
                }
                store4(h + at, value), store4(sigma1 + at, first), store4(curvature + at, second), store4(signal + at, through);
            });
            barrier();
        }
        this->output_map(rows(plan.h[depth]));

        // The gradient itself is needed only where psi bends.
        for (int l = depth; l > (mapped ? 0 : 1); --l) {
            T *signal = rows_of_layer(plan.signal, l - 1), *sigma1 = rows_of_layer(plan.sigma1, l - 1),
              *curvature = rows_of_layer(plan.curvature, l - 1);
            this->template product<true>(l, rows_of_layer(plan.signal, l), scratch, [&](int, int at) {
                if (l == 1) return;
                const Four<T> delta = load4(scratch + at), first = load4(sigma1 + at);
                Four<T> second = load4(curvature + at), through;
                for (int s = 0; s < 4; ++s) through.v[s] = delta.v[s] * first.v[s], second.v[s] *= delta.v[s];
                store4(signal + at, through), store4(curvature + at, second);
            });
            barrier();
        }
        if (mapped) {
            this->sum_rows(
                dim, [&](int row, int s) { return stage_bar[row * stride + s] * scratch[row * stride + s]; },
                [&](int s, T sum) { v_bar[s] = this->psi2[s] * sum; });
            this->for_own_units(dim, [&](int, int at) {
                Four<T> bar = load4(stage_bar + at);
                for (int s = 0; s < 4; ++s) bar.v[s] *= this->psi1[column + s];
                store4(stage_bar + at, bar);
            });
        } else if (thread < tile) {
            v_bar[thread] = 0;
        }
        barrier();

        for (int l = 1; l <= depth; ++l) {
            const T *in = delta_bar_below(l), *sigma1 = rows_of_layer(plan.sigma1, l);
            T *delta_bar = rows_of_layer(plan.delta_bar, l), *curvature = rows_of_layer(plan.curvature, l);
            this->template product<false>(l, in, delta_bar, [&](int unit, int at) {
                Four<T> bar = load4(delta_bar + at), a_bar = load4(curvature + at);
                const Four<T> first = load4(sigma1 + at);
                const T last = l < depth ? T(0) : out_weight[unit];
                for (int s = 0; s < 4; ++s) {
                    a_bar.v[s] = a_bar.v[s] * bar.v[s] + v_bar[column + s] * last * first.v[s];
                    bar.v[s] *= first.v[s];
                }
                store4(delta_bar + at, bar), store4(curvature + at, a_bar);
            });
            barrier();
        }

        if (accumulate) add_outputs();
        for (int l = depth; l >= 1; --l) {
            T *a_bar = rows_of_layer(plan.curvature, l), *below = rows_of_layer(plan.curvature, l > 1 ? l - 1 : 1),
              *sigma1 = rows_of_layer(plan.sigma1, l > 1 ? l - 1 : 1);
            if (accumulate) {
                add_weights(l, a_bar, l > 1 ? rows(plan.h[l - 1]) : x);
                add_biases(l, a_bar, time);
            }
            this->template product<true>(l, a_bar, scratch, [&](int, int at) {
                if (l == 1) return;
                const Four<T> bar = load4(scratch + at), first = load4(sigma1 + at);
                Four<T> sum = load4(below + at);
                for (int s = 0; s < 4; ++s) sum.v[s] += bar.v[s] * first.v[s];
                store4(below + at, sum);
            });
            barrier();
        }
    }

    FASTFLOW_DEVICE const T* delta_bar_below(int l) const { return l > 1 ? rows_of_layer(plan.delta_bar, l - 1) : rows(plan.stage_bar); }

    // The output unit: w is du/dh_L itself, up to psi', and multiplies h_L.
    FASTFLOW_DEVICE void add_outputs() const {
        const T *delta_bar = rows_of_layer(plan.delta_bar, depth), *h = rows(plan.h[depth]);
        for (int unit = thread; unit < problem.width[depth]; unit += threads) {
            T sum = 0;
            for (int s = 0; s < tile; s += 4) {
                const Four<T> bar = load4(delta_bar + unit * stride + s), value = load4(h + unit * stride + s);
                for (int i = 0; i < 4; ++i) sum += bar.v[i] + v_bar[s + i] * value.v[i];
            }
            partial[plan.partial_out_weight + unit] += sum;
        }
        if (thread > 0) return;
        T sum = 0;
        for (int s = 0; s < tile; ++s) sum += v_bar[s];
        partial[plan.partial_out_bias] += sum;
    }

    FASTFLOW_DEVICE void add_biases(int l, const T* a_bar, int time) const {
        T* out = partial + plan.partial_bias + static_cast<std::int64_t>(time) * problem.units + problem.first_unit[l];
        for (int unit = thread; unit < problem.width[l]; unit += threads) {
            T sum = 0;
            for (int s = 0; s < tile; s += 4) {
                const Four<T> bar = load4(a_bar + unit * stride + s);
                for (int i = 0; i < 4; ++i) sum += bar.v[i];
            }
            out[unit] += sum;
        }
    }

    // W_l's gradient c_l delta_bar_{l-1}^T + a_bar_l h_{l-1}^T: a thread has four rows and every 32nd of some columns.
    FASTFLOW_DEVICE void add_weights(int l, const T* a_bar, const T* h) const {
        constexpr int down = 4, across = sizeof(T) == 4 ? 4 : 2;
        const int width = problem.width[l], columns = problem.width[l - 1];
        const T *signal = rows_of_layer(plan.signal, l), *delta_bar = delta_bar_below(l);
        T* out = partial + plan.partial_weight[l];
        for (int row = down * warp; row < width; row += down * warps)
            for (int first = lane; first < columns; first += across * warp_size) {
                T sum[down][across];
#pragma unroll
                for (int r = 0; r < down; ++r)
#pragma unroll
                    for (int q = 0; q < across; ++q) {
                        const bool inside = row + r < width && first + q * warp_size < columns;
                        sum[r][q] = inside ? out[static_cast<std::int64_t>(row + r) * columns + first + q * warp_size] : T(0);
                    }
                add_outer<down, across>(signal, row, width, delta_bar, first, columns, sum);
                add_outer<down, across>(a_bar, row, width, h, first, columns, sum);
#pragma unroll
                for (int r = 0; r < down; ++r)
#pragma unroll
                    for (int q = 0; q < across; ++q)
                        if (row + r < width && first + q * warp_size < columns)
                            out[static_cast<std::int64_t>(row + r) * columns + first + q * warp_size] = sum[r][q];
            }
    }

    template <int down, int across>
    FASTFLOW_DEVICE void add_outer(const T* left, int row, int width, const T* right, int first, int columns, T (&sum)[down][across]) const {
        for (int s = 0; s < tile; s += 4) {
            Four<T> a[down];
#pragma unroll
            for (int r = 0; r < down; ++r) a[r] = load4(left + smaller(row + r, width - 1) * stride + s);
#pragma unroll
            for (int q = 0; q < across; ++q) {
                const Four<T> b = load4(right + smaller(first + q * warp_size, columns - 1) * stride + s);
#pragma unroll
                for (int r = 0; r < down; ++r)
#pragma unroll
                    for (int i = 0; i < 4; ++i) sum[r][q] += a[r].v[i] * b.v[i];
            }
        }
    }
};

// The blocks that have gradients of potential k are those between its first and its last tile slot.
template <class T>
FASTFLOW_DEVICE T sum_partials(const Flow<T>& flow, std::int64_t k, std::int64_t element) {
    const Plan& plan = flow.plan;
    const std::int64_t first = (flow.offsets[k] >> plan.tile_shift) + k, end = (flow.offsets[k + 1] >> plan.tile_shift) + k + 1;
    T sum = 0;
    for (std::int64_t block = first / plan.tiles_per_block; block <= (end - 1) / plan.tiles_per_block; ++block)
        sum += flow.workspace[(block + k) * plan.partial_elements + element];
    return sum;
}

// Gradients of the weights and the output unit.
template <class T>
FASTFLOW_DEVICE void reduce_weights(const Flow<T>& flow) {
    const Problem& problem = flow.problem;
    const std::int64_t each = flow.plan.partial_bias, total = problem.num_potentials * each;
    for (std::int64_t i = block_index() * thread_count() + thread_index(); i < total; i += block_count() * thread_count()) {
        const std::int64_t k = i / each, element = i % each;
        const T sum = sum_partials(flow, k, element);
        if (element == flow.plan.partial_out_bias) {
            flow.out_bias_bar[k] = sum;
        } else if (element >= flow.plan.partial_out_weight) {
            flow.out_weight_bar[k * problem.width[problem.depth] + element - flow.plan.partial_out_weight] = sum;
        } else {
            int l = problem.depth;
            while (element < flow.plan.partial_weight[l]) --l;
            const std::int64_t size = static_cast<std::int64_t>(problem.width[l]) * problem.width[l - 1];
            flow.weight_bar[l][k * size + element - flow.plan.partial_weight[l]] = sum;
        }
    }
}

// Gradients of the bias jets: a row sums those of all (time, potential) that name it.
template <class T>
FASTFLOW_DEVICE void reduce_biases(const Flow<T>& flow) {
    const Problem& problem = flow.problem;
    const std::int64_t total = problem.num_slots * problem.units;
    for (std::int64_t i = block_index() * thread_count() + thread_index(); i < total; i += block_count() * thread_count()) {
        const std::int64_t slot = i / problem.units;
        const int unit = static_cast<int>(i % problem.units);
        T sum = 0;
        for (std::int64_t entry = flow.slot_offsets[slot]; entry < flow.slot_offsets[slot + 1]; ++entry) {
            const std::int64_t time = flow.slot_order[entry] / problem.num_potentials, k = flow.slot_order[entry] % problem.num_potentials;
            sum += sum_partials(flow, k, flow.plan.partial_bias + time * problem.units + unit);
        }
        int l = problem.depth;
        while (unit < problem.first_unit[l]) --l;
        T* row = flow.bias_jet_bar[l] + slot * 3 * problem.width[l] + unit - problem.first_unit[l];
        row[0] = sum, row[problem.width[l]] = 0, row[2 * problem.width[l]] = 0;
    }
}

}  // namespace fastflow::cuda
