// The CUDA integrator on the host: the kernels' own code, with a block's threads as fibers that run one after another from
// barrier to barrier. Which one goes first is chosen by the stream's number: 0 the first, 1 the last, from 2 on a shuffle. Code
// that lacks a barrier gives other results in another order. Shared memory and workspace start as NaN.
#include <ucontext.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda/backward.hpp"
#include "cuda/forward.hpp"
#include "cuda/launch.hpp"

namespace fastflow::cuda {
namespace {

constexpr std::size_t stack_bytes = 64 * 1024;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    bool done;
};

struct Machine {
    ucontext_t scheduler;
    std::vector<Fiber> fibers;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    int thread = 0, threads = 0;
    std::int64_t block = 0, blocks = 0;
    bool stopped = false;
};

Machine machine;

// Gives its turn to the scheduler.
void leave() { swapcontext(&machine.fibers[machine.thread].context, &machine.scheduler); }

void leave_for_good() {
    machine.fibers[machine.thread].done = true;
    leave();
}

void enter() {
    machine.body(machine.argument);
    leave_for_good();
}

// Runs `body` on every thread of every block.
template <class Body>
void run(std::int64_t blocks, int threads, std::uintptr_t order_number, Body body) {
    std::vector<int> order(threads);
    std::iota(order.begin(), order.end(), 0);
    if (order_number == 1) std::reverse(order.begin(), order.end());
    std::mt19937 generator(static_cast<unsigned>(order_number));
    machine.fibers.resize(std::max<std::size_t>(machine.fibers.size(), threads));
    machine.stopped = false;
    machine.argument = &body, machine.threads = threads, machine.blocks = blocks;
    machine.body = [](void* argument) { (*static_cast<Body*>(argument))(); };
    for (machine.block = 0; machine.block < blocks; ++machine.block) {
        for (int thread = 0; thread < threads; ++thread) {
            Fiber& fiber = machine.fibers[thread];
            fiber.done = false;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = stack_bytes;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, enter, 0);
        }
        for (int running = threads; running > 0;) {
            if (order_number > 1) std::shuffle(order.begin(), order.end(), generator);
            for (const int thread : order) {
                if (machine.fibers[thread].done) continue;
                machine.thread = thread;
                swapcontext(&machine.scheduler, &machine.fibers[thread].context);
                running -= machine.fibers[thread].done;
            }
        }
    }
    if (machine.stopped) throw std::runtime_error("the kernel stopped");
}

// Fewer threads than a device's block has, so that tests are quick and threads take several turns; from 3 on as many as there.
int emulated_threads(const Plan& plan, std::uintptr_t order) { return order < 3 ? 64 : plan.threads; }

template <class T, template <class, bool> class Kernel>
void run_kernel(const Flow<T>& flow, std::uintptr_t order) {
    // Exactly as much as the plan asks for: a sanitizer sees what reaches beyond it.
    const std::size_t elements = flow.plan.shared_bytes / sizeof(T);
    const std::unique_ptr<T[]> shared(new T[elements]);
    std::fill_n(flow.workspace, flow.plan.workspace_elements, std::numeric_limits<T>::quiet_NaN());
    std::int64_t filled_for = -1;
    run(flow.plan.blocks, emulated_threads(flow.plan, order), order, [&] {
        if (filled_for != block_index()) std::fill_n(shared.get(), elements, std::numeric_limits<T>::quiet_NaN());
        filled_for = block_index();
        flow.plan.state_in_shared ? Kernel<T, true>(flow, shared.get()).run() : Kernel<T, false>(flow, shared.get()).run();
    });
}

}  // namespace

int thread_index() { return machine.thread; }
int thread_count() { return machine.threads; }
std::int64_t block_index() { return machine.block; }
std::int64_t block_count() { return machine.blocks; }
void barrier() { leave(); }
void stop() {
    machine.stopped = true;
    leave_for_good();
}

template <class T>
void launch_flow(const Flow<T>& flow, void* stream) {
    run_kernel<T, Forward>(flow, reinterpret_cast<std::uintptr_t>(stream));
}

template <class T>
void launch_flow_backward(const Flow<T>& flow, void* stream) {
    const std::uintptr_t order = reinterpret_cast<std::uintptr_t>(stream);
    run_kernel<T, Backward>(flow, order);
    const int threads = emulated_threads(flow.plan, order);
    run(3, threads, order, [&] { reduce_weights(flow); });
    run(3, threads, order, [&] { reduce_biases(flow); });
}

template void launch_flow(const Flow<float>&, void*);
template void launch_flow(const Flow<double>&, void*);
template void launch_flow_backward(const Flow<float>&, void*);
template void launch_flow_backward(const Flow<double>&, void*);

std::string compiler() { return "the host's"; }
std::string architectures() { return "emulated"; }

}  // namespace fastflow::cuda
