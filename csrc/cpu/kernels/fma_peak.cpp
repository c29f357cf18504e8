#include "cpu/kernels/fma_peak.hpp"

#include <time.h>

namespace fastflow::cpu::FASTFLOW_ISA {
namespace {

// A multiply-add waits for the one before it in its chain, so enough chains must be under way to fill every unit at every
// cycle: latency 4 times two units is 8 on today's processors. As many as fit in the registers, beside the two factors;
// and not more than 24, which leaves some for the compiler.
constexpr int chains = vector_registers == 16 ? 12 : 24;

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(vector_bytes)));
};

// Runs every chain x <- x * scale + shift for `steps` steps and returns a sum that keeps the compiler from dropping them.
// It must not know the factors: of a chain that starts at its fixed point it would compute nothing.
// The loops over chains must be unrolled, or the chains live in memory and not in registers.
template <class T>
__attribute__((noinline)) T run_chains(long steps, T scale, T shift) {
    using V = typename Vector<T>::type;
    const V scales = scale - V{};
    const V shifts = shift - V{};
    V x[chains];
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) x[i] = static_cast<T>(i) - V{};
    for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 24
        for (int i = 0; i < chains; ++i) x[i] = x[i] * scales + shifts;
    }
    V sum{};
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) sum += x[i];
    return sum[0];
}

// CPU time of this thread: on a shared machine, time given to others doesn't count.
double thread_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

template <class T>
double fma_peak(double seconds) {
    constexpr long steps = 200000;  // about a quarter of a millisecond: short beside a scheduler's slice
    constexpr double operations = 2.0 * steps * chains * (vector_bytes / sizeof(T));
    volatile T sink, scale = T(0.5), shift = T(1);  // converges to 2: no overflow, no denormals
    double best = 0;
    const double start = thread_seconds();
    double end;
    do {
        const double before = thread_seconds();
        sink = run_chains<T>(steps, scale, shift);
        end = thread_seconds();
        const double rate = operations / (end - before);
        if (rate > best) best = rate;
    } while (end - start < seconds);
    (void)sink;
    return best;
}

template double fma_peak<float>(double);
template double fma_peak<double>(double);

}  // namespace fastflow::cpu::FASTFLOW_ISA
