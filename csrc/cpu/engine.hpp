// The engine's calls: partition, pack, run the chunks on the pool, reduce. Arguments are taken to be valid.
#pragma once

#include "tasks.hpp"

namespace fastflow::cpu {

// Jets, their backward, or residuals at `count` points. Fills in the call's order, runs and loss scale. The result is the
// mean of the squared residuals (0 for jets); `loss_bar` is its cotangent.
template <class T>
double run_points(PointCall<T> call, std::int64_t count, const std::int64_t* index, double loss_bar, int threads);

}  // namespace fastflow::cpu
