// The path of each sample: explicit steps forward, or each step undone by a fixed-point iteration.
#pragma once

#include "cuda/tile.hpp"

namespace fastflow::cuda {

template <class T, bool state_in_shared>
struct Forward : Tile<T, state_in_shared> {
    using Base = Tile<T, state_in_shared>;
    using Base::flow, Base::problem, Base::plan, Base::rows, Base::stride, Base::tile, Base::dim, Base::samples, Base::thread, Base::factor;

    FASTFLOW_DEVICE Forward(const Flow<T>& flow_, T* shared) : Base(flow_, shared, flow_.workspace) {}

    FASTFLOW_DEVICE void run() {
        this->for_tiles([&](std::int64_t slot) {
            const bool other = this->locate(slot);
            if (samples == 0) {
                this->potential = -1;  // its weights haven't been loaded
                return;
            }
            if (other) this->load_weights();
            walk();
        });
    }

    FASTFLOW_DEVICE void walk() {
        T* point = rows(plan.point[0]);
        const bool reverse = problem.direction == Direction::reverse;
        barrier();
        this->for_elements([&](int s, int i, int at) {
            const T value = s < samples ? flow.z0[this->sample(s) * dim + i] : T(0);
            if (s < samples) flow.path[this->path_offset(s, 0) + i] = value;
            point[at] = value;
        });
        if (thread < tile) this->worst[thread] = 0;
        barrier();
        for (int n = 0; n < problem.steps; ++n) {
            if (reverse)
                step_back(n);
            else
                step_on(n);
        }
        if (thread < samples) flow.error[this->sample(thread)] = this->worst[thread];
    }

    FASTFLOW_DEVICE void step_on(int n) {
        this->make_increment(n);
        T *point = rows(plan.point[0]), *increment = rows(plan.increment);
        this->for_elements([&](int s, int i, int at) {
            point[at] += factor[s] * increment[at];
            if (s < samples) flow.path[this->path_offset(s, n + 1) + i] = point[at];
        });
        barrier();
    }

    // z from z + increment(z) = end, the n-th time.
    FASTFLOW_DEVICE void step_back(int n) {
        T *point = rows(plan.point[0]), *increment = rows(plan.increment), *end = rows(plan.end);
        this->for_elements([&](int, int, int at) { end[at] = point[at]; });
        this->start_iterations();
        for (int iteration = 0; iteration < most_iterations; ++iteration) {
            this->make_increment(problem.steps - 1 - n);
            if (this->iterate(point, T(1), [&](int at, int s) { return end[at] - factor[s] * increment[at]; })) break;
        }
        this->for_elements([&](int s, int i, int at) {
            if (s < samples) flow.path[this->path_offset(s, n + 1) + i] = point[at];
        });
        if (thread < tile && !(this->error[thread] <= this->worst[thread])) this->worst[thread] = this->error[thread];
        barrier();
    }
};

}  // namespace fastflow::cuda
