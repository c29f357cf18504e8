// A small persistent pool of threads. Tasks are handed out one by one, so which thread runs a task is open; what a task
// computes must not depend on it.
#pragma once

#include <cstdint>
#include <functional>

namespace fastflow::cpu {

// Runs task(i, worker) for 0 <= i < count on up to `threads` threads, this one included (worker 0), and waits for all of
// them. Tasks must not throw. While another thread of the process uses the pool, everything runs on this one.
void parallel_for(int threads, std::int64_t count, const std::function<void(std::int64_t, int)>& task);

}  // namespace fastflow::cpu
