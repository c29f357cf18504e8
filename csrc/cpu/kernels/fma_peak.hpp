// The machine's limit, measured: the yardstick of every "fraction of peak" in the benchmarks.
#pragma once

#include "cpu/kernels/isa.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// Floating-point operations per second of one thread that does nothing but multiply-adds on registers (two operations
// each): the best of many short repetitions within about `seconds` of the thread's CPU time. T is float or double.
template <class T>
double fma_peak(double seconds);

}  // namespace fastflow::cpu::FASTFLOW_ISA
