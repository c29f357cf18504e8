// The engine's calls. Arguments are taken to be valid.
#pragma once

#include "cpu/calls.hpp"

namespace fastflow::cpu {

// Jets, their backward, or residuals at `count` points. Fills in the call's order, runs and loss scale. The result is the
// mean of the squared residuals (0 for jets); `loss_bar` is its cotangent.
template <class T>
double run_points(PointCall<T> call, std::int64_t count, const std::int64_t* index, double loss_bar, int threads);

// Flows from `count` points, or their backward. Fills in the call's order and loss scale. The result is the mean over samples
// and steps of the squared residuals (0 without coefficients); `loss_bar` is its cotangent.
template <class T>
double run_flow(FlowCall<T> call, std::int64_t count, const std::int64_t* index, double loss_bar, int threads);

}  // namespace fastflow::cpu
